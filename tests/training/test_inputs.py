"""What training is given: scans that no other side shows, streamed or held, the unlabeled where a method needs them."""

import shutil

import pytest
import torch
from rich.console import Console

from patchcl.config import load_settings
from patchcl.core.errors import UserError
from patchcl.data.dataset import read_dataset
from patchcl.data.preprocessing.planner import make_plan
from patchcl.data.splits import load_split, make_split, visible_to_training
from patchcl.runs.folder import RunFolder
from patchcl.training.experiment import start
from patchcl.training.inputs import prepare_inputs

QUIET = Console(quiet=True)


def run(data, root, tiny, *more):
    return start(data, root, load_settings(None, [*tiny, *more]), QUIET)


def weights(root):
    return torch.load(RunFolder(root).last)["method"]


def same(one, other) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("folder", ["imagesTr", "imagesUn"], ids=["labeled", "unlabeled"])
def test_an_image_that_also_validates_stops_training_before_it_starts(folder, cardiac, trained, tmp_path, tiny):
    split = load_split(RunFolder(trained).split)
    data = shutil.copytree(cardiac, tmp_path / "data")
    (chosen,), taught = split.validation, {"imagesTr": split.labeled, "imagesUn": split.unlabeled}[folder][0]
    source, target = (
        data / "imagesTr" / f"{chosen}_frame01_0000.nii.gz",
        data / folder / f"{taught}_frame01_0000.nii.gz",
    )
    shutil.copy(source, target)
    if folder == "imagesTr":
        shutil.copy(data / "labelsTr" / f"{chosen}_frame01.nii.gz", data / "labelsTr" / f"{taught}_frame01.nii.gz")
    with pytest.raises(UserError) as error:
        run(data, tmp_path / "run", tiny)
    side = {"imagesTr": "labeled", "imagesUn": "unlabeled"}[folder]
    assert f"{target} ({side}) and {source} (validation)" in str(error.value)
    assert not RunFolder(tmp_path / "run").last.exists()


def test_an_image_among_the_test_scans_is_not_for_training_to_find(cardiac, trained, tmp_path, tiny):
    """It would have to open them; `patchcl check` does that."""
    data = shutil.copytree(cardiac, tmp_path / "data")
    taught = load_split(RunFolder(trained).split).labeled[0]
    shutil.copy(next((data / "imagesTr").glob(f"{taught}_*")), next((data / "imagesTs").iterdir()))
    run(data, tmp_path / "run", tiny)
    assert same(weights(tmp_path / "run"), weights(trained))


def test_images_on_a_node_s_own_disk_train_as_those_in_the_shared_folder(cardiac, trained, tmp_path, tiny):
    scratch = tmp_path / "own disk"
    run(cardiac, tmp_path / "run", tiny, "training.memory_gib=0", f"training.scratch={scratch}")
    assert same(weights(tmp_path / "run"), weights(trained))
    copies = {path.relative_to(scratch) for path in scratch.rglob("*.npy")}
    assert copies == {path.relative_to(tmp_path / "prepared") for path in (tmp_path / "prepared").rglob("*.npy")}


def test_images_streamed_from_disk_train_as_those_on_the_device(cardiac, trained, tmp_path, tiny):
    run(cardiac, tmp_path / "streamed", tiny, "training.memory_gib=0")
    assert same(weights(tmp_path / "streamed"), weights(trained))


def test_a_later_visit_teaches_only_where_its_patient_does(make_dataset, tmp_path):
    """Scans without a mask of those who validate or test are no unlabeled ones, in whatever folder they lie."""
    train = {f"p{number}_visit1": True for number in range(3)} | {f"p{number}_visit2": False for number in range(3)}
    root = make_dataset(train, ("p0_visit3", "p1_visit3", "p2_visit3", "t_visit2", "u"), {"t_visit1": True})
    (tmp_path / "split.json").write_text('{"train": ["p0", "p1", "u"], "validation": ["p2"], "test": ["t"]}')
    settings = load_settings(None, [f"split.file={tmp_path / 'split.json'}", f"cache={tmp_path / 'cache'}"])
    dataset = read_dataset(root)
    split = make_split(dataset, settings.split)
    visible, plan = visible_to_training(dataset, split), make_plan(dataset, settings.plan)
    prepared = prepare_inputs(settings, visible, split, plan, True, QUIET)
    assert [case.name for case in prepared.unlabeled] == ["p0_visit2", "p0_visit3", "p1_visit2", "p1_visit3", "u"]
    assert [case.name for case in prepared.validation] == ["p2_visit1"]


def test_learning_from_unlabeled_scans_needs_some(cardiac, tmp_path, tiny):
    data = shutil.copytree(cardiac, tmp_path / "data", ignore=shutil.ignore_patterns("imagesUn"))
    with pytest.raises(UserError, match=r"no unlabeled scan.*--method supervised"):
        run(data, tmp_path / "run", tiny)
    run(data, tmp_path / "supervised", tiny, "method.name=supervised")
