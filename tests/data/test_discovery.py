from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from patchcl.core.errors import UserError
from patchcl.data.discovery import case_name, channel_of, find_scans, passed_over, passed_over_by_series
from patchcl.data.formats.dicom import series


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


def dicom(path: Path) -> Path:
    """What is told from a picture by its mark alone."""
    touch(path)
    path.write_bytes(bytes(128) + b"DICM")
    return path


def test_scans_of_every_format_are_found_by_case(tmp_path: Path) -> None:
    names = ["a_0000.nii.gz", "a_0001.nii.gz", "b.PNG", "c_0000.tif", "d.mha", "e.nrrd", "f.jpg"]
    touch(*(tmp_path / name for name in (*names, "notes.txt", ".hidden.png", "empty/readme")))
    dicom(tmp_path / "g_0000" / "IM1")
    found = find_scans(tmp_path)
    assert list(found) == ["a", "b", "c", "d", "e", "f", "g"]
    assert found["a"] == (tmp_path / "a_0000.nii.gz", tmp_path / "a_0001.nii.gz")
    assert found["g"] == (tmp_path / "g_0000",)


def test_what_another_ending_tells_is_not_opened_to_find_scans(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr(series, "is_dicom", lambda file: opened.append(file.name))
    touch(*(tmp_path / name for name in ("a_0000.nii.gz", "b_0000.MHA", "IM1", "c.dcm")))
    assert list(find_scans(tmp_path)) == ["a", "b", "c"]
    assert opened == ["IM1", "c.dcm"]


def test_numbers_from_one_on_count_scans_and_no_channels(tmp_path: Path) -> None:
    names = ["pancreas_0001", "pancreas_0002", "pancreas_0100", "anna_0000", "anna_0001", "bert_0001"]
    files = {name: tmp_path / f"{name}.nii.gz" for name in names}
    touch(*files.values())
    numbered = {name: (files[name],) for name in names if name.startswith("pancreas")}
    others = {"anna": (files["anna_0000"], files["anna_0001"]), "bert": (files["bert_0001"],)}
    assert find_scans(tmp_path) == numbered | others
    for name, found in numbered.items():
        assert find_scans(files[name]) == {name: found}


def test_what_is_no_scan_is_named(tmp_path: Path) -> None:
    names = ("a_0000.nii.gz", "b.mgz", "c.nii.gz.part", ".DS_Store", "Thumbs.db", "deeper/d.nii.gz", "out/a.nii.gz")
    touch(*(tmp_path / name for name in names))
    over = dict(passed_over(tmp_path, find_scans(tmp_path), tmp_path / "out"))
    assert list(over) == ["b.mgz", "c.nii.gz.part", "deeper"]
    assert all(str(tmp_path / name) in line for name, line in over.items())
    scan = tmp_path / "a_0000.nii.gz"
    assert list(passed_over(scan, find_scans(scan), tmp_path / "out")) == []


def test_the_voxels_of_a_header_belong_to_its_scan(tmp_path: Path) -> None:
    touch(*(tmp_path / name for name in ("a.raw", "raw/b.bin", "c.raw", "more/d.bin", "more/e.bin")))
    for name, data in {"a_0000.mhd": "a.raw", "b.mha": "raw/b.bin", "d.mhd": "more/d.bin"}.items():
        (tmp_path / name).write_text(f"NDims = 3\nElementDataFile = {data}\n")
    scans = find_scans(tmp_path)
    assert list(scans) == ["a", "b", "d"]
    assert [name for name, _ in passed_over(tmp_path, scans, tmp_path / "out")] == ["c.raw", "more"]


def test_what_lies_among_slices_is_named(tmp_path: Path) -> None:
    dicom(tmp_path / "scans" / "a_0000" / "IM1")
    touch(*(tmp_path / "scans/a_0000" / name for name in ("notes.txt", ".DS_Store", "deep/IM2", "out/a.dcm")))
    names = ["scans/a_0000/deep is not used", "scans/a_0000/notes.txt is not used: files of a series are DICOM"]
    for source in (tmp_path / "scans", tmp_path / "scans" / "a_0000"):
        over = list(passed_over(source, find_scans(source), tmp_path / "scans" / "a_0000" / "out"))
        assert [name for name, _ in over] == ["a_0000", "a_0000"]
        assert [line.startswith(f"{tmp_path}/{name}") for name, (_, line) in zip(names, over, strict=True)] == [
            True
        ] * 2


def test_where_a_series_is_asked_for_the_rest_is_named(tmp_path: Path) -> None:
    dicom(tmp_path / "a" / "study" / "IM1")
    touch(*(tmp_path / name for name in ("loose.dcm", "Thumbs.db", "DICOMDIR", "a/study/LICENSE", "a/out/mask.nii.gz")))
    touch(tmp_path / "out" / "mask.nii.gz", tmp_path / ".hidden" / "b")
    over = dict(passed_over_by_series(tmp_path, tmp_path / "out"))
    assert list(over) == ["a", "loose.dcm"]
    assert over["a"].startswith(f"{tmp_path}/a/out/mask.nii.gz, study/LICENSE are not used: files of a series are")
    assert over["loose.dcm"].startswith(f"{tmp_path}/loose.dcm is not used: --series takes a series of each folder")
    (over,) = passed_over_by_series(tmp_path / "a", tmp_path / "a" / "out")
    assert over[1].startswith(f"{tmp_path}/a/study/LICENSE is not used")


def test_each_x_ray_in_a_folder_is_a_scan(tmp_path: Path, write_file: Callable[..., Path]) -> None:
    files = [tmp_path / f"{name}.dcm" for name in ("anna_0000", "bert", "carl")]
    for number, path in enumerate(files):
        write_file(path, np.zeros((4, 4), np.int16), SeriesInstanceUID=f"1.2.{number}")
    assert find_scans(tmp_path) == {"anna": (files[0],), "bert": (files[1],), "carl": (files[2],)}
    assert find_scans(files[1]) == {"bert": (files[1],)}
    touch(tmp_path / "notes.txt")
    files[2].write_bytes(files[2].read_bytes()[:200])  # which is told when it is read, and keeps nobody from the others
    assert [name for name, _ in passed_over(tmp_path, find_scans(tmp_path), tmp_path / "out")] == ["notes.txt"]
    write_file(tmp_path / "dora.dcm", np.zeros((4, 4), np.int16), SeriesInstanceUID="1.2.0")
    assert list(find_scans(tmp_path)) == [tmp_path.name]  # two files of one series, so the folder is one


def test_a_single_scan_is_found_alone(tmp_path: Path) -> None:
    touch(*(tmp_path / f"{name}.nii.gz" for name in ("anna_0000", "bert_0000", "bert_0001", "carl", "carl_0000")))
    assert find_scans(tmp_path / "anna_0000.nii.gz") == {"anna": (tmp_path / "anna_0000.nii.gz",)}
    both = tuple(tmp_path / f"bert_000{channel}.nii.gz" for channel in (0, 1))
    assert find_scans(both[1]) == {"bert": both}
    assert find_scans(tmp_path / "carl.nii.gz") == {"carl": (tmp_path / "carl.nii.gz",)}


def test_a_dicom_series_is_a_scan_wherever_one_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dicom(tmp_path / "patient.7" / "IM1")
    (tmp_path / "patient.7" / "sub").mkdir()
    assert find_scans(tmp_path / "patient.7") == {"patient.7": (tmp_path / "patient.7",)}
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "eight").symlink_to(tmp_path / "patient.7", target_is_directory=True)
    for source in (tmp_path / "links", tmp_path / "links" / "eight"):
        assert find_scans(source) == {"eight": (tmp_path / "links" / "eight",)}
    monkeypatch.chdir(tmp_path / "patient.7")
    assert find_scans(Path()) == {"patient.7": (tmp_path / "patient.7",)}


@pytest.mark.parametrize(
    ("file", "case", "channel"),
    [
        ("anna_0001.nii.gz", "anna", "0001"),
        ("anna.nii", "anna", ""),
        ("anna_2019.nii.gz", "anna_2019", ""),
        ("a.b_0000.nii", "a.b", "0000"),
        ("a_0000.TIFF", "a", "0000"),
        ("series_0000", "series", "0000"),
    ],
)
def test_names_tell_case_and_channel(file: str, case: str, channel: str) -> None:
    assert (case_name(Path(file)), channel_of(Path(file))) == (case, channel)


@pytest.mark.parametrize("source", ["nowhere", "empty", "empty/notes.txt"])
def test_no_scans_is_explained(tmp_path: Path, source: str) -> None:
    touch(tmp_path / "empty" / "notes.txt")
    with pytest.raises(UserError, match=r"does not exist|holds no scan"):
        find_scans(tmp_path / source)
