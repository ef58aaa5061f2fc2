"""Everything that can change between stop and resume: named and refused, or accepted and kept."""

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import nibabel
import numpy as np
import pytest
import torch
import yaml
from rich.console import Console

from patchcl.config import load_settings
from patchcl.core.errors import UserError
from patchcl.data.splits import Split, load_split, save_split
from patchcl.runs.folder import RunFolder
from patchcl.training.experiment import resume, start


class Stopped(NamedTuple):
    """A run and its data, all of it a copy to be changed."""

    run: RunFolder
    data: Path
    split: Split

    def mask(self, patient: str) -> Path:
        return next((self.data / "labelsTr").glob(f"{patient}_*"))

    def image(self, patient: str, folder: str = "imagesTr") -> Path:
        return next((self.data / folder).glob(f"{patient}_*"))

    def edit(self, path: Path, key: str, value: object) -> None:
        """Set a dotted key of a YAML file."""
        tree = yaml.safe_load(path.read_text())
        *groups, leaf = key.split(".")
        below = tree
        for group in groups:
            below = below[group]
        below[leaf] = value
        path.write_text(yaml.safe_dump(tree, sort_keys=False))

    def resume(self, accept: bool = False) -> str:
        console = Console(record=True, width=400, file=open(os.devnull, "w"))  # noqa: SIM115, PTH123
        with console.file:
            resume(self.run.root, console, accept)
            return console.export_text()


