"""Scans that are found, segmented by somebody, and told about."""

from patchcl.inference.case_summary import TABLE, CaseSummary
from patchcl.inference.scan_folder import PredictionSummary, segment_folder


def test_what_is_no_scan_is_named_beside_what_failed(tmp_path):
    source, out = tmp_path / "scans", tmp_path / "out"
    source.mkdir()
    for name in ("a_0000.nii.gz", "b_0000.nii.gz", "notes.txt"):
        (source / name).touch()

    def segment(scans):
        assert {name: [path.name for path in paths] for name, paths in scans.items()} == {
            "a": ["a_0000.nii.gz"],
            "b": ["b_0000.nii.gz"],
        }
        return PredictionSummary(("a",), (("b", "b is broken"),), (CaseSummary("a", {"A ml": 2.0}, 0.5, {}),))

    summary = segment_folder(source, out, None, segment)
    assert [name for name, _ in summary.failed] == ["b", "notes.txt"]
    assert (out / TABLE).read_text() == "case,A ml,mean confidence,unlike training\na,2,0.5000,\n"
