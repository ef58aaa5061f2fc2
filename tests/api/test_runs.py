"""The Python face: its examples, called as written, and twice, and what it costs to import."""

import doctest
import json
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image

import patchcl
from patchcl import api
from patchcl.core.console import console
from patchcl.core.version import __version__

VERBS = (
    "check",
    "compare",
    "evaluate",
    "import_data",
    "load_run",
    "predict",
    "report",
    "resume",
    "train",
    "train_folds",
)
GOING_ON = ("compare", "train_folds")
"""Verbs that take the folder of the same call, and do nothing twice."""


@pytest.fixture
def names(cardiac, trained, tmp_path, monkeypatch):
    """What the examples speak of."""
    scan = next((cardiac / "imagesTs").glob("*_0000.nii.gz"))
    image = nib.load(scan)
    for number in range(2):
        for folder, pixels in {"images": number + np.arange(48).reshape(4, 4, 3), "masks": 255 * np.eye(4)}.items():
            (tmp_path / "pictures" / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "pictures" / folder / f"t{number}.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(console, "quiet", True)
    return {
        **{"patchcl": patchcl, "data": cardiac, "run": trained, "scans": scan, "pictures": tmp_path / "pictures"},
        **{"voxels": np.asarray(image.dataobj), "affine": image.affine},
    }


@pytest.mark.parametrize("verb", VERBS)
def test_the_example_of_each_function_works_and_works_again(verb, names, tmp_path):
    (example,) = doctest.DocTestFinder(recurse=False).find(getattr(patchcl, verb), verb)
    assert example.examples
    said = []
    for attempt in ("first", "first" if verb in GOING_ON else "second"):
        runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
        example.globs = names | {"out": tmp_path / attempt}
        runner.run(example, out=said.append, clear_globs=False)
        assert runner.summarize(verbose=False).failed == 0, "".join(said)


def test_every_verb_is_offered_and_nothing_else():
    assert {name for name in dir(patchcl) if not name.startswith("_")} == {*VERBS, "UserError"}
    assert [getattr(patchcl, verb) for verb in VERBS] == [getattr(api, verb) for verb in VERBS]
    assert patchcl.__version__ == __version__
    with pytest.raises(AttributeError, match="no attribute 'fit'"):
        patchcl.fit  # noqa: B018


def test_importing_loads_nothing_heavy():
    script = "import sys, patchcl; print(sorted({name.split('.')[0] for name in sys.modules} & set(sys.argv[1:])))"
    heavy = ("torch", "numpy", "monai", "pydantic", "rich", "typer", "matplotlib")
    told = subprocess.run([sys.executable, "-c", script, *heavy], capture_output=True, text=True, check=True)
    assert told.stdout == "[]\n"


def test_who_predicts_or_reports_does_not_wait_for_what_trains():
    script = "import sys, patchcl; print(patchcl.predict.__name__, 'lightning' in sys.modules)\n"
    script += "import patchcl.reports.run_report; print('lightning' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert told.stdout == "predict False\nFalse\n"


def test_mistakes_are_user_errors(tmp_path):
    for mistake in (
        lambda: patchcl.load_run(tmp_path),
        lambda: patchcl.evaluate(),
        lambda: patchcl.train(tmp_path, tmp_path / "run", settings={"training.steps": 0}),
    ):
        with pytest.raises(patchcl.UserError):
            mistake()


def test_a_loaded_run_is_a_torch_module_with_its_plan_and_settings(trained):
    run = patchcl.load_run(trained)
    assert isinstance(run.network, torch.nn.Module)
    assert (run.plan.size, run.settings.training.steps, run.step) == ((32, 32), 6, 6)
    masks = [
        patchcl.predict(given, first_scan(run), trained.parent / name) for given, name in ((run, "a"), (trained, "b"))
    ]
    assert masks[0] == masks[1]


def first_scan(run) -> Path:
    return next((run.settings.data / "imagesTs").glob("*_0000.nii.gz"))


def test_the_module_is_the_program():
    told = subprocess.run([sys.executable, "-m", "patchcl", "--version"], capture_output=True, text=True, check=True)
    assert told.stdout == f"patchcl {__version__}\n"


def test_the_folder_of_a_comparison_stands_for_its_chosen_run(trained, tmp_path, capsys):
    run = tmp_path / "grid" / "runs" / "labeled_2" / "patchcl" / "seed_0"
    run.parent.mkdir(parents=True)
    shutil.copytree(trained, run)
    judged = {"difference": 0.1, "low": 0.05, "high": 0.15, "p_value": 0.01, "verdict": "helped"}
    choice = {"run_id": "labeled_2/patchcl/seed_0", "labeled": 2, "method": "patchcl", "seed": 0}
    why = {"reason": "It is better.", "patients": 8, "dice": {"patchcl": 0.5}, "against_baseline": {"patchcl": judged}}
    (tmp_path / "grid" / "chosen.json").write_text(json.dumps(choice | why))
    (tmp_path / "grid" / "compare.json").write_text("{}")
    loaded = patchcl.load_run(tmp_path / "grid")
    assert loaded.folder.root == run
    masks = [
        patchcl.predict(given, first_scan(loaded), tmp_path / f"{given.name}_masks")
        for given in (trained, run.parents[3])
    ]
    assert masks[0] == masks[1]
    assert patchcl.evaluate(tmp_path / "grid", fast=True).provenance["step"] == 6
    assert patchcl.report(tmp_path / "grid", tmp_path / "page.html").is_file()
    assert capsys.readouterr().out.count("Chosen run: labeled_2/patchcl/seed_0. It is better.") == 4
