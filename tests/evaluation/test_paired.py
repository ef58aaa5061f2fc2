"""Two methods on the same patients: the difference, its interval and the words for it."""

import io
import math

import numpy as np
import pytest
from rich.console import Console
from scipy import stats

from patchcl.core.errors import UserError
from patchcl.evaluation.metrics import EMPTY_POLICY
from patchcl.evaluation.paired import compare, compare_seeds, format_points, in_words, render_comparison
from patchcl.evaluation.scores import Evaluation, Score


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


def test_over_seeds_a_patient_counts_once_with_its_mean_difference():
    """Against SciPy on the differences, which are 0.2, 0.1 and, of the patient that one seed scored, 0.3."""
    firsts = [evaluation_of("old", {"a": 0.5, "b": 0.25, "c": 0.5}), evaluation_of("old", {"b": 0.5, "a": 0.5})]
    seconds = [evaluation_of("new", {"a": 0.6, "b": 0.25, "c": 0.8}), evaluation_of("new", {"a": 0.8, "b": 0.7})]
    comparison = compare_seeds(firsts, seconds)
    drawn = stats.bootstrap(
        (np.array([0.2, 0.1, 0.3]),), np.mean, n_resamples=10_000, method="percentile", rng=np.random.default_rng(0)
    )
    mean, low, high = comparison.overall.interval
    assert mean == pytest.approx(0.2)
    assert (low, high) == pytest.approx(tuple(drawn.confidence_interval))
    assert comparison.patients == 3


def test_one_seed_is_the_plain_comparison():
    old, new = evaluation_of("old", {"a": 0.5, "b": 0.25}), evaluation_of("new", {"b": 0.5, "a": 0.625})
    assert compare_seeds([old], [new]) == compare(old, new)


@pytest.mark.parametrize(
    ("gains", "verdict"),
    [((0.1, 0.2), "helped"), ((0.3, -0.1), "no clear difference"), ((-0.1, -0.2), "hurt"), ((-0.3, 0.1), None)],
)
def test_a_verdict_needs_all_seeds(gains, verdict):
    """In every patient the mean over seeds is ±0.1 or more; still one seed may say otherwise."""
    old = evaluation_of("old", dict.fromkeys("abcdef", 0.5))
    seconds = [evaluation_of("new", dict.fromkeys("abcdef", 0.5 + gain)) for gain in gains]
    assert compare_seeds([old, old], seconds).overall.verdict == (verdict or "no clear difference")


def test_seeds_are_paired_one_by_one():
    a, b = evaluation_of("old", {"a": 0.5}), evaluation_of("new", {"b": 0.5})
    with pytest.raises(UserError, match="different patients"):
        compare_seeds([a, b], [b, a])
    with pytest.raises(ValueError, match="shorter"):
        compare_seeds([a, a], [a])


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
    assert format_points(dice) == text
