import json

import numpy as np
import pytest

from patchcl.core.errors import UserError
from patchcl.evaluation.evaluate import evaluate_folders
from patchcl.evaluation.scores import (
    METRICS,
    OBJECT_METRICS,
    SURFACE_METRICS,
    Evaluation,
    Score,
    read_evaluation,
    summarise,
    write_evaluation,
)
from patchcl.evaluation.tables import format_score

CLASSES = ("background", "left", "right")


def evaluation_of(name: str, dice: dict[str, float], structures=("left",)) -> Evaluation:
    scores = [
        Score(patient=patient, case=patient, structure=structure, dice=value, jaccard=0.5, hd95_mm=1.0, asd_mm=1.0)
        for patient, value in dice.items()
        for structure in structures
    ]
    return Evaluation(name=name, structures=structures, unit="mm", scores=tuple(scores), provenance={})


def test_scans_of_a_patient_are_averaged_before_patients_are(folders):
    evaluation = evaluate_folders(*folders, CLASSES)
    assert evaluation.patients == ("anna", "bert")
    assert evaluation.by_patient("dice", "left") == {"anna": 0.75, "bert": 1}
    assert evaluation.by_patient("dice") == {"anna": 0.875, "bert": 0.5}
    assert summarise(evaluation, "dice") == (pytest.approx(0.6875), pytest.approx(np.std([0.875, 0.5], ddof=1)))


def test_damaged_scores_are_named(tmp_path):
    (tmp_path / "scores.json").write_text("{}")
    with pytest.raises(UserError, match=r"scores\.json cannot be read"):
        read_evaluation(tmp_path / "scores.json")


def test_one_patient_has_no_deviation(tmp_path):
    evaluation = evaluation_of("one", {"a": 0.5})
    assert format_score(summarise(evaluation, "dice"), "dice") == "50.0"
    write_evaluation(evaluation, tmp_path / "scores")
    assert json.loads((tmp_path / "scores.json").read_text())["summary"]["structures"]["mean"]["dice"]["std"] is None


def test_a_patient_who_is_called_as_a_formula_is_none_in_the_table_and_keeps_the_name(tmp_path):
    evaluation = evaluation_of("one", {"=1+1": 0.5})
    write_evaluation(evaluation, tmp_path / "scores")
    assert (tmp_path / "scores.csv").read_text().splitlines()[1].startswith("'=1+1,'=1+1,left,0.5,")
    assert read_evaluation(tmp_path / "scores.json").scores[0].patient == "=1+1"


def test_scores_say_nothing_of_objects_that_nobody_asked_for(folders, tmp_path):
    evaluation = evaluate_folders(*folders, CLASSES)
    write_evaluation(evaluation, tmp_path / "scores")
    assert evaluation.metrics == METRICS + SURFACE_METRICS
    written = [(tmp_path / f"scores.{kind}").read_text() for kind in ("csv", "json")]
    assert not any(word in text for text in written for word in (*OBJECT_METRICS, "pooled"))
    assert read_evaluation(tmp_path / "scores.json") == evaluation
