"""Copies of prepared images on a node's own disk."""

import numpy as np
import pytest

from patchcl.data.preprocessing import own_disk
from patchcl.data.preprocessing.cache import PreparedCase
from patchcl.data.preprocessing.manifest import seal
from patchcl.data.preprocessing.own_disk import on_own_disk


@pytest.fixture
def prepared(tmp_path):
    folder = tmp_path / "shared" / "0123abcd"
    folder.mkdir(parents=True)
    cases = []
    for name in "ab":
        image, mask = folder / f"{name}.image-1.npy", folder / f"{name}.mask-2.npy"
        case = PreparedCase(name, name, image, mask if name == "a" else None)
        for number, file in enumerate((image, case.mask, case.signature)):
            if file is not None:
                np.save(file, np.full(10, number))
        seal([file for file in (image, case.mask, case.signature) if file is not None], folder / f"{name}.json")
        cases.append(case)
    return cases


def refuse(text):
    raise AssertionError(text)


def test_training_reads_copies_with_the_same_content(prepared, tmp_path, monkeypatch):
    monkeypatch.setenv("NODE_DISK", str(tmp_path / "own"))
    copied = on_own_disk(prepared, "$NODE_DISK/patchcl", refuse)
    for case, copy in zip(prepared, copied, strict=True):
        assert copy.image == tmp_path / "own" / "patchcl" / "0123abcd" / case.image.name
        assert copy.image.read_bytes() == case.image.read_bytes()
        assert copy.signature.read_bytes() == case.signature.read_bytes()
        assert (copy.mask is None) == (case.mask is None)
    assert copied[0].mask.read_bytes() == prepared[0].mask.read_bytes()


@pytest.mark.parametrize("damage", [lambda whole: whole[:9], lambda whole: whole[:-1] + bytes([whole[-1] ^ 1])])
def test_copies_are_used_again_and_damaged_ones_are_not(prepared, tmp_path, damage):
    copied = on_own_disk(prepared, str(tmp_path / "own"), refuse)
    before = copied[0].image.stat().st_mtime_ns
    copied[1].image.write_bytes(damage(copied[1].image.read_bytes()))
    assert on_own_disk(prepared, str(tmp_path / "own"), refuse) == copied
    assert copied[0].image.stat().st_mtime_ns == before
    assert copied[1].image.read_bytes() == prepared[1].image.read_bytes()


def test_without_room_or_folder_the_shared_one_is_read_and_that_is_said(prepared, tmp_path, monkeypatch):
    said = []
    (tmp_path / "file").touch()
    assert on_own_disk(prepared, str(tmp_path / "file"), said.append) == tuple(prepared)
    full = type("Usage", (), {"free": 100})
    monkeypatch.setattr(own_disk.shutil, "disk_usage", lambda _: full)
    assert on_own_disk(prepared, str(tmp_path / "own"), said.append) == tuple(prepared)
    assert "File exists" in said[0]
    assert "GiB are needed there" in said[1]
    assert f"not from {tmp_path / 'own'}" in said[1]
