"""What lies in a data set and is neither scan nor mask, named line by line."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from patchcl.data.dataset import survey_dataset
from patchcl.data.discovery import no_scans_beside
from patchcl.data.folders import beside_images, shortened, unused_in_series

Make = Callable[..., Path]


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"content")


def test_every_file_is_used_or_named(make_dataset: Make) -> None:
    root = make_dataset({"a": True, "b": False}, ("c",), {"d": True})
    touch(root, "imagesTr/a.json", "imagesTr/b.json", "imagesUn/notes.TXT", "labelsTr/colours.ctbl", "labelsTs/x")
    touch(root, "imagesTr/.hidden", "imagesTr/Thumbs.db", "labelsTr/desktop.ini", "imagesUn/__MACOSX/a_0000.nii.gz")
    touch(root, "imagesTr/papers/a.pdf", "imagesVal/e_0000.nii.gz", "instancesTr/a.nii.gz", "notes/a.txt")
    (root / "imagesTs" / "nothing").mkdir()
    dataset, problems = survey_dataset(root)
    masks = "names of masks end in .nii.gz, "
    assert problems == []
    assert sorted(line.partition(masks)[0] for line in dataset.unused) == [
        "imagesTr/a.json, b.json are not used: names of scans end in .nii.gz.",
        "imagesTr/papers is not used: it is a folder.",
        "imagesTs/nothing is not used: it is a folder.",
        "imagesUn/notes.TXT is not used: names of scans end in .nii.gz.",
        "imagesVal is not used: folders of a data set are called imagesTr, imagesTs, imagesUn, labelsTr, labelsTs. "
        "Rename it if it is one.",
        "labelsTr/colours.ctbl is not used: ",
        "labelsTs/x is not used: ",
    ]
    assert [case.name for case in dataset.cases] == ["a", "b", "c", "d"]


@pytest.mark.parametrize("folder", ["imagesTr", "imagesUn", "labelsTr", "imagesTs", "labelsTs"])
def test_a_folder_with_scans_or_masks_stands_in_the_way(make_dataset: Make, folder: str) -> None:
    root = make_dataset({"a": True})
    touch(root, *(f"{folder}/deep/er/{name}.nii.gz" for name in "defg"), f"{folder}/deep/h.txt")
    assert survey_dataset(root)[1] == [
        f"{folder}/deep is not used, with er/d.nii.gz, er/e.nii.gz, er/f.nii.gz and 2 more in it: files lie directly "
        f"in {folder}. Move them up, or the folder elsewhere"
    ]


def test_a_folder_of_dicom_counts_as_scan_among_others(make_dataset: Make) -> None:
    root = make_dataset({"a": True})
    (root / "imagesTr" / "b_0000").mkdir()
    (root / "imagesTr" / "b_0000" / "IM1").write_bytes(bytes(128) + b"DICM")
    assert survey_dataset(root)[1][0].startswith("imagesTr/b_0000 is not used, with IM1 in it")


def test_voxels_of_a_header_are_used(make_dataset: Make) -> None:
    root = make_dataset({"a": True})
    header = "ObjectType = Image\nNDims = 3\nDimSize = 2 2 2\nElementType = MET_UCHAR\nElementDataFile = "
    for name, data in {"a": "raw/a.bin", "b": "b.raw"}.items():
        (root / "labelsTr" / f"{name}.mhd").write_text(header + data + "\n")
        touch(root, f"labelsTr/{data}")
    (root / "labelsTr" / "a.nii.gz").unlink()
    touch(root, "imagesTr/b_0000.nii.gz", "labelsTr/c.raw")
    dataset, problems = survey_dataset(root)
    assert problems == []
    assert [line.partition(" ")[0] for line in dataset.unused] == ["labelsTr/c.raw"]


def test_what_lies_beside_the_slices_of_a_series_is_named(tmp_path: Path, write_series: Make, write_file: Make) -> None:
    pydicom = pytest.importorskip("pydicom")
    folder = write_series(np.arange(12, dtype=np.int16).reshape(2, 2, 3), folder="imagesTr/a_0000")
    assert unused_in_series(folder) == unused_in_series(folder / "slice000.dcm") == []
    touch(folder, "LICENSE", "read.txt", "write.txt", "deeper/b", "empty/.c", "Thumbs.db", "DICOMDIR")
    plan = write_file(folder / "plan.dcm", np.zeros((2, 2), np.int16), SeriesInstanceUID="1.7", Modality="RTSTRUCT")
    content = pydicom.dcmread(plan)
    del content.Rows, content.PixelData
    content.save_as(plan)
    assert unused_in_series(folder) == [
        "imagesTr/a_0000/deeper is not used: all files of a series lie in one folder.",
        "imagesTr/a_0000/LICENSE is not used: files of a series are DICOM.",
        "imagesTr/a_0000/read.txt, write.txt are not used: files of a series are DICOM.",
    ]
    assert beside_images(folder) == ["imagesTr/a_0000/plan.dcm is not used: DICOM without an image."]
    assert no_scans_beside({"a": (folder,)}) == [f"{tmp_path}/{beside_images(folder)[0]}"]
    (folder / "slice001.dcm").write_bytes(b"")  # which reading the series tells
    assert beside_images(folder) == beside_images(plan) == []


def test_long_lists_are_shortened() -> None:
    assert shortened(["a", "b", "c"]) == "a, b, c"
    assert shortened(list("abcde")) == "a, b, c and 2 more"