@pytest.fixture(scope="module")
def original(cardiac, tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("original")
    shutil.copytree(cardiac, root / "data")
    tiny = ("plan.size=[32, 32]", "plan.fit=resize", "network.features=[4, 8]", "training.steps=2")
    tiny += ("training.labeled_per_batch=2", "training.unlabeled_per_batch=2", "training.device=cpu")
    start(root / "data", root / "run", load_settings(None, [*tiny, "method.name=mean_teacher"]), Console(quiet=True))
    return root


@pytest.fixture
def stopped(original, tmp_path) -> Stopped:
    root = shutil.copytree(original, tmp_path / "copy")
    run = RunFolder(root / "run")
    settings = run.settings.read_text().replace(str(original), str(root))
    run.settings.write_text(settings)
    return Stopped(run, root / "data", load_split(run.split))


def flip(path: Path, keep_time: bool = False) -> None:
    """Other voxels in a file of the same grid; of the same size and time if that is asked for."""
    image, stat = nibabel.load(path), path.stat()
    voxels = np.asarray(image.dataobj)[::-1].copy()
    nibabel.save(nibabel.Nifti1Image(voxels, image.affine, image.header), path)
    if keep_time:
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def remove(*paths: Path) -> None:
    for path in paths:
        path.unlink()


def rename_class(stopped: Stopped) -> None:
    path = stopped.data / "dataset.json"
    path.write_text(path.read_text().replace('"LV"', '"ventricle"'))


def swap_split(stopped: Stopped) -> None:
    split = stopped.split
    first, chosen = split.labeled[0], split.validation[0]
    labeled, validation = (chosen, *split.labeled[1:]), (first, *split.validation[1:])
    save_split(stopped.run.split, split.model_copy(update={"labeled": labeled, "validation": validation}))


def flip_masks(stopped: Stopped) -> None:
    for patient in (stopped.split.labeled[0], stopped.split.validation[0]):
        flip(stopped.mask(patient))


Change = Callable[[Stopped], object]
CHANGES: dict[str, tuple[Change, str]] = {
    "labeled image": (lambda s: flip(s.image(s.split.labeled[0])), r"imagesTr/\S+ was replaced"),
    "labeled mask": (lambda s: flip(s.mask(s.split.labeled[0])), r"labelsTr/\S+ was replaced"),
    "mask, time as it was": (lambda s: flip(s.mask(s.split.labeled[0]), True), r"labelsTr/\S+ was replaced"),
    "validation image": (lambda s: flip(s.image(s.split.validation[0])), r"imagesTr/\S+ was replaced"),
    "validation mask": (lambda s: flip(s.mask(s.split.validation[0])), r"labelsTr/\S+ was replaced"),
    "unlabeled image": (lambda s: flip(s.image(s.split.unlabeled[0], "imagesUn")), r"imagesUn/\S+ was replaced"),
    "two masks": (flip_masks, r"labelsTr/\S+ was replaced\n  labelsTr/\S+ was replaced"),
    "mask removed": (lambda s: remove(s.mask(s.split.labeled[0])), r"labelsTr/\S+ is gone"),
    "case removed": (
        lambda s: remove(s.mask(s.split.labeled[0]), s.image(s.split.labeled[0])),
        r"imagesTr/\S+ is gone\n  labelsTr/\S+ is gone",
    ),
    "unlabeled removed": (lambda s: remove(s.image(s.split.unlabeled[0], "imagesUn")), r"imagesUn/\S+ is gone"),
    "classes renamed": (rename_class, "classes were background, RV, MYO, LV, now background, RV, MYO, ventricle"),
    "split": (swap_split, "the split: who is on which side"),
    "seed": (lambda s: s.edit(s.run.settings, "training.seed", 7), "training.seed was 0, now 7"),
    "batch": (lambda s: s.edit(s.run.settings, "training.labeled_per_batch", 3), "labeled_per_batch was 2, now 3"),
    "of the method": (lambda s: s.edit(s.run.settings, "method.teacher_decay", 0.5), "teacher_decay was .*, now 0.5"),
    "method": (lambda s: s.edit(s.run.settings, "method", {"name": "supervised"}), "name was mean_teacher, now super"),
    "augmentation": (lambda s: s.edit(s.run.settings, "augment.rotate_degrees", 1.0), "rotate_degrees was"),
    "plan": (lambda s: s.edit(s.run.plan, "normalise", "z_score"), "plan: normalise was .*, now z_score"),
    "size": (lambda s: s.edit(s.run.plan, "size", [16, 16]), r"plan: size was \[32, 32\], now \[16, 16\]"),
}
FIXED: dict[str, tuple[Change, str]] = {
    "steps": (lambda s: s.edit(s.run.settings, "training.steps", 9), "training.steps was 2, now 9"),
    "learning rate": (lambda s: s.edit(s.run.settings, "training.learning_rate", 0.5), "learning_rate was 0.001"),
    "optimizer": (lambda s: s.edit(s.run.settings, "training.optimizer", "sgd"), "optimizer was adamw, now sgd"),
}
UNFIT: dict[str, tuple[Change, str]] = {
    "network": (lambda s: s.edit(s.run.settings, "network.features", [4, 16]), r"last\.ckpt does not fit the network"),
}


def test_a_run_whose_data_and_settings_are_as_they_were_goes_on(stopped):
    for path in stopped.data.rglob("*.nii.gz"):
        os.utime(path)  # touched, and moved to another folder, but with the same bytes
    assert stopped.resume() == ""


@pytest.mark.parametrize(("change", "message"), [*CHANGES.values(), *UNFIT.values()], ids=[*CHANGES, *UNFIT])
def test_what_changed_is_named_and_refused(change, message, stopped):
    change(stopped)
    before = stopped.run.contents.read_bytes()
    with pytest.raises(UserError, match=r"--accept-changes$") as told:
        stopped.resume()
    assert re.search(message, str(told.value)) or change in [unfit for unfit, _ in UNFIT.values()]
    assert stopped.run.contents.read_bytes() == before


@pytest.mark.parametrize("name", ["mask, time as it was", "seed", "unlabeled removed", "split", "plan"])
def test_what_is_accepted_is_kept_and_asked_for_once(name, stopped):
    change, message = CHANGES[name]
    change(stopped)
    stopped.resume(accept=True)
    (line, *_) = json.loads(stopped.run.provenance.read_text())["accepted_changes"]
    assert re.search(message, line)
    assert stopped.resume() == ""


@pytest.mark.parametrize(("change", "message"), FIXED.values(), ids=list(FIXED))
@pytest.mark.parametrize("accept", [False, True])
def test_what_the_optimizer_holds_cannot_change_within_a_run(change, message, accept, stopped):
    change(stopped)
    with pytest.raises(UserError, match=rf"{message}.*cannot change within a run"):
        stopped.resume(accept)


@pytest.mark.parametrize(("change", "message"), UNFIT.values(), ids=list(UNFIT))
def test_another_network_is_never_loaded_into(change, message, stopped):
    change(stopped)
    with pytest.raises(UserError, match=message):
        stopped.resume(accept=True)


def test_another_optimizer_is_never_loaded_into(stopped):
    """Where nothing tells that it was changed: the run kept no hashes."""
    stopped.run.contents.unlink()
    stopped.edit(stopped.run.settings, "training.optimizer", "sgd")
    with pytest.raises(UserError, match=r"last\.ckpt does not fit .*the optimizer differs"):
        stopped.resume()


def test_a_run_of_version_0_1_goes_on_and_says_that_it_kept_no_hashes(stopped):
    before = stopped.run.contents.read_bytes()
    stopped.run.contents.unlink()
    assert stopped.resume().count("kept no hashes") == 1
    assert stopped.run.contents.read_bytes() == before
    assert stopped.resume() == ""


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"files": 1}', "[" * 100_000])
def test_damaged_hashes_are_one_message_and_can_be_accepted(content, stopped):
    before = stopped.run.contents.read_bytes()
    stopped.run.contents.write_text(content)
    with pytest.raises(UserError, match=r"contents\.json cannot be read, .*--accept-changes"):
        stopped.resume()
    stopped.resume(accept=True)
    assert stopped.run.contents.read_bytes() == before


def damage(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])


def test_damaged_prepared_images_are_made_anew_and_training_is_the_same(stopped, original, tmp_path):
    images = sorted((original / "prepared").rglob("*.image-*.npy"))
    assert images
    cache = shutil.copytree(original / "prepared", tmp_path / "cache")
    stopped.edit(stopped.run.settings, "cache", str(cache))
    for path in cache.rglob("*.image-*.npy"):
        damage(path)
    said = stopped.resume()
    assert said.startswith("Prepared files were damaged and have been prepared anew: ")
    assert said.count("\n") == 1
    assert all((cache / path.relative_to(original / "prepared")).read_bytes() == path.read_bytes() for path in images)


def test_hidden_masks_are_in_no_hash(cardiac, tmp_path, tiny):
    settings = load_settings(None, [*tiny, "training.steps=1", "split.labeled=1"])
    outcome = start(cardiac, tmp_path / "run", settings, Console(quiet=True))
    split, files = load_split(outcome.run.split), json.loads(outcome.run.contents.read_text())["files"]
    shown = {name.split("/")[1].split("_")[0] for name in files if name.startswith("labelsTr/")}
    assert shown == {*split.labeled, *split.validation}
    assert not any(name.startswith(("imagesTs/", "labelsTs/")) for name in files)
    assert torch.load(outcome.run.last)["step"] == 1
