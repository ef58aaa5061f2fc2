"""Headers that name files elsewhere, in every way that ITK understands, and those that name their own."""

from pathlib import Path

import numpy as np
import pytest

from patchcl.core.errors import UserError
from patchcl.data.formats.detached import SHORT_HEADER, files_beside
from patchcl.data.formats.itk import read_grid, read_values

pytest.importorskip("SimpleITK")
NRRD = "NRRD0004\ntype: uchar\ndimension: 3\nsizes: 5 4 3\nencoding: raw\n"
META = "ObjectType = Image\nNDims = 3\nDimSize = 5 4 3\nElementType = MET_UCHAR\n"
VOXELS = np.arange(60, dtype=np.uint8)
OUTSIDE = {
    "relative.nhdr": NRRD + "data file: ../secret.raw\n",
    "through.nhdr": NRRD + "data file: scans/../../secret.raw\n",
    "absolute.nrrd": NRRD + "data file: {root}/secret.raw\n",
    "list.nhdr": NRRD + "data file: LIST\n{root}/secret.raw\n",
    "list_of_volumes.nhdr": NRRD + "data file: LIST 3\na.raw\n{root}/secret.raw\n",
    "one_word.nhdr": NRRD + "datafile: ../secret.raw\n",
    "capitals.nhdr": NRRD + "DATA FILE: ../secret.raw\n",
    "returns.nhdr": NRRD.replace("\n", "\r") + "data file: ../secret.raw\r",
    "behind_a_return.nrrd": NRRD + "content: x\rdata file: ../secret.raw\n",
    "twice.nhdr": NRRD + "data file: a.raw\ndata file: ../secret.raw\n",
    "pattern.nhdr": NRRD + "data file: ../secret%d.raw 1 3 1\n",
    "relative.mhd": META + "ElementDataFile = ../secret.raw\n",
    "colon.mhd": META + "ElementDataFile: ../secret.raw\n",
    "blank_lines.mhd": META + "\n\n  ElementDataFile\t=\t../secret.raw\n",
    "list.mha": META + "ElementDataFile = LIST\n" + "../secret.raw\n" * 3,
    "list_of_slices.mhd": META + "ElementDataFile = LIST 2D\n" + "../secret.raw\n" * 3,
    "pattern.mhd": META + "ElementDataFile = ../secret%d.raw 1 3 1\n",
    "decoy.mhd": META + "Comment = x\rElementDataFile = LOCAL\nElementDataFile = ../secret.raw\n",
    "zero.mhd": META + "Comment = \0\nElementDataFile = ../secret.raw\n",
}


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """A folder of scans, with a file of another kind beside it."""
    (tmp_path / "scans").mkdir()
    for name in ("secret.raw", "secret1.raw", "secret2.raw", "secret3.raw", "scans/a.raw"):
        (tmp_path / name).write_bytes(VOXELS.tobytes())
    return tmp_path / "scans"


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_file_elsewhere_is_never_read(name: str, scans: Path) -> None:
    (scans / name).write_bytes(OUTSIDE[name].replace("{root}", str(scans.parent)).encode())
    for read in (read_grid, read_values):
        with pytest.raises(UserError, match=rf"{name} says that its voxels lie in {scans.parent}/secret.*, outside of"):
            read(scans / name)


def test_a_link_out_of_the_data_set_is_no_way_round(scans: Path) -> None:
    (scans / "b.raw").symlink_to(scans.parent / "secret.raw")
    (scans / "b.mhd").write_text(META + "ElementDataFile = b.raw\n")
    with pytest.raises(UserError, match="outside of"):
        read_values(scans / "b.mhd")


@pytest.mark.parametrize("pattern", ["a%s.raw 1 3 1", "%n%n 1 3 1", "a%d%s.raw 1 3 1", "100%.raw"])
def test_a_pattern_of_anything_but_a_number_is_refused(pattern: str, scans: Path) -> None:
    (scans / "b.mhd").write_text(META + f"ElementDataFile = {pattern}\n")
    with pytest.raises(UserError, match="expected one name, or a pattern such as"):
        read_values(scans / "b.mhd")


