"""A file is there whole or not at all."""

import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from patchcl.core.files import UNFINISHED, atomic_write, remove_left, write_json, write_rows, write_text


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


def test_names_of_files_that_are_no_text_are_written_as_text(tmp_path):
    name = b"scan\xff".decode(errors="surrogateescape")
    write_text(tmp_path / "table.csv", name)
    write_json(tmp_path / "record.json", {name: name})
    assert (tmp_path / "table.csv").read_text(encoding="utf-8") == r"scan\udcff"
    assert json.loads((tmp_path / "record.json").read_text(encoding="utf-8")) == {name: name}, "JSON has them back"


def test_what_a_killed_process_left_goes_and_what_is_being_written_stays(tmp_path):
    left, fresh, other = (
        tmp_path / name for name in (f"{UNFINISHED}1-1-p0.nii.gz", f"{UNFINISHED}2-1-p1.nii.gz", "p2")
    )
    for path in (left, fresh, other):
        path.touch()
    for path in (left, other):
        os.utime(path, (0, 0))
    remove_left(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted([fresh, other])


def test_a_table_has_its_heads_and_no_formula(tmp_path):
    """A scan may be called as its owner likes; numbers stay numbers."""
    path = tmp_path / "new" / "table.csv"
    rows = [{"case": "=1+1", "size": -1.5, "more": None}, {"case": "a, b", "size": "-2.5"}]
    write_rows(path, {"case": "case", "size": "size_mm", "more": "@more"}, rows)
    assert path.read_text() == "case,size_mm,'@more\n'=1+1,-1.5,\n\"a, b\",-2.5,\n"
