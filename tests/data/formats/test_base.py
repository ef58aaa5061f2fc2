import sys
from pathlib import Path

import pytest

from patchcl.core.errors import UserError
from patchcl.data.formats import count_channels, ending_of, format_of, is_scan, map_ending, mask_ending, without_ending
from patchcl.data.formats.base import library, reading, require_content


@pytest.mark.parametrize(
    ("name", "stem", "ending", "of_masks", "of_maps"),
    [
        ("a.nii.gz", "a", ".nii.gz", ".nii.gz", ".nii.gz"),
        ("a.b.NII", "a.b", ".nii", ".nii.gz", ".nii.gz"),
        ("a.mhd", "a", ".mhd", ".mha", ".mha"),
        ("a.NRRD", "a", ".nrrd", ".nrrd", ".nrrd"),
        ("a.png", "a", ".png", ".png", ".tif"),
        ("a.tiff", "a", ".tiff", ".tiff", ".tiff"),
        ("a.jpeg", "a", ".jpeg", ".png", ".tif"),
        ("a.dcm", "a", ".dcm", ".dcm", ".nii.gz"),
        ("series.7", "series.7", "", ".dcm", ".nii.gz"),
    ],
)
def test_names_tell_formats(name: str, stem: str, ending: str, of_masks: str, of_maps: str) -> None:
    assert (without_ending(name), ending_of(name)) == (stem, ending)
    assert (mask_ending(ending), map_ending(ending)) == (of_masks, of_maps)


def test_formats_go_by_names_and_dicom_by_content(tmp_path: Path) -> None:
    names = {"a.NII.gz": "NIfTI", "a.mha": "NRRD or MetaImage", "a.JPG": "picture", "new.dcm": "DICOM-SEG"}
    assert {name: format_of(tmp_path / name).name for name in names} == names
    (tmp_path / "series").mkdir()
    (tmp_path / "series" / "IM1").write_bytes(bytes(128) + b"DICM")
    assert format_of(tmp_path / "series").name == "DICOM"
    assert is_scan(tmp_path / "series")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("no scan")
    assert not is_scan(tmp_path / "notes")
    assert not is_scan(tmp_path / ".a.png")
    assert count_channels(tmp_path / "a.nii.gz") == 1
    for name, message in {
        "notes": "notes holds no DICOM files. Expected a DICOM series, or a name that ends in .nii.gz, .nii",
        "notes/a.txt": "is of no known format. Expected a DICOM series, or a name",
        "gone": "gone does not exist",
    }.items():
        with pytest.raises(UserError, match=message):
            format_of(tmp_path / name)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            ValueError("bad magic"),
            r"a\.x cannot be read as a scan \(bad magic\)\. It is damaged, or of a kind that is not",
        ),
        (
            RuntimeError("in reader.cxx:7:\nshort file\n"),
            r"scan \(short file\)\. It may be incomplete: copy or export it ag",
        ),
        (EOFError(), r"a\.x cannot be read as a scan \(EOFError\)\. It may be incomplete: copy or export it again\."),
        (FileNotFoundError(2, "no such file", "b.raw"), r"b\.raw does not exist"),
        (PermissionError(), r"a\.x may not be read by you. Change its permissions"),
        (UserError("known already"), "^known already$"),
    ],
)
def test_whatever_goes_wrong_names_the_file(error: Exception, message: str, tmp_path: Path) -> None:
    file = tmp_path / "a.x"
    file.write_bytes(b"something")
    with pytest.raises(UserError, match=message), reading(file, "a scan"):
        raise error


@pytest.mark.parametrize(
    ("content", "kind", "message"),
    [
        (b"", "a NIfTI image", "It is empty: copy or export it again"),
        (b"<!DOCTYPE html>", "a NIfTI image", "It begins as a page or document of the web does: give it the ending"),
        (b"\x89PNG\r\n", "a NIfTI image", "It begins as a PNG picture does"),
        (b"\x89PNG\r\n", "a picture", "It is damaged, or of a kind that is not supported"),
        (bytes(128) + b"DICM", "a NIfTI image", "It begins as a DICOM file does"),
        (b"\x1f\x8b", "a NIfTI image", "It is damaged, or of a kind"),
    ],
)
def test_what_a_file_holds_instead_is_said(content: bytes, kind: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "a.x"
    file.write_bytes(content)
    with pytest.raises(UserError, match=message) as told, reading(file, kind):
        raise ValueError("no such type")
    assert "incomplete" not in str(told.value)


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is a folder, but a scan is a file"), reading(tmp_path, "a scan"):
        pass


def test_a_file_holds_no_more_than_its_bytes_can_stand_for(tmp_path: Path) -> None:
    path = tmp_path / "a.x"
    path.write_bytes(bytes(10))
    require_content(path, 10)
    require_content(path, 1000, 100)
    for claimed, ratio in ((11, 1), (1001, 100)):
        with pytest.raises(UserError, match=rf"claims {claimed} bytes of voxels, but the file has 10 bytes"):
            require_content(path, claimed, ratio)


def test_a_missing_library_is_told_with_the_way_to_get_it() -> None:
    assert library("sys", Path("a.x"), "a scan", "itk") is sys
    with pytest.raises(UserError, match=r"a\.x is a scan, which needs no_such: pip install 'patchcl\[itk\]'"):
        library("no_such", Path("a.x"), "a scan", "itk")
