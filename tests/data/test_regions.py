"""Regions: stored classes are learned, and their unions are scored and written."""

import csv
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from rich.console import Console

import patchcl
from patchcl.config import load_settings
from patchcl.data.dataset import read_dataset
from patchcl.data.preprocessing.plan import load_plan
from patchcl.data.regions import region_masks, region_probs, stored_classes, views
from patchcl.evaluation.metrics import dice
from patchcl.training.experiment import start

BRATS = {"background": 0, "whole tumour": [1, 2, 3], "core": [2, 3], "enhancing": [3]}
REGIONS = {"whole tumour": (1, 2, 3), "core": (2, 3), "enhancing": (3,)}


def test_stored_classes_are_called_like_the_region_that_they_are_or_by_their_value():
    classes, regions = stored_classes(Path("d"), BRATS | {"ignore": 4}, [1, 2, 3], "ignore")
    assert classes == {"background": 0, "label 1": 1, "label 2": 2, "enhancing": 3, "ignore": 4}
    assert regions == REGIONS
    plain = {"background": 0, "A": 1}
    assert stored_classes(Path("d"), plain, None, "ignore") == (plain, {})


def test_unions_of_masks_and_sums_of_probabilities():
    mask = np.array([[0, 1, 2, 3]])
    assert {name: inside.tolist() for name, inside in region_masks(mask, REGIONS).items()} == {
        "whole tumour": [[0, 1, 1, 1]],
        "core": [[0, 0, 1, 1]],
        "enhancing": [[0, 0, 0, 1]],
    }
    probs = np.array([0.25, 0.25, 0.375, 0.125])[:, None]
    assert {name: float(p[0]) for name, p in region_probs(probs, REGIONS).items()} == {
        "whole tumour": 0.75,
        "core": 0.5,
        "enhancing": 0.125,
    }
    ignored = np.array([[255, 1, 2, 3]])
    (whole, *_) = views(mask, ignored, ("background",), REGIONS)
    assert (whole[1].tolist(), whole[2]) == ([[0, 1, 1, 1]], ("background", "whole tumour"))
    assert views(mask, mask, ("background", "A"), {})[0][0] is mask


@pytest.fixture
def data(make_dataset) -> Path:
    root = make_dataset({f"p{number}": True for number in range(3)}, ("u0",), {"t0": True})
    path = root / "dataset.json"
    labels = {"background": 0, "whole": [1, 2], "inner": [2]}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"labels": labels, "regions_class_order": [1, 2]}))
    return root


def test_a_data_set_of_regions_is_learned_scored_and_predicted(data, tmp_path, tiny):
    assert read_dataset(data).classes == ("background", "label 1", "inner")
    start(data, tmp_path / "run", load_settings(None, [*tiny, "training.steps=2"]), Console(quiet=True))
    plan = load_plan(tmp_path / "run" / "plan.yaml")
    assert (plan.classes, plan.regions) == (("background", "label 1", "inner"), {"whole": (1, 2), "inner": (2,)})
    evaluation = patchcl.evaluate(tmp_path / "run", device="cpu", objects=True)
    assert evaluation.structures == ("whole", "inner")
    out = tmp_path / "out"
    summary = patchcl.predict(tmp_path / "run", data / "imagesTs", out, probabilities=True, device="cpu")
    assert summary.done == ("t0",)

    def read(path: Path) -> np.ndarray:
        return np.asarray(nib.load(path).dataobj)

    mask, reference = read(out / "t0.nii.gz"), read(data / "labelsTs" / "t0.nii.gz")
    assert {score.structure: score.dice for score in evaluation.scores} == pytest.approx(
        {"whole": dice(mask > 0, reference > 0), "inner": dice(mask == 2, reference == 2)}
    )
    np.testing.assert_array_equal(read(out / "t0_region_whole.nii.gz"), mask > 0)
    np.testing.assert_array_equal(read(out / "t0_region_inner.nii.gz"), mask == 2)
    whole, inner = (read(out / f"t0_probabilities_{name}.nii.gz") for name in ("whole", "inner"))
    assert (whole >= inner - 1e-6).all()
    assert not list(out.glob("*label 1*"))
    (row,) = csv.DictReader((out / "predictions.csv").read_text().splitlines())
    assert float(row["whole ml"]) == pytest.approx((mask > 0).sum() * 1.5 * 1.5 * 8 / 1000, rel=1e-4)
    patchcl.report(tmp_path / "run", tmp_path / "report.html")
    again = patchcl.evaluate(predictions=out, masks=data / "labelsTs")
    assert [score.dice for score in again.scores] == [score.dice for score in evaluation.scores]
