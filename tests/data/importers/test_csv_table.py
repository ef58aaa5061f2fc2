"""Tables in CSV over files that lie anywhere."""

from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from patchcl.core.errors import UserError
from patchcl.data.dataset import read_dataset
from patchcl.data.importers.csv_table import convert, detect
from patchcl.data.importers.writer import write_raw_folder
from patchcl.data.preprocessing.plan import PlanSettings
from patchcl.data.preprocessing.planner import fingerprint_for, make_plan
from patchcl.data.scan import read_grid, read_image, read_mask
from patchcl.data.splits import SplitSettings, make_split

SHAPE = (5, 4, 3)


def voxels(path: str) -> np.ndarray:
    return np.random.default_rng(list(path.encode())).integers(0, 3, SHAPE).astype(np.uint8)


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Write a table, and every NIfTI file that a cell of it names."""

    def write(*lines: str, delimiter: str = ",") -> Path:
        table = tmp_path / "study" / "scans.csv"
        for cell in ",".join(lines).replace(";", ",").split(","):
            path = table.parent / cell.strip()
            if cell.endswith(".nii.gz") and not cell.startswith("gone"):
                path.parent.mkdir(parents=True, exist_ok=True)
                nib.save(nib.Nifti1Image(voxels(cell), np.eye(4)), path)
        table.parent.mkdir(exist_ok=True)
        table.write_text("\n".join(lines).replace(",", delimiter), encoding="utf-8-sig")
        return table

    return write


def test_sides_patients_and_voxels_survive(write: Callable[..., Path], tmp_path: Path) -> None:
    table = write(
        "Image,mask,case,patient,side,age",
        "../far/x.nii.gz,m/x.nii.gz,first,,train,71",
        "i/a.nii.gz,,,P1,,68",
        "i/P1_b.nii.gz,,,P1,Train,68",
        "i/c.nii.gz,m/c.nii.gz,scan07,P2,validation,",
        "i/d.nii.gz,m/d.nii.gz,P3_ED,P3,test,44",
        "",
    )
    out = write_raw_folder(convert(table.parent), tmp_path / "out").folder
    dataset = read_dataset(out)
    assert (dataset.name, dataset.channels) == ("scans", ("image",))
    split = make_split(dataset, SplitSettings(file=out / "split.json"))
    assert split.model_dump() == {
        "labeled": ("first",), "unlabeled": ("P1",), "validation": ("P2",), "test": ("P3",)
    }  # fmt: skip
    files = {
        "first": "../far/x.nii.gz", "P1_scan1": "i/a.nii.gz", "P1_scan2": "i/P1_b.nii.gz",
        "P2_scan07": "i/c.nii.gz", "P3_ED": "i/d.nii.gz",
    }  # fmt: skip
    assert {case.name for case in dataset.cases} == set(files)
    for name, file in files.items():
        np.testing.assert_array_equal(read_image(dataset.case(name).images).voxels[0], voxels(file))
    for name, file in {"first": "m/x.nii.gz", "P2_scan07": "m/c.nii.gz"}.items():
        mask = dataset.case(name).mask
        assert mask is not None
        np.testing.assert_array_equal(read_mask(mask, 3), voxels(file))


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_channels_have_columns_of_their_own(write: Callable[..., Path], tmp_path: Path, delimiter: str) -> None:
    lines = ("image_1,image_0,mask", "b.nii.gz,a.nii.gz,m.nii.gz", "d.nii.gz,c.nii.gz,")
    table = write(*lines, delimiter=delimiter)
    assert detect(table)
    found = convert(table)
    assert (found.channels, found.ending) == (("image_0", "image_1"), ".nii.gz")
    dataset = read_dataset(write_raw_folder(found, tmp_path / "out").folder)
    expected = np.stack([voxels("a.nii.gz"), voxels("b.nii.gz")])
    np.testing.assert_array_equal(read_image(dataset.case("a").images).voxels, expected)
    assert dataset.case("c").mask is None


def test_pictures_in_colour_have_three_channels(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        Image.fromarray(np.full((4, 4, 3), 7, np.uint8)).save(tmp_path / name)
    (tmp_path / "t.csv").write_text("image,mask\na.png,\nb.png,")
    assert convert(tmp_path / "t.csv").channels == ("R", "G", "B")


def test_every_wrong_row_is_listed_with_its_line(write: Callable[..., Path]) -> None:
    table = write(
        "image,mask,case,side",
        "a.nii.gz,gone.nii.gz,,",
        "",
        "b.nii.gz,,,",
        '"c.txt",,,',
        ",,nobody,",
        "d.nii.gz,,../up,testing",
        "e.nii.gz,,,train,more",
    )
    (table.parent / "c.txt").touch()
    with pytest.raises(UserError) as caught:
        convert(table)
    lines = str(caught.value).splitlines()
    assert lines[0] == f"{table} lists scans that cannot be imported. Correct it:"
    beginnings = [
        f"line 2: {table.parent}/gone.nii.gz does not exist; paths start from {table.parent}",
        "line 5: c.txt is of no known format; expected a name that ends in .nii.gz",
        "line 6: an image is missing",
        "line 7: side is 'testing'; expected train, validation, test, or nothing, which means train",
        "line 7: '../up' cannot be part of a file's name",
        "line 8: there are more cells than columns",
    ]
    assert len(lines) == 1 + len(beginnings)
    for line, beginning in zip(lines[1:], beginnings, strict=True):
        assert line.strip().startswith(beginning)


def test_a_long_list_of_wrong_rows_is_cut(write: Callable[..., Path]) -> None:
    with pytest.raises(UserError) as caught:
        convert(write("image,mask", *(f"gone{number}.nii.gz," for number in range(30))))
    assert str(caught.value).splitlines()[-1] == "  and 10 more"
    assert len(str(caught.value).splitlines()) == 22


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (("a.nii.gz,,", "a.nii.gz,,"), "line 3: a is in line 2 already"),
        (("a.nii.gz,x,", "b.nii.gz,x,"), "line 3: x is in line 2 already"),
        (("a.nii.gz,,P_ES",), "line 2: patient P_ES would be taken for P; call patients otherwise"),
    ],
)
def test_rows_that_contradict_each_other(write: Callable[..., Path], rows: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        convert(write("image,case,patient", *rows))


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (("mask", "m.nii.gz"), "has 1 rows and the columns mask; expected a row for every scan"),
        (("image,image_0", "a.nii.gz,b.nii.gz"), "the columns image, image_0"),
        (("image_0,image_2", "a.nii.gz,b.nii.gz"), "the columns image_0, image_2"),
        (("image,mask,mask", "a.nii.gz,,"), "the columns image, mask, mask"),
        (("image,mask",), "has 0 rows and the columns image, mask"),
        (("",), "has 0 rows and the columns "),
    ],
)
def test_tables_without_the_columns(write: Callable[..., Path], lines: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        convert(write(*lines))


def test_a_folder_needs_one_table(write: Callable[..., Path]) -> None:
    table = write("image,mask", "a.nii.gz,")
    (table.parent / "b.csv").write_bytes(b"\xff\xfe")
    assert not detect(table.parent / "b.csv")
    with pytest.raises(UserError, match="study holds 2 CSV files"):
        convert(table.parent)
    with pytest.raises(UserError, match=r"b\.csv cannot be read as CSV"):
        convert(table.parent / "b.csv")


def test_channels_of_dicom_are_called_by_their_modality(write_series: Callable[..., Path], tmp_path: Path) -> None:
    pytest.importorskip("pydicom")
    pixels = np.random.default_rng(0).integers(-1000, 1000, (5, 4, 3)).astype(np.int16)
    for name, kind in (("a", "CT"), ("b", "CT"), ("c", "MR"), ("d", "MR")):
        folder = write_series(pixels, folder=name, Modality=kind)
        nib.save(nib.Nifti1Image((pixels > 0).astype(np.uint8), read_grid(folder).affine), tmp_path / f"{name}.nii.gz")
    table = tmp_path / "table.csv"

    def channels(*lines: str) -> tuple[str, ...]:
        table.write_text("\n".join(lines))
        return convert(table).channels

    assert channels("image,mask", "a,a.nii.gz", "b,") == ("CT",)
    assert channels("image_0,image_1,mask", "a,c,a.nii.gz") == ("CT", "MR")
    assert channels("image_0,image_1,mask", "c,d,c.nii.gz") == ("MR image_0", "MR image_1")
    assert channels("image,mask", "a,a.nii.gz", "b.nii.gz,") == ("image",)
    with pytest.raises(UserError, match=r"table holds images of several kinds: CT in .*a, MR in .*c\. Import them"):
        channels("image,mask", "a,a.nii.gz", "c,")
    channels("image,mask", "a,a.nii.gz", "b,")
    dataset = read_dataset(write_raw_folder(convert(table), tmp_path / "out").folder)
    settings = PlanSettings()
    plan = make_plan(dataset, settings, fingerprint_for(dataset, settings, ("a",)))
    assert plan.normalise == "ct"
