"""What a run keeps of the scans that it learned from."""

import shutil

import nibabel as nib
from rich.console import Console

from patchcl.inference.familiarity import read_familiarity
from patchcl.runs.folder import RunFolder
from patchcl.training.experiment import resume


def test_labeled_and_unlabeled_scans_are_kept_and_no_others(cardiac, trained):
    run = RunFolder(trained)
    known = read_familiarity(run.familiarity)
    assert known is not None
    assert known.patients == 3 + 5  # of 4 patients with masks, one validates
    scans = [nib.load(path) for folder in ("imagesTr", "imagesUn") for path in (cardiac / folder).iterdir()]
    grids = {(scan.shape, tuple(float(mm) for mm in scan.header.get_zooms())) for scan in scans}
    for look in known.scans:
        shape = tuple(round(e / s) for e, s in zip(look.extent_mm, look.spacing_mm, strict=True))
        assert any(shape == size and abs(look.spacing_mm[0] - mm[0]) < 1e-4 for size, mm in grids)
        assert len(look.intensities) == len(look.noise) == 1


def test_a_run_from_before_gets_it_when_it_is_resumed(trained, tmp_path):
    run = RunFolder(shutil.copytree(trained, tmp_path / "run"))
    before = run.familiarity.read_bytes()
    run.familiarity.unlink()
    resume(run.root, Console(quiet=True))
    assert run.familiarity.read_bytes() == before
