"""Two methods on the same patients: the difference, its interval and the words for it."""

import io
import math

import numpy as np
import pytest
from rich.console import Console

from patchcl.comparison import compare, in_words, points, render_comparison
from patchcl.errors import UserError
from patchcl.evaluate import Evaluation, Score
from patchcl.metrics import EMPTY_POLICY


def evaluation_of(name: str, dice: dict[str, float], structures=("left",)) -> Evaluation:
    scores = [
        Score(patient=patient, case=patient, structure=structure, dice=value, jaccard=0.5, hd95_mm=1.0, asd_mm=1.0)
        for patient, value in dice.items()
        for structure in structures
    ]
    return Evaluation(name=name, structures=structures, unit="mm", scores=tuple(scores), provenance={})


@pytest.mark.parametrize(
    ("gains", "verdict", "words"),
    [
        ([0.1, 0.2, 0.1, 0.2, 0.1, 0.2], "helped", "new is better than old: +15.0 Dice points"),
        ([-0.1, -0.2, -0.1, -0.2, -0.1, -0.2], "hurt", "new is worse than old: −15.0 Dice points"),
        ([0.1, -0.1, 0.1, -0.1, 0.1, -0.1], "no clear difference", "No clear difference between new and old: 0.0"),
        ([0.1, 0.2, 0.1], "no clear difference", "With fewer than 6 patients none can be shown."),
    ],
)
def test_the_verdict_follows_the_interval(gains, verdict, words):
    old = {f"p{place}": 0.5 for place in range(len(gains))}
    new = {patient: 0.5 + gain for (patient, gain) in zip(old, gains, strict=True)}
    comparison = compare(evaluation_of("old", old), evaluation_of("new", dict(reversed(new.items()))))
    assert comparison.overall.verdict == verdict
    assert comparison.overall.interval.mean == pytest.approx(np.mean(gains))
    assert words in in_words(comparison)


def test_every_structure_is_compared_and_their_mean():
    first = evaluation_of("old", {"a": 0.5, "b": 0.25}, ("left", "right"))
    second = first.model_copy(update={"name": "new", "scores": tuple(_raised(score) for score in first.scores)})
    differences = {each.structure: each.interval.mean for each in compare(first, second).differences}
    assert differences == {"left": pytest.approx(0.25), "right": 0, "mean": pytest.approx(0.125)}


def _raised(score: Score) -> Score:
    return score.model_copy(update={"dice": score.dice + 0.25}) if score.structure == "left" else score


def test_other_patients_are_not_compared():
    with pytest.raises(UserError, match="different patients: b only in old, c only in new"):
        compare(evaluation_of("old", {"a": 1, "b": 1}), evaluation_of("new", {"a": 1, "c": 1}))


def test_other_structures_are_not_compared():
    with pytest.raises(UserError, match="different structures"):
        compare(evaluation_of("old", {"a": 1}), evaluation_of("new", {"a": 1}, ("right",)))


def test_the_table_shows_both_methods_their_difference_and_the_policy():
    old = evaluation_of("old", dict.fromkeys("abcdef", 0.5))
    new = evaluation_of("new", {name: 0.5 + gain for name, gain in zip("abcdef", [0.1, 0.2] * 3, strict=True)})
    out = io.StringIO()
    render_comparison(old, new, Console(file=out, width=160))
    text = " ".join(out.getvalue().split())
    for expected in ("old", "new", "50.0", "65.0", "+15.0 (+11.7 to +18.3)", "95HD", EMPTY_POLICY[:60]):
        assert expected in text
    assert "new is better than old: +15.0 Dice points" in text


@pytest.mark.parametrize(
    ("dice", "text"), [(0.0312, "+3.1"), (-0.2, "−20.0"), (0, "0.0"), (-0.0001, "0.0"), (math.nan, "?")]
)
def test_points(dice, text):
    assert points(dice) == text
