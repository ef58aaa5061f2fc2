"""Two runs are never mixed, and every file of a run has a place of its own."""

import pytest

from patchcl.core.errors import UserError
from patchcl.runs.folder import RunFolder


def test_every_file_has_a_place_of_its_own_inside_the_folder(tmp_path):
    run = RunFolder(tmp_path)
    places = [place for name, place in vars(run).items() if name != "root"]
    assert len(set(places)) == len(places) > 10
    assert all(tmp_path in place.parents for place in places)


@pytest.mark.parametrize("there", [True, False], ids=["empty folder", "no folder"])
def test_a_new_run_may_begin_where_nothing_is(tmp_path, there):
    root = tmp_path / "runs" / "first"
    if there:
        root.mkdir(parents=True)
    run = RunFolder.create(root)
    assert run.root == root
    assert run.last.parent.is_dir()
    assert run.pictures.is_dir()


@pytest.mark.parametrize("occupied_by", ["run", "hidden file", "file"])
def test_a_new_run_does_not_touch_what_is_there(tmp_path, occupied_by):
    root = tmp_path / "run"
    if occupied_by == "run":
        RunFolder.create(root)
    elif occupied_by == "hidden file":
        root.mkdir()
        (root / ".keep").touch()
    else:
        root.write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match=r"is not empty.*patchcl resume") as error:
        RunFolder.create(root)
    assert str(root) in str(error.value)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="Cannot create the run folder") as error:
        RunFolder.create(tmp_path / "file" / "run")
    assert str(tmp_path / "file" / "run") in str(error.value)


def test_only_a_folder_with_settings_is_a_run(tmp_path):
    run = RunFolder.create(tmp_path / "run")
    with pytest.raises(UserError, match=r"holds no run: settings\.yaml is missing"):
        RunFolder.open(run.root)
    run.settings.touch()
    assert RunFolder.open(run.root).settings == run.settings


def test_a_run_has_begun_when_its_provenance_is_there(tmp_path):
    run = RunFolder(tmp_path / "run")
    assert not run.begun()
    run = RunFolder.create(tmp_path / "run")
    run.settings.touch()
    run.provenance.touch()
    assert run.begun()
    assert run.settings.exists()


@pytest.mark.parametrize("also", [None, ".unfinished-1-2-plan.yaml", "notes.txt", "checkpoints/last.ckpt"])
def test_what_a_start_that_was_cut_short_left_behind_is_removed_and_nothing_else(tmp_path, also):
    run = RunFolder.create(tmp_path / "run")
    run.settings.touch()
    if also is not None:
        (run.root / also).touch()
    assert not run.begun()
    assert run.root.exists() == (also in ("notes.txt", "checkpoints/last.ckpt"))


def test_half_written_checkpoints_of_a_killed_process_are_removed(tmp_path):
    run = RunFolder.create(tmp_path / "run")
    (run.last.parent / ".unfinished-1-2-last.ckpt").touch()
    run.last.touch()
    run.remove_unfinished()
    assert list(run.last.parent.iterdir()) == [run.last]


@pytest.mark.parametrize("names", [("notes.txt",), ("settings.yaml",), ("checkpoints/last.ckpt", "settings.yaml")])
def test_a_folder_that_no_start_made_is_left_alone(tmp_path, names):
    for name in names:
        path = tmp_path / "run" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert not RunFolder(tmp_path / "run").begun()
    assert all((tmp_path / "run" / name).exists() for name in names)


@pytest.mark.parametrize("name", ["last", "best"])
def test_a_checkpoint_is_given_once_it_was_written(tmp_path, name):
    run = RunFolder.create(tmp_path / "run")
    with pytest.raises(UserError, match=f"{name}.ckpt does not exist.*patchcl resume"):
        run.checkpoint(name)
    (run.root / "checkpoints" / f"{name}.ckpt").touch()
    assert run.checkpoint(name).name == f"{name}.ckpt"
