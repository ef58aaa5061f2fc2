"""Contours in an export become masks of the series that they were drawn on."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from patchcl.core.errors import UserError
from patchcl.data.check import check_data
from patchcl.data.dataset import read_dataset
from patchcl.data.importers.dicom_export import convert
from patchcl.data.importers.registry import ImportOptions, describe, import_dataset
from patchcl.data.preprocessing.plan import PlanSettings
from patchcl.data.scan import read_grid, read_mask
from patchcl.data.splits import SplitSettings

pydicom = pytest.importorskip("pydicom")
pytest.importorskip("highdicom")

SHAPE = (8, 7, 5)
Make = Callable[..., Any]


def box(left: float, top: float, right: float, bottom: float, *slices: int) -> list[np.ndarray]:
    corners = [(left, top), (right, top), (right, bottom), (left, bottom)]
    return [np.array([(x, y, 2.0 * level) for x, y in corners]) for level in slices]


@pytest.fixture
def patient(write_series: Make, write_structures: Make, tmp_path: Path) -> Make:
    """Add a patient whose CT has contours, if there are `rois`; returns the export."""

    def add(name: str, rois: dict[str, list[np.ndarray]] | None = None, **fields: Any) -> Path:
        uid = f"1.2.{ord(name[-1])}"
        voxels = np.random.default_rng(list(name.encode())).integers(-1000, 2000, SHAPE).astype(np.int16)
        place = {"folder": f"pacs/{name}/ct", "spacing": (1.0, 1.0, 2.0), "SeriesInstanceUID": uid}
        write_series(voxels, FrameOfReferenceUID=f"{uid}.1", **place)
        if rois is not None:
            path = tmp_path / "pacs" / name / "rt/structures.dcm"
            write_structures(path, rois, **({"series": uid, "FrameOfReferenceUID": f"{uid}.1"} | fields))
        return tmp_path / "pacs"

    return add


def masks(folder: Path) -> dict[str, np.ndarray]:
    dataset = read_dataset(folder)
    labeled = [case for case in dataset.cases if case.mask is not None]
    return {case.name: read_mask(case.mask, dataset.classes, read_grid(case.images[0])) for case in labeled}


LIVER = box(1.5, 1.5, 5.5, 4.5, 1, 2, 3)
SPLEEN = box(5.5, 4.5, 6.5, 5.5, 2)


def test_contours_become_masks_and_names_become_classes(patient: Make, tmp_path: Path) -> None:
    patient("p1", {"Liver": LIVER + box(2.5, 2.5, 3.5, 3.5, 2), "spleen": SPLEEN})
    patient("p2", {"spleen": SPLEEN, "liver": LIVER})
    source = patient("p3")
    imported = import_dataset(source, tmp_path / "out", "dicom")
    assert describe(imported) == "3 scans, 2 with masks; classes: background, Liver, spleen."
    found = masks(imported.folder)
    expected = np.zeros(SHAPE, np.uint8)
    expected[2:6, 2:5, 1:4] = 1
    expected[6, 5, 2] = 2
    np.testing.assert_array_equal(found["p2"], expected)
    expected[3, 3, 2] = 0
    np.testing.assert_array_equal(found["p1"], expected)
    segment = pydicom.dcmread(imported.folder / "labelsTr/p1.dcm").SegmentSequence[0]
    assert (segment.SegmentLabel, segment.SegmentAlgorithmType) == ("Liver", "MANUAL")
    report = check_data(imported.folder, SplitSettings(validation_fraction=0.5), PlanSettings())
    assert (report.problems, report.plan and report.plan.normalise) == ((), "ct")
    description = imported.folder / "dataset.json"
    description.write_text(description.read_text().replace('"CT"', '"scan"'))
    warnings = check_data(imported.folder, SplitSettings(validation_fraction=0.5), PlanSettings()).warnings
    assert any(
        line.startswith("channel_names in dataset.json calls channel 0 'scan', but it is CT") for line in warnings
    )


def test_structures_are_chosen_and_what_is_left_aside_is_told(patient: Make, tmp_path: Path) -> None:
    body = box(-0.5, -0.5, 7.5, 6.5, 0, 1, 2, 3, 4)
    patient("p1", {"BODY": body, "tumour": box(2.5, 2.5, 3.5, 3.5, 2), "liver": LIVER})
    source = patient("p2", {"liver": LIVER, "spleen": []})
    with pytest.raises(UserError, match=r"p1/rt/structures\.dcm: structures overlap, and a voxel has one class"):
        import_dataset(source, tmp_path / "out", "dicom")
    assert not (tmp_path / "out").exists()
    imported = import_dataset(source, tmp_path / "out", "dicom", ImportOptions(("liver", "tumour")))
    found = masks(imported.folder)
    assert {name: np.bincount(mask.ravel()).tolist()[1:] for name, mask in found.items()} == {"p1": [35, 1], "p2": [36]}
    p1, p2 = (source / name / "rt/structures.dcm" for name in ("p1", "p2"))
    assert describe(imported).splitlines()[1:] == [
        f"{p1}: left aside are BODY, which are no classes.",
        f"{p2}: left aside are spleen, which have no closed contour.",
        f"tumour is not drawn in {p2}, which counts as not there.",
    ]


def test_contours_belong_to_the_series_they_name_or_lie_on(patient: Make, change: Make) -> None:
    source = patient("p1", {"liver": LIVER}, series="")
    assert convert(source).scans[0].mask is not None
    path = source / "p1/rt/structures.dcm"
    patient("p1", {"liver": LIVER}, series="", FrameOfReferenceUID="1.9")
    with pytest.raises(UserError, match=r"structures\.dcm holds contours of no series that lies with it, .* 'thorax'"):
        convert(source)
    patient("p1", {"liver": box(1.5, 1.5, 5.5, 4.5, 9)}, series="")
    with pytest.raises(UserError, match="holds contours of no series that lies with it"):
        convert(source)
    path.with_name("second.dcm").write_bytes(path.read_bytes())
    patient("p1", {"liver": LIVER})
    path.with_name("second.dcm").write_bytes(path.read_bytes())
    with pytest.raises(UserError, match=r"holds 2 masks of the series 'thorax':\n.*second\.dcm: 1 'liver'"):
        convert(source)


def test_contours_of_another_series_there_stay_behind(patient: Make, write_series: Make) -> None:
    source = patient("p1", {"liver": LIVER})
    write_series(np.zeros((3, 3, 2), np.int16), folder="pacs/p1/scout", SeriesInstanceUID="1.7", SeriesDescription="b")
    assert convert(source, ImportOptions(series="thorax")).scans[0].mask is not None
    patient("p1", {"liver": LIVER}, series="1.7")
    patient("p2", {"liver": LIVER})
    scans = convert(source, ImportOptions(series="thorax")).scans
    assert [scan.mask is None for scan in scans] == [True, False]


def test_more_structures_than_fit_have_to_be_chosen_from(patient: Make) -> None:
    source = patient("p1", {f"R{number}": SPLEEN for number in range(255)})
    with pytest.raises(UserError, match=r"The masks name 255 structures \(R0, .*--structures A,B"):
        convert(source)
    assert convert(source, ImportOptions(("R7",))).structures == {"R7": 1}


def test_a_structure_set_among_masks_is_sent_to_import(patient: Make, tmp_path: Path) -> None:
    source = patient("p1", {"liver": LIVER})
    folder = import_dataset(source, tmp_path / "out", "dicom").folder
    (folder / "labelsTr/p1.dcm").write_bytes((source / "p1/rt/structures.dcm").read_bytes())
    (problem,) = [line for line in check_data(folder, SplitSettings(), PlanSettings()).problems if "p1.dcm" in line]
    assert "p1.dcm is a structure set (RTSTRUCT): contours, and no voxels" in problem
    assert "patchcl import FOLDERS -o NEW_FOLDER --layout dicom" in problem
