"""Two runs are never mixed, and a file is there whole or not at all."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from patchcl.core.errors import UserError
from patchcl.core.files import atomic_write, write_json, write_text
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


@pytest.mark.parametrize("name", ["last", "best"])
def test_a_checkpoint_is_given_once_it_was_written(tmp_path, name):
    run = RunFolder.create(tmp_path / "run")
    with pytest.raises(UserError, match=f"{name}.ckpt does not exist.*patchcl resume"):
        run.checkpoint(name)
    (run.root / "checkpoints" / f"{name}.ckpt").touch()
    assert run.checkpoint(name).name == f"{name}.ckpt"


def test_a_write_happens_in_one_step_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "new" / "scan.nii.gz"
    seen: list[Path] = []

    def write(unfinished: Path) -> None:
        seen.append(unfinished)
        assert not path.exists()
        unfinished.write_text("new")
        assert not path.exists()

    atomic_write(path, write)
    assert path.read_text() == "new"
    assert list(path.parent.iterdir()) == [path]
    assert seen[0].parent == path.parent, "only within one file system can a file be put in place at once"
    assert seen[0].name.endswith(".nii.gz"), "writers choose the format by the ending"


@pytest.mark.parametrize("old", ["old", None])
def test_a_failed_write_leaves_what_was_there(tmp_path, old):
    path = tmp_path / "table.csv"
    if old:
        path.write_text(old)

    def write(unfinished: Path) -> None:
        unfinished.write_text("half")
        raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk full"):
        atomic_write(path, write)
    assert [file.read_text() for file in tmp_path.iterdir()] == ([old] if old else [])


def test_two_threads_may_write_the_same_file_at_once(tmp_path):
    path, both_are_writing = tmp_path / "prepared.npy", threading.Barrier(2, timeout=10)

    def write(unfinished: Path) -> None:
        unfinished.write_text("whole")
        both_are_writing.wait()

    with ThreadPoolExecutor(2) as pool:
        for written in [pool.submit(atomic_write, path, write) for _ in range(2)]:
            written.result()
    assert [file.read_text() for file in tmp_path.iterdir()] == ["whole"]


def test_text_replaces_text(tmp_path):
    path = tmp_path / "notes.txt"
    write_text(path, "a long first version")
    write_text(path, "ä ≤ 3")
    assert path.read_bytes() == "ä ≤ 3".encode()


def test_json_can_be_read_by_programs_and_people(tmp_path):
    path, content = tmp_path / "split.json", {"patient": "Müller", "dice": [0.5, None]}
    write_json(path, content)
    text = path.read_text(encoding="utf-8")
    assert json.loads(text) == content
    assert "Müller" in text
    assert text.endswith("}\n")
    assert len(text.splitlines()) > 3
