import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from patchcl.core.errors import UserError
from patchcl.data.formats.dicom.frames import frames_of, is_dicom, read_header

pytest.importorskip("pydicom")
Make = Callable[..., Any]
PIXELS = np.arange(20, dtype=np.int16).reshape(4, 5)
PLACE = {
    "ImagePositionPatient": [1, 2, 3],
    "ImageOrientationPatient": [0, 1, 0, 0, 0, -1],
    "PixelSpacing": [0.5, 0.25],
    "SliceThickness": 4,
}


def frame(path: Path) -> Any:
    (only,) = frames_of(path, read_header(path))
    return only


def test_a_file_of_one_frame(write_file: Make, tmp_path: Path) -> None:
    path = write_file(tmp_path / "a.dcm", PIXELS, SOPInstanceUID="1.5", RescaleSlope=2, RescaleIntercept=-7, **PLACE)
    found = frame(path)
    assert (found.path, found.place, found.frames, found.instance, found.name) == (path, 0, 1, "1.5", "a.dcm")
    assert (found.size, found.spacing_mm, found.depth_mm) == ((5, 4), (0.25, 0.5), 4)
    assert (found.slope, found.intercept) == (2, -7)
    np.testing.assert_array_equal(found.position, [1, 2, 3])
    np.testing.assert_array_equal(found.directions, [[0, 1, 0], [0, 0, -1]])


def test_frames_take_from_themselves_what_they_have_and_the_rest_from_all(write_enhanced: Make) -> None:
    frames = frames_of(path := write_enhanced(np.zeros((5, 4, 3), np.int16), (2, 0, 1)), read_header(path))
    assert [found.position[2] for found in frames if found.position is not None] == [7, 3, 5]
    assert [found.intercept for found in frames] == [2, 0, 1]
    assert [found.name for found in frames] == [f"all.dcm (frame {number})" for number in (1, 2, 3)]
    assert {(found.spacing_mm, found.depth_mm, found.frames) for found in frames} == {((0.25, 0.5), 9, 3)}


def test_rounded_directions_get_unit_length(write_file: Make, tmp_path: Path) -> None:
    rounded = [0.7071, 0.7071, 0, 0, 0, 1]
    found = frame(write_file(tmp_path / "a.dcm", PIXELS, **(PLACE | {"ImageOrientationPatient": rounded})))
    np.testing.assert_allclose(found.directions, [[0.5**0.5, 0.5**0.5, 0], [0, 0, 1]], atol=1e-12)


@pytest.mark.parametrize("orientation", [[1, 0, 0, 0, 1.01, 0], [1, 0, 0, 0.01, 1, 0]])
def test_directions_that_make_no_plane_are_refused(write_file: Make, tmp_path: Path, orientation: list[float]) -> None:
    path = write_file(tmp_path / "a.dcm", PIXELS, **(PLACE | {"ImageOrientationPatient": orientation}))
    with pytest.raises(UserError, match=r"a\.dcm: ImageOrientationPatient is"):
        frame(path)


@pytest.mark.parametrize("spacing", [None, [0, 1]])
def test_a_slice_has_to_know_its_pixel_spacing(write_file: Make, tmp_path: Path, spacing: list[float] | None) -> None:
    path = write_file(tmp_path / "a.dcm", PIXELS, **(PLACE | {"PixelSpacing": spacing}))
    with pytest.raises(UserError, match=r"a\.dcm has no valid PixelSpacing"):
        frame(path)


def test_incomplete_numbers_are_refused(write_file: Make, tmp_path: Path) -> None:
    path = write_file(tmp_path / "a.dcm", PIXELS, **(PLACE | {"ImagePositionPatient": [1, 2]}))
    with pytest.raises(UserError, match=r"ImagePositionPatient is \[1.0, 2.0\]; expected 3 numbers"):
        frame(path)
    path = write_file(tmp_path / "a.dcm", PIXELS, **(PLACE | {"ImagePositionPatient": ""}))
    assert frame(path).position is None


def test_the_mark_of_dicom(write_file: Make, tmp_path: Path) -> None:
    assert is_dicom(write_file(tmp_path / "a", PIXELS))
    (tmp_path / "b.dcm").write_bytes(b"DICM" + b"\0" * 200)
    assert not is_dicom(tmp_path / "b.dcm")
    with pytest.raises(UserError, match=r"b\.dcm cannot be read as a DICOM file"):
        read_header(tmp_path / "b.dcm")


def test_without_pydicom_one_line_helps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(UserError, match=r"scan is DICOM, which needs pydicom: pip install 'patchcl\[dicom\]'"):
        read_header(Path("scan"))
