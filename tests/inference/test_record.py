"""What makes a scan one that is done."""

import pytest

from patchcl.inference.case_summary import CaseSummary
from patchcl.inference.record import done_before, recorded, write_record

CASE = CaseSummary("p1", {"A ml": 1.5}, 0.75, {"spacing": "coarser than any"})


@pytest.fixture
def files(tmp_path):
    scan, mask = tmp_path / "p1_0000.nii.gz", tmp_path / "out" / "p1.nii.gz"
    mask.parent.mkdir()
    scan.write_bytes(b"scan")
    mask.write_bytes(b"mask")
    write_record(mask.parent, "this network", [scan], CASE, [mask])
    return scan, mask


def done(scan, mask, made_by="this network"):
    return done_before(mask.parent, made_by, "p1", [scan])


def test_a_record_tells_all_that_is_known_of_the_scan(files):
    assert done(*files) == CASE


def test_files_that_were_touched_or_copied_are_the_same(files, tmp_path):
    for file in files:
        file.touch()
    moved = files[0].rename(tmp_path / "elsewhere_0000.nii.gz")
    assert done(moved, files[1]) == CASE


@pytest.mark.parametrize("which", [0, 1])
def test_another_content_or_none_is_not_done(files, which):
    content = files[which].read_bytes()
    files[which].write_bytes(content[::-1])
    assert done(*files) is None
    files[which].unlink()
    assert done(*files) is None


def test_another_network_or_number_of_channels_is_not_done(files):
    assert done(*files, made_by="another") is None
    assert done_before(files[1].parent, "this network", "p1", [files[0], files[0]]) is None
    assert done_before(files[1].parent, "this network", "p2", [files[0]]) is None


def test_cases_with_a_record_are_known_without_reading_it(files, tmp_path):
    assert recorded(files[1].parent) == {"p1"}
    assert recorded(tmp_path / "elsewhere") == set()
