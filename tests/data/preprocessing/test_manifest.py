"""Hashes of files: what counts as a change, and what is read again."""

import hashlib
import os
from pathlib import Path

import pytest

from patchcl.core.errors import UserError
from patchcl.data.preprocessing import manifest as module
from patchcl.data.preprocessing.manifest import file_hashes, intact, read_manifest, seal


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_a_file_that_nobody_wrote_to_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_bytes(b"one")
    assert file_hashes([tmp_path / "a"], tmp_path / "m.json") == [sha256(b"one")]
    monkeypatch.setattr(module, "_sha256", lambda files: pytest.fail("read again"))
    assert file_hashes([tmp_path / "a"], tmp_path / "m.json") == [sha256(b"one")]


def test_a_change_counts_whatever_size_and_time_say(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_bytes(b"one")
    before = file.stat()
    file_hashes([file], tmp_path / "m.json")
    file.write_bytes(b"two")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert file_hashes([file], tmp_path / "m.json") == [sha256(b"two")]


@pytest.mark.parametrize("content", ["", "[]", "{", '{"x": 1}', "[" * 100_000, None])
def test_a_damaged_manifest_knows_nothing(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "m.json").write_text(content)
    assert read_manifest(tmp_path / "m.json") == {}


def test_a_manifest_of_version_0_1_is_not_relied_on(tmp_path: Path) -> None:
    """It knew size and time alone."""
    file = tmp_path / "a"
    file.write_bytes(b"one")
    state = {"bytes": 3, "modified_ns": file.stat().st_mtime_ns, "sha256": "wrong"}
    module.write_json(tmp_path / "m.json", {str(file): state})
    assert file_hashes([file], tmp_path / "m.json") == [sha256(b"one")]


def test_sealed_files_are_known_again(tmp_path: Path) -> None:
    file, manifest = tmp_path / "a.npy", tmp_path / "m.json"
    file.write_bytes(b"prepared")
    assert not intact(file, read_manifest(manifest))
    seal([file], manifest)
    assert intact(file, read_manifest(manifest))
    file.write_bytes(b"prepareD")
    assert not intact(file, read_manifest(manifest))
    file.unlink()
    assert not intact(file, read_manifest(manifest))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="a cannot be opened"):
        file_hashes([tmp_path / "a"], tmp_path / "m.json")


@pytest.mark.parametrize("named", ["raw/voxels.bin", "raw/slice%02d.bin 1 2 1", "LIST\nraw/voxels.bin"])
def test_voxels_anywhere_in_the_data_set_count(tmp_path: Path, named: str) -> None:
    (tmp_path / "raw").mkdir()
    for name in ("voxels", "slice01", "slice02"):
        (tmp_path / "raw" / f"{name}.bin").write_bytes(b"one")
    (tmp_path / "a.mhd").write_text(f"NDims = 3\nElementDataFile = {named}\n")
    before = file_hashes([tmp_path / "a.mhd"], tmp_path / "m.json")
    for name in ("voxels", "slice02"):
        (tmp_path / "raw" / f"{name}.bin").write_bytes(b"two")
    assert file_hashes([tmp_path / "a.mhd"], tmp_path / "m.json") != before


@pytest.mark.parametrize("header", ["a.mha", "a.nrrd", "a.nhdr"])
def test_voxels_count_whatever_the_header_is_called(tmp_path: Path, header: str) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "voxels.bin").write_bytes(b"one")
    first, line = ("NDims = 3", "ElementDataFile =") if header == "a.mha" else ("NRRD0004", "data file:")
    (tmp_path / header).write_text(f"{first}\n{line} raw/voxels.bin\n")
    before = file_hashes([tmp_path / header], tmp_path / "m.json")
    (tmp_path / "raw" / "voxels.bin").write_bytes(b"two")
    assert file_hashes([tmp_path / header], tmp_path / "m.json") != before
