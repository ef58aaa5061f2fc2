"""A run that goes on elsewhere: its data moved, its device gone."""

import json
import os
import shutil
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np
import pytest
import torch
from rich.console import Console

from patchcl.config import read_settings
from patchcl.core.errors import UserError
from patchcl.reports.facts import facts_table, read_facts
from patchcl.runs.folder import RunFolder
from patchcl.training.experiment import resume


class Moved(NamedTuple):
    """A run of 6 steps that was stopped after 3, and its data in a folder that it does not know."""

    run: RunFolder
    data: Path

    def resume(self, **elsewhere: object) -> str:
        console = Console(record=True, width=400, file=open(os.devnull, "w"))  # noqa: SIM115, PTH123
        with console.file:
            resume(self.run.root, console, **elsewhere)
            return console.export_text()

    def edit(self, old: str, new: str) -> None:
        text = self.run.settings.read_text()
        assert old in text
        self.run.settings.write_text(text.replace(old, new))

    @property
    def moves(self) -> list[str]:
        return json.loads(self.run.provenance.read_text()).get("went_on", [])


@pytest.fixture
def moved(cardiac, trained, tmp_path) -> Moved:
    run = RunFolder(shutil.copytree(trained, tmp_path / "runs" / "run"))
    shutil.copy(run.previous, run.last)
    moved = Moved(run, shutil.copytree(cardiac, tmp_path / "there"))
    moved.edit(str(cardiac.resolve()), str(tmp_path / "gone"))
    moved.edit(str(trained.parent.resolve()), str(tmp_path / "gone as well"))
    return moved


def same_weights(run: RunFolder, other: Path) -> bool:
    found, expected = (torch.load(folder.last)["method"] for folder in (run, RunFolder(other)))
    return all(torch.equal(found[name], expected[name]) for name in expected)


def test_moved_data_are_found_again_and_the_run_ends_as_if_nothing_had_moved(moved, trained):
    with pytest.raises(UserError, match=r"gone holds no data set any more: .*--data FOLDER$"):
        moved.resume()
    assert not same_weights(moved.run, trained)
    assert f"goes on with the data in {moved.data}, which were in " in moved.resume(data=moved.data)
    assert same_weights(moved.run, trained)
    settings = read_settings(moved.run.settings)
    assert (settings.data, settings.cache) == (moved.data.resolve(), moved.run.root.parent / "prepared")
    (line,) = moved.moves
    assert str(moved.data) in line
    assert dict(facts_table(read_facts([moved.run])))["went on elsewhere"] == [line]
    assert moved.resume() == ""  # said once


def test_a_run_that_was_moved_with_its_prepared_images_takes_those_and_writes_nothing_where_it_was(
    cardiac, trained, tmp_path
):
    """Such as a run of a comparison; where only the images are gone, they are prepared in the same place again."""
    out = tmp_path / "moved"
    run = RunFolder(shutil.copytree(trained, out / "runs" / "labeled_2" / "patchcl" / "seed_0"))
    shutil.copy(run.previous, run.last)
    shutil.copytree(trained.parent / "prepared", out / "prepared")
    moved = Moved(run, cardiac)
    moved.edit(str(trained.parent.resolve()), str(tmp_path / "before"))
    files = {path: path.stat().st_mtime_ns for path in (out / "prepared").rglob("*.npy")}
    assert "goes on" not in moved.resume()
    assert read_settings(run.settings).cache == out / "prepared"
    assert {path: path.stat().st_mtime_ns for path in (out / "prepared").rglob("*.npy")} == files
    assert not (tmp_path / "before").exists()
    assert {path.name for path in run.root.parent.iterdir()} == {"seed_0"}

    (tmp_path / "before").mkdir()
    moved.edit(str(out / "prepared"), str(tmp_path / "before" / "prepared"))
    shutil.copy(run.previous, run.last)
    assert "goes on" not in moved.resume()
    assert any((tmp_path / "before" / "prepared").rglob("*.npy"))


def test_other_data_are_refused_and_nothing_is_kept_of_them(moved, tmp_path):
    before = moved.run.settings.read_bytes()
    mask = next((moved.data / "labelsTr").iterdir())
    other = shutil.copytree(moved.data, tmp_path / "other")
    for image in other.glob("*/*.nii.gz"):
        image.rename(image.with_name(f"another{image.name}"))
    with pytest.raises(UserError, match=r"other is another data set: it holds none of the \d+ files"):
        moved.resume(data=other)
    image = nib.load(mask)
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj)[::-1].copy(), image.affine, image.header), mask)
    with pytest.raises(UserError, match=r"labelsTr/\S+ was replaced"):
        moved.resume(data=moved.data)
    assert moved.run.settings.read_bytes() == before
    assert moved.moves == []


def test_a_run_of_a_gpu_goes_on_without_one_and_says_what_that_costs(moved, trained, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    moved.edit("device: cpu", "device: cuda")
    facts = json.loads(moved.run.provenance.read_text()) | {"device": "cuda:0", "hardware": "Some Card"}
    moved.run.provenance.write_text(json.dumps(facts))
    with pytest.raises(UserError, match="no CUDA device here"):
        moved.resume(data=moved.data)
    said = moved.resume(data=moved.data, device="cpu")
    assert "and was on cuda:0 (Some Card): from here on its result is not bit for bit" in said
    assert read_settings(moved.run.settings).training.device == "cpu"
    assert ["data" in line for line in moved.moves] == [True, False]
    assert json.loads(moved.run.provenance.read_text())["device"] == "cpu"
    assert moved.resume() == ""
