"""Hashes of a data set: by path, wherever it lies; read once, and again when somebody wrote to a file."""

import hashlib
import json
import os
import shutil

from patchcl.comparison.content import MANIFEST, files_of, hashes_of, keep_files, kept_files
from patchcl.data.dataset import read_dataset


def test_a_file_is_known_by_its_path_and_read_again_only_when_it_was_written_to(make_dataset, tmp_path):
    dataset = read_dataset(make_dataset({"a": True, "b": False}))
    scan = dataset.root / "imagesTr" / "a_0000.nii.gz"
    first = hashes_of(files_of(dataset, tmp_path))
    assert first.keys() == {"imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz", "imagesTr/b_0000.nii.gz"}
    assert first["imagesTr/a_0000.nii.gz"] == hashlib.sha256(scan.read_bytes()).hexdigest()
    assert not (tmp_path / MANIFEST).exists()
    moved = read_dataset(shutil.copytree(dataset.root, tmp_path / "moved"))
    files = files_of(moved, tmp_path)
    assert hashes_of(files) == first
    keep_files(files, moved.root, tmp_path)
    assert kept_files(moved.root, tmp_path) == files
    assert kept_files(dataset.root, tmp_path) == {}

    manifest = json.loads((tmp_path / MANIFEST).read_text())
    manifest[str(moved.root / "imagesTr" / "a_0000.nii.gz")]["sha256"] = "as it was read"
    (tmp_path / MANIFEST).write_text(json.dumps(manifest))
    assert hashes_of(files_of(moved, tmp_path)) == first | {"imagesTr/a_0000.nii.gz": "as it was read"}
    os.utime(moved.root / "imagesTr" / "a_0000.nii.gz", ns=(0, 0))
    assert hashes_of(files_of(moved, tmp_path)) == first