def test_a_header_that_names_nothing_is_refused(scans: Path) -> None:
    (scans / "b.mhd").write_text(META)
    with pytest.raises(UserError, match="no line ElementDataFile"):
        read_values(scans / "b.mhd")


def test_what_lies_in_the_data_set_is_read(scans: Path) -> None:
    expected = VOXELS.reshape(5, 4, 3, order="F")
    (scans / "b.mhd").write_text(META + "ElementDataFile = a.raw\n")
    (scans / "b.nhdr").write_text(NRRD + f"data file: {scans}/a.raw\n")
    for slice_number in range(3):
        (scans / f"z{slice_number}.raw").write_bytes(VOXELS[20 * slice_number : 20 * slice_number + 20].tobytes())
    (scans / "series.mhd").write_text(META + "ElementDataFile = z%d.raw 0 2 1\n")
    (scans / "list.mhd").write_text(META + "ElementDataFile = LIST\nz0.raw\nz1.raw\nz2.raw\n")
    (scans / "list.nhdr").write_text(NRRD + "data file: LIST 2\nz0.raw\nz1.raw\nz2.raw\n")
    for name in ("b.mhd", "b.nhdr", "series.mhd", "list.mhd", "list.nhdr"):
        np.testing.assert_array_equal(read_values(scans / name)[0], expected, err_msg=name)
    other = scans.parent / "voxels"
    other.mkdir()
    (other / "a.raw").write_bytes(VOXELS.tobytes())
    (scans / "c.mhd").write_text(META + "ElementDataFile = ../voxels/a.raw\n")
    with pytest.raises(UserError, match="outside of"):
        read_values(scans / "c.mhd")
    (scans.parent / "dataset.json").write_text("{}")
    np.testing.assert_array_equal(read_values(scans / "c.mhd")[0], expected)


def test_links_to_a_scan_elsewhere_are_read_where_the_header_is_one_too(scans: Path) -> None:
    """A data set of links, each put there by its owner."""
    other = scans.parent / "other"
    other.mkdir()
    (scans / "a.raw").rename(other / "a.raw")
    (other / "a.mhd").write_text(META + "ElementDataFile = a.raw\n")
    for name in ("a.raw", "a.mhd"):
        (scans / name).symlink_to(other / name)
    np.testing.assert_array_equal(read_values(scans / "a.mhd")[0].ravel(order="F"), VOXELS)


def test_the_files_of_a_header_are_found_whatever_it_is_called_and_however_long_it_is(scans: Path) -> None:
    long = "#" + SHORT_HEADER * "x" + "\n"
    headers = {
        "b.mha": META + "ElementDataFile = a.raw\n",
        "b.nrrd": NRRD + "data file: a.raw\n",
        "long.nrrd": NRRD + long + "data file: a.raw\n",
        "long.mha": META + "Comment = " + long + "ElementDataFile = a.raw\n",
        "list.mha": META + "ElementDataFile = LIST\n" + "gone.raw\n" * SHORT_HEADER + "a.raw\n",
    }
    for name, header in headers.items():
        (scans / name).write_text(header)
        assert files_beside(scans / name) == [scans.resolve() / "a.raw"], name
        np.testing.assert_array_equal(read_values(scans / name)[0].ravel("F"), VOXELS) if name[0] == "b" else None
    for name, header in {"c.mha": META + "ElementDataFile = LOCAL\n", "c.nrrd": NRRD + "\n"}.items():
        (scans / name).write_bytes(header.encode() + b"\ndata file: a.raw\nElementDataFile = a.raw\n")
        assert files_beside(scans / name) == []
    (scans / "d.nii").write_text(META + "ElementDataFile = a.raw\n")
    assert files_beside(scans / "d.nii") == []
