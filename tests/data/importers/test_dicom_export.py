"""Exports of a PACS: folders of scans with many series, and masks that belong to some of them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from patchcl.api import predict
from patchcl.config import load_settings
from patchcl.core.errors import UserError
from patchcl.data.check import check_data
from patchcl.data.dataset import read_dataset
from patchcl.data.discovery import link_series
from patchcl.data.formats.dicom import segmentation as dicom_seg
from patchcl.data.formats.dicom import series as dicom
from patchcl.data.formats.dicom.writing import write_segmentation
from patchcl.data.importers.dicom_export import convert, detect
from patchcl.data.importers.registry import ImportOptions, describe, detect_layouts, import_dataset, require_ours
from patchcl.data.preprocessing.plan import PlanSettings
from patchcl.data.scan import read_grid, read_image, read_mask

pydicom = pytest.importorskip("pydicom")
pytest.importorskip("highdicom")

SAMPLE = Path(__file__).parents[4] / "shared/data/samples/dicom_seg"
SHAPE = (5, 4, 6)
LIVER = ("background", "Liver", "big tumour")
Make = Callable[..., Any]


def volume(name: str) -> np.ndarray:
    return np.random.default_rng(list(name.encode())).integers(-1000, 2000, SHAPE).astype(np.int16)


def classes(name: str, count: int = 3) -> np.ndarray:
    return np.random.default_rng(list(name.encode())).integers(0, count, SHAPE).astype(np.uint8)


@pytest.fixture
def export(write_series: Make, tmp_path: Path) -> Make:
    """Add the series `description` of the patient `name`, and in a folder of its own its mask if there are `labels`."""

    def add(name: str, description: str = "thorax", labels: tuple[str, ...] = (), **fields: Any) -> Path:
        folder = f"pacs/{name}/study/{description}"
        own = {"SeriesInstanceUID": f"1.2.{len(name)}.{len(description)}", "SeriesDescription": description}
        own["FrameOfReferenceUID"] = f"1.3.{ord(name[-1])}"
        series = write_series(volume(name + description), folder=folder, **(own | fields))
        if labels:
            path = tmp_path / "pacs" / name / "masks" / f"{description}.dcm"
            path.parent.mkdir(exist_ok=True)
            write_segmentation(path, classes(name, len(labels) + 1), series, ("background", *labels))
        return tmp_path / "pacs"

    return add


def test_an_export_becomes_a_data_set_of_the_same_bytes(export: Make, tmp_path: Path) -> None:
    for name in ("p 1", "p2"):
        export(name, labels=LIVER[1:])
    source = export("p3")
    imported = import_dataset(source, tmp_path / "out", "dicom")
    assert describe(imported) == "3 scans, 2 with masks; classes: background, Liver, big tumour."
    dataset = read_dataset(imported.folder)
    assert (dataset.name, dataset.channels, dataset.classes) == ("pacs", ("CT",), LIVER)
    assert {case.name: case.folder for case in dataset.cases} == {
        "p_1": "imagesTr",
        "p2": "imagesTr",
        "p3": "imagesUn",
    }
    for case, name in zip(dataset.cases, ("p2", "p3", "p 1"), strict=True):
        (image,) = case.images
        assert image.name == f"{case.name}_0000"
        assert {file.name: file.read_bytes() for file in image.iterdir()} == {
            file.name: file.read_bytes() for file in (source / name / "study/thorax").iterdir()
        }
        np.testing.assert_array_equal(read_image(case.images).voxels[0], volume(f"{name}thorax"))
        if case.mask is not None:
            assert case.mask.read_bytes() == (source / name / "masks/thorax.dcm").read_bytes()
            np.testing.assert_array_equal(read_mask(case.mask, dataset.classes, dicom.read_grid(image)), classes(name))
    report = check_data(imported.folder, load_settings(None, ["split.validation_fraction=0.5"]).split, PlanSettings())
    assert report.problems == ()
    require_ours(imported.folder)


def test_folders_of_many_series_are_listed_in_one_message_and_a_pattern_chooses(export: Make, tmp_path: Path) -> None:
    for name in ("p1", "p2"):
        export(name, "CT thorax 5mm", labels=("lung",))
        export(name, "scout", Modality="MR")
    source = export("p3", "CT thorax 2mm")
    with pytest.raises(UserError) as error:
        import_dataset(source, tmp_path / "out", "dicom")
    uid = "UID 1.2.2"
    assert str(error.value).splitlines() == [
        f"{source}: 2 of 3 folders cannot be imported.",
        *(
            line
            for name in ("p1", "p2")
            for line in (
                f"  {source / name} holds 2 series; one was expected:",
                f"    CT 'CT thorax 5mm', 6 slices, {uid}.13",
                f"    MR 'scout', 6 slices, {uid}.5",
            )
        ),
        "Each folder is a scan: one image series, and one mask of it at the most. Choose the series by a part of its "
        "description, or by its UID: --series PATTERN. What does not belong to the scans must lie elsewhere.",
    ]
    assert not (tmp_path / "out").exists()
    imported = import_dataset(source, tmp_path / "out", "dicom", ImportOptions(series="^CT .*mm$"))
    for case in read_dataset(imported.folder).cases:
        description = f"CT thorax {'2' if case.name == 'p3' else '5'}mm"
        assert (case.mask is None) == (case.name == "p3")
        np.testing.assert_array_equal(read_image(case.images).voxels[0], volume(case.name + description))
    with pytest.raises(UserError, match=r"1 of 3 folders .*\n.*p3 holds 1 series, and 0 of them fit '5mm'"):
        convert(source, ImportOptions(series="5mm"))
    with pytest.raises(UserError, match=r"2 of 3 folders .*\n.*p1 holds 2 series, and 2 of them fit 'T|s'"):
        convert(source, ImportOptions(series="T|s"))
    with pytest.raises(UserError, match=r"^'\(' is no regular expression"):
        convert(source, ImportOptions(series="("))


def test_a_series_of_every_folder_is_linked_and_the_others_are_told(export: Make, tmp_path: Path) -> None:
    export("p1_0000", "CT thorax 5mm", labels=("lung",))
    export("p1_0000", "scout", Modality="MR")
    export("p2", "CT abdomen")
    source = export("p3", "CT thorax 2mm")
    export("p4", "CT thorax 1mm")
    (source / "p4/study/CT thorax 1mm/slice002.dcm").unlink()
    scans, failed = link_series(source, "thorax", tmp_path / "links")
    assert list(scans) == ["p1", "p3"]
    for paths, name in zip(scans.values(), ("p1_0000CT thorax 5mm", "p3CT thorax 2mm"), strict=True):
        np.testing.assert_array_equal(read_image(paths).voxels[0], volume(name))
    (p2, (p4, missing)) = failed
    listed = f"{source / 'p2'} holds 1 series, and 0 of them fit 'thorax'; one was expected:\n  CT 'CT abdomen'"
    assert p2[0] == "p2"
    assert p2[1].startswith(listed)
    assert (p4, "1 slice is missing" in missing) == ("p4", True)

    alone, _ = link_series(source / "p3/study/CT thorax 2mm", "", tmp_path / "alone")
    assert list(alone) == ["CT thorax 2mm"]
    with pytest.raises(UserError, match="no regular expression"):
        link_series(source, "(", tmp_path / "none")
    with pytest.raises(UserError, match="holds no folder"):
        link_series(source / "gone", "", tmp_path / "none")


def test_linking_writes_over_nothing_and_leaves_nothing_out(export: Make, tmp_path: Path) -> None:
    source = export("p1_0000", "thorax")
    study = source / "p1_0000/study"
    for place, name in (("a_b", "c.dcm"), ("a", "b_c.dcm"), ("d", "c.dcm")):
        (study / place).mkdir(exist_ok=True)
        (study / "thorax" / f"slice00{len(list(study.iterdir())) - 2}.dcm").rename(study / place / name)
    export("p1_0001", "thorax")
    before = {path: path.read_bytes() for path in source.rglob("*.dcm")}
    scans, failed = link_series(source, "", tmp_path / "links")
    assert failed == []
    assert {name: [path.name for path in paths] for name, paths in scans.items()} == {"p1": ["p1_0000", "p1_0001"]}
    for path, name in zip(scans["p1"], ("p1_0000", "p1_0001"), strict=True):
        np.testing.assert_array_equal(read_image([path]).voxels[0], volume(f"{name}thorax"))
    assert {path: path.read_bytes() for path in source.rglob("*.dcm")} == before


def test_the_series_chosen_of_an_export_is_segmented(export: Make, change: Make, trained: Path, tmp_path: Path) -> None:
    for name in ("p1", "p2"):
        export(name, "CT thorax")
        export(name, "scout")
    source = export("p3", "scout")
    damaged = source / "p2/study/CT thorax/slice004.dcm"
    change(damaged, PixelData=b"\0\0")
    summary = predict(trained, source, tmp_path / "out", series="thorax")
    assert summary.done == ("p1",)
    (_, no_series), (_, broken) = sorted(summary.failed, reverse=True)
    assert f"{source / 'p3'} holds 1 series, and 0 of them fit 'thorax'" in no_series
    assert str(damaged) in broken
    assert "patchcl-" not in broken
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["p1.dcm", "predictions.csv"]
    grid = read_grid(source / "p1/study/CT thorax")
    mask = read_mask(tmp_path / "out/p1.dcm", ("background", "RV", "MYO", "LV"), grid)
    assert mask.shape == SHAPE


def test_a_uid_chooses_the_series_and_masks_of_the_others_stay_behind(export: Make) -> None:
    export("p1", "portal", labels=("liver",))
    export("p1", "scout", labels=("bone",))
    source = export("p1", "late")
    for series, mask in {"1.2.2.6": "portal", "1.2.2.5": "scout"}.items():
        found = convert(source, ImportOptions(series=series))
        assert found.structures == {{"portal": "liver", "scout": "bone"}[mask]: 1}
    assert [scan.mask for scan in convert(source, ImportOptions(series="late")).scans] == [None]


def test_scans_without_any_mask_are_unlabeled_and_what_training_needs_is_said(export: Make, tmp_path: Path) -> None:
    export("p1")
    source = export("p2")
    imported = import_dataset(source, tmp_path / "out", "dicom")
    first, note = describe(imported).splitlines()
    assert first == "2 scans, 0 with masks; classes: background, structure_1."
    assert note.startswith("No scan has a mask (DICOM-SEG, RTSTRUCT or pictures), so all are unlabeled")
    assert sorted(path.name for path in (imported.folder / "imagesUn").iterdir()) == ["p1_0000", "p2_0000"]
    with pytest.raises(UserError, match="imagesTr holds no scans"):
        read_dataset(imported.folder)
    named = import_dataset(source, tmp_path / "named", "dicom", ImportOptions(("liver", "spleen"))).folder
    (named / "imagesTr").mkdir()
    (named / "labelsTr").mkdir()
    image = (named / "imagesUn/p1_0000").rename(named / "imagesTr/p1_0000")
    write_segmentation(named / "labelsTr/p1.dcm", classes("p1"), image, ("background", "liver", "spleen"))
    dataset = read_dataset(named)
    assert dataset.classes == ("background", "liver", "spleen")
    (case,) = (case for case in dataset.cases if case.mask is not None)
    np.testing.assert_array_equal(read_mask(case.mask, dataset.classes, read_grid(case.images[0])), classes("p1"))


def test_links_to_folders_are_followed_and_lead_nowhere_twice(export: Make, tmp_path: Path) -> None:
    source = export("p1", labels=("liver",))
    export("p2")
    (source / "p1/notes.txt").write_text("hello")
    (source / "p1").rename(tmp_path / "elsewhere")
    (source / "p1").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (source / "p2/study").rename(tmp_path / "study")
    (source / "p2/study").symlink_to(tmp_path / "study", target_is_directory=True)
    (tmp_path / "study/again").symlink_to(tmp_path / "study", target_is_directory=True)
    imported = import_dataset(source, tmp_path / "out", "dicom")
    assert describe(imported).startswith("2 scans, 1 with masks; classes: background, liver.")
    for case in read_dataset(imported.folder).cases:
        np.testing.assert_array_equal(read_image(case.images).voxels[0], volume(f"{case.name}thorax"))
    assert imported.unused == ("p1/notes.txt",)


def test_a_mask_that_names_no_series_there_belongs_where_its_slices_lie(export: Make, change: Make) -> None:
    export("p1", labels=("liver",))
    source = export("p2", labels=("liver",))
    path = source / "p2/masks/thorax.dcm"
    renamed = pydicom.dcmread(path).ReferencedSeriesSequence
    renamed[0].SeriesInstanceUID = "1.9"
    for named in (renamed, None):
        change(path, ReferencedSeriesSequence=named)
        assert [scan.mask is None for scan in convert(source).scans] == [False, False]
    reference = str(pydicom.dcmread(path).FrameOfReferenceUID)
    stray = r"1 of 2 folders .*\n.*p2/masks/thorax\.dcm is a mask of no series that lies with it"
    change(path, FrameOfReferenceUID="1.9")
    with pytest.raises(UserError, match=stray):
        convert(source)
    change(path, FrameOfReferenceUID=reference)
    for slice_ in (source / "p2/study/thorax").iterdir():
        position = pydicom.dcmread(slice_).ImagePositionPatient
        change(slice_, ImagePositionPatient=[position[0], position[1], position[2] + 0.5])
    with pytest.raises(UserError, match=stray):
        convert(source)


def test_two_masks_of_one_series_are_shown_with_their_labels(export: Make) -> None:
    source = export("p1", labels=("liver",))
    second = source / "p1/second.dcm"
    write_segmentation(second, classes("p1"), source / "p1/study/thorax", ("background", "lung", "heart"))
    with pytest.raises(UserError) as error:
        convert(source)
    assert str(error.value).splitlines()[1:4] == [
        f"  {source / 'p1'} holds 2 masks of the series 'thorax':",
        f"    {source / 'p1/masks/thorax.dcm'}: 1 'liver'",
        f"    {second}: 1 'lung', 2 'heart'",
    ]


def test_masks_must_agree_on_their_segments_or_be_told_the_classes(export: Make, tmp_path: Path) -> None:
    export("p1", labels=("Liver", "tumour"))
    source = export("p2", labels=("TUMOUR", "liver"))
    with pytest.raises(UserError) as error:
        convert(source)
    paths = [source / name / "masks/thorax.dcm" for name in ("p1", "p2")]
    assert str(error.value).splitlines()[:5] == [
        f"{source}: masks disagree on what their segments are:",
        f"  1 'Liver' in {paths[0]}",
        f"  1 'TUMOUR' in {paths[1]}",
        f"  2 'liver' in {paths[1]}",
        f"  2 'tumour' in {paths[0]}",
    ]
    dataset = read_dataset(import_dataset(source, tmp_path / "out", "dicom", ImportOptions(("tumour", "liver"))).folder)
    assert dataset.classes == ("background", "tumour", "liver")
    for case in dataset.cases:
        expected = np.array([0, 2, 1] if case.name == "p1" else [0, 1, 2])[classes(case.name)]
        assert case.mask is not None
        np.testing.assert_array_equal(read_mask(case.mask, dataset.classes, read_image(case.images).grid), expected)
    with pytest.raises(UserError, match=r"p1/masks/thorax\.dcm has segments that are no class: 1 'Liver'"):
        import_dataset(source, tmp_path / "other", "dicom", ImportOptions(("tumour",)))
    assert not (tmp_path / "other").exists()


def test_labels_alike_are_one_class_and_a_structure_may_be_missing(export: Make) -> None:
    export("p1", labels=("Background", "left lung", "spleen"))
    source = export("p2", labels=("background", "Left_Lung"))
    assert convert(source).structures == {"left lung": 1, "spleen": 2}


@pytest.mark.parametrize(
    ("structures", "message"),
    [(["A=2", "B=1"], "--structures A=2,B=1: DICOM-SEG tells classes by name"), (["A", "ignore"], "called ignore")],
)
def test_classes_have_names_alone(export: Make, structures: list[str], message: str) -> None:
    source = export("p1", labels=("A", "B"))
    with pytest.raises(UserError, match=message):
        convert(source, ImportOptions(tuple(structures)))


def test_a_series_may_lie_in_several_folders_whose_files_have_one_name(
    write_series: Make, export: Make, tmp_path: Path
) -> None:
    values = volume("apart")
    for part in (0, 1):
        origin = (0.0, 0.0, 3.0 * part)
        write_series(
            values[..., 3 * part : 3 * part + 3], origin=origin, name="IM{}".format, folder=f"pacs/apart/{part}"
        )
    source = export("whole", labels=("liver",))
    (apart, _) = read_dataset(import_dataset(source, tmp_path / "out", "dicom").folder).cases
    names = [f"{number:05d}_IM{number % 3}.dcm" for number in range(6)]
    assert sorted(file.name for file in apart.images[0].iterdir()) == names
    np.testing.assert_array_equal(read_image(apart.images).voxels[0], values)


def test_what_is_wrong_is_said_of_every_folder(export: Make, write_file: Make, tmp_path: Path) -> None:
    source = export("p1", labels=("liver",))
    export("p2")
    (source / "p2/study/thorax/slice003.dcm").unlink()
    export("p3")
    (source / "p3/study/thorax/slice003.dcm").write_bytes(b"damaged")
    (source / "empty").mkdir()
    (source / ".hidden").mkdir()
    with pytest.raises(UserError) as error:
        convert(source)
    first, empty, missing, damaged, _ = str(error.value).splitlines()
    assert first == f"{source}: 3 of 4 folders cannot be imported."
    assert empty.startswith(f"  {source / 'empty'} holds no DICOM image.")
    assert missing.startswith(f"  {source / 'p2'}: 1 slice is missing: it is 2 mm from slice002.dcm to slice004.dcm")
    assert damaged.startswith(f"  {source / 'p3/study/thorax/slice003.dcm'} is no DICOM file")
    for number in range(4):
        (source / f"e{number}").mkdir()
    with pytest.raises(UserError, match=r"7 of 8 folders .*\n(  .*\n){5}  and 2 folders more\n"):
        convert(source)
    with pytest.raises(UserError, match="holds DICOM files themselves; expected a folder for each scan"):
        convert(source / "p1/study/thorax")
    with pytest.raises(UserError, match="holds no folders; expected a folder for each scan"):
        convert(source / "empty")


def test_nothing_is_left_of_an_import_that_failed(export: Make, tmp_path: Path, change: Make) -> None:
    source = export("p1", labels=("liver",))
    export("p2")
    change(source / "p2/study/thorax/slice003.dcm", PixelData=None)
    with pytest.raises(UserError, match=r"p2/study/thorax/slice003\.dcm holds no pixels"):
        import_dataset(source, tmp_path / "out", "dicom")
    assert [path.name for path in tmp_path.iterdir()] == ["pacs"]


def test_names_and_kinds_of_scans_must_not_clash(export: Make) -> None:
    export("p 1", labels=("liver",))
    source = export("p_1")
    with pytest.raises(UserError, match=r"folders .*pacs/p 1, .*pacs/p_1 would give scans of one name"):
        convert(source)
    (source / "p_1").rename(source / "p2")
    export("p3", Modality="MR")
    with pytest.raises(UserError, match="images of several kinds: CT in p2, MR in p3"):
        convert(source)


def test_radiographs_of_two_modalities_are_of_one_kind(export: Make) -> None:
    export("p1", labels=("lung",), Modality="DX")
    assert convert(export("p2", Modality="CR")).channels == ("CR/DX",)


def test_an_export_is_recognised(export: Make, write_file: Make, tmp_path: Path) -> None:
    source = export("p1", labels=("liver",))
    assert detect(source)
    assert detect_layouts(source) == ["dicom"]
    with pytest.raises(UserError, match=r"Import it first: patchcl import .*pacs -o NEW_FOLDER --layout dicom"):
        require_ours(source)
    assert detect_layouts(source / "p1/study") == ["dicom"]
    assert detect_layouts(source / "p1/study/thorax") == []
    (source / "imagesTr").mkdir()
    assert detect_layouts(source) == []


@pytest.mark.realdata
@pytest.mark.skipif(not SAMPLE.is_dir(), reason="the sample is not here")
def test_a_real_series_and_its_mask(tmp_path: Path) -> None:
    (tmp_path / "pacs").mkdir()
    (tmp_path / "pacs" / "sample").symlink_to(SAMPLE, target_is_directory=True)
    dataset = read_dataset(import_dataset(tmp_path / "pacs", tmp_path / "out", "dicom").folder)
    (case,) = dataset.cases
    assert (dataset.channels, case.name) == (("CT",), "sample")
    grid = read_image(case.images).grid
    assert grid.shape == (24, 38, 3)
    assert case.mask is not None
    found = read_mask(case.mask, dataset.classes, grid)
    np.testing.assert_array_equal(
        found, dicom_seg.read_segmentation(SAMPLE / "label.dcm", SAMPLE / "series", dataset.classes)
    )
    assert found.any()
