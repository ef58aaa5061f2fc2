"""Two methods on the same patients: the difference, its interval and the words for it."""

import io
import math
import re

import numpy as np
import pytest
from rich.console import Console
from scipy import stats

from patchcl.core.errors import UserError
from patchcl.evaluation import paired
from patchcl.evaluation.metrics import EMPTY_POLICY
from patchcl.evaluation.paired import (
    compare,
    compare_seeds,
    format_interval,
    format_points,
    in_words,
    judged_together,
    render_comparison,
    require_effect,
)
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
    """The differences are 0.2, 0.1 and, of the patient that one seed scored, 0.3."""
    firsts = [evaluation_of("old", {"a": 0.5, "b": 0.25, "c": 0.5}), evaluation_of("old", {"b": 0.5, "a": 0.5})]
    seconds = [evaluation_of("new", {"a": 0.6, "b": 0.25, "c": 0.8}), evaluation_of("new", {"a": 0.8, "b": 0.7})]
    comparison = compare_seeds(firsts, seconds)
    assert comparison.overall.estimate.values == pytest.approx((0.1, 0.2, 0.3))
    assert (comparison.patients, comparison.seeds) == (3, 2)
    gains = [0.4 / 3, 0.25]
    assert comparison.overall.estimate.seed_error == pytest.approx(stats.sem(gains))


def test_one_seed_is_the_plain_comparison():
    old, new = evaluation_of("old", {"a": 0.5, "b": 0.25}), evaluation_of("new", {"b": 0.5, "a": 0.625})
    assert compare_seeds([old], [new]) == compare(old, new)


@pytest.mark.parametrize(
    ("gains", "verdict"),
    [
        ((0.15, 0.15), "helped"),
        ((0.1, 0.2), "no clear difference"),  # 0.15, and 12.7 times an error of 0.05
        ((0.3, -0.1), "no clear difference"),
        ((0.1, 0.12, 0.11), "helped"),
        ((-0.1, -0.12, -0.11), "hurt"),
    ],
)
def test_a_verdict_covers_which_seeds_were_drawn(gains, verdict):
    """With a seed all patients gain alike, so that seeds alone decide."""
    old = evaluation_of("old", dict.fromkeys("abcdef", 0.5))
    seconds = [evaluation_of("new", dict.fromkeys("abcdef", 0.5 + gain)) for gain in gains]
    assert compare_seeds([old] * len(gains), seconds).overall.verdict == verdict


def test_words_name_patients_and_seeds_that_would_settle_it():
    old = evaluation_of("old", dict.fromkeys("abcdef", 0.5))
    seconds = [evaluation_of("new", dict.fromkeys("abcdef", 0.5 + gain)) for gain in (0.1, 0.15)]
    words = in_words(compare_seeds([old, old], seconds))
    assert "95 % interval over 6 patients and 2 seeds" in words
    assert words.endswith(
        "About 3 seeds would settle it, if the difference and its spread stay as seen (and then 4 times in 5)."
    )


def test_a_difference_too_small_to_count_is_none():
    old = evaluation_of("old", dict.fromkeys("abcdef", 0.5))
    new = evaluation_of("new", dict.fromkeys("abcdef", 0.5 + 1e-9))
    assert compare(old, new).overall.verdict == "equal"
    assert in_words(compare(old, new)) == (
        "new and old are equal: 0.0 Dice points (0.0 to 0.0, 95 % interval over 6 patients); "
        "less than 0.1 Dice points counts as none."
    )
    assert compare(old, new, smallest=0.0).overall.verdict == "helped"


def test_the_least_difference_that_counts_must_be_beyond_the_interval():
    gains = [0.10, 0.12, 0.11, 0.10, 0.12, 0.11, 0.10]
    old = evaluation_of("old", dict.fromkeys("abcdefg", 0.5))
    new = evaluation_of("new", {name: 0.5 + gain for name, gain in zip("abcdefg", gains, strict=True)})
    low = compare(old, new).overall.interval.low
    verdicts = [compare(old, new, smallest=low + step).overall.verdict for step in (-1e-4, 1e-4)]
    assert verdicts == ["helped", "no clear difference"]
    with pytest.raises(UserError, match="is -10 Dice points, expected 0 to below 100"):
        require_effect(-0.1)


def test_one_patient_has_neither_interval_nor_verdict():
    comparison = compare(evaluation_of("old", {"a": 0.5}), evaluation_of("new", {"a": 0.75}))
    assert comparison.overall.verdict == "no verdict"
    words = "new less old is +25.0 Dice points on one patient, who gives no interval and no verdict."
    assert in_words(comparison) == words
    assert format_interval(comparison.overall.interval) == "+25.0"


def test_a_tie_is_a_tie():
    old = evaluation_of("old", dict(zip("abcdef", [0.1, 0.5, 0.9, 0.3, 0.2, 0.8], strict=True)))
    assert compare(old, old).overall.verdict == "equal"
    few = evaluation_of("old", {"a": 0.5, "b": 0.25})
    assert compare(few, few).overall.verdict == "no clear difference"


def test_nothing_learned_is_no_tie():
    old, new = evaluation_of("old", dict.fromkeys("abcdef", 0.0)), evaluation_of("new", dict.fromkeys("abcdef", 0.009))
    assert not compare(old, new).learned
    assert in_words(compare(old, new)) == "Nothing was learned: mean Dice is below 1 % with old and with new."
    assert compare(old, evaluation_of("new", dict.fromkeys("abcdef", 0.011))).learned


@pytest.mark.parametrize("dice", [7.0, -0.1, math.inf, math.nan])
def test_what_is_no_score_is_refused_with_patient_and_structure(dice):
    old = evaluation_of("old", {"ann": 0.5, "bob": 0.5})
    new = evaluation_of("new", {"ann": 0.5, "bob": dice})
    with pytest.raises(
        UserError, match=rf"^new: Dice of left in patient bob is {dice}, expected a number from 0 to 1\."
    ):
        compare(old, new)


@pytest.mark.parametrize(
    ("metric", "value", "what"),
    [
        ("surface_dice", 7.0, "surface Dice of left in patient bob is 7.0, expected a number from 0 to 1"),
        ("object_f1", math.inf, "object F1 of left in patient bob is inf, expected a number from 0 to 1"),
        ("object_hausdorff_mm", math.inf, "Hausdorff of left in patient bob is inf, expected a finite number"),
        ("asd_mm", math.nan, "ASD of left in patient bob is nan, expected a finite number"),
    ],
)
def test_so_is_what_is_no_score_of_surfaces_or_objects(metric, value, what):
    old = evaluation_of("old", {"ann": 0.5, "bob": 0.5})
    bad = old.scores[1].model_copy(update={metric: value})
    with pytest.raises(UserError, match=f"^old: {re.escape(what)}"):
        compare(old.model_copy(update={"scores": (old.scores[0], bad)}), old)


def test_several_comparisons_share_their_verdicts():
    """Six patients who all gain say 2 in 64; the better of two then counts twice, and the other is no less sure."""
    old = evaluation_of("old", dict.fromkeys("abcdef", 0.5))
    both = [compare(old, evaluation_of(name, dict.fromkeys("abcdef", 0.6))) for name in ("new", "newer")]
    assert [each.overall.verdict for each in both] == ["helped", "helped"]
    together = judged_together(both)
    assert [each.overall.verdict for each in together] == ["no clear difference"] * 2
    assert [each.overall.p_value for each in together] == pytest.approx([2 / 32] * 2)
    assert [each.overall.interval for each in together] == [each.overall.interval for each in both]
    assert together[0].settled_by(together[0].overall) == "about 7 test patients"
    assert judged_together([both[0]]) == [both[0]]


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
    for expected in ("old", "new", "50.0", "65.0", "+15.0 (+9.3 to +20.7)", "95HD", EMPTY_POLICY[:60]):
        assert expected in text
    assert "new is better than old: +15.0 Dice points" in text


@pytest.mark.parametrize(
    ("dice", "text"), [(0.0312, "+3.1"), (-0.2, "−20.0"), (0, "0.0"), (-0.0001, "0.0"), (math.nan, "?")]
)
def test_points(dice, text):
    assert format_points(dice) == text


SHOWN = """
Mean over 2 patients, and the paired difference with its 95 % interval

            Dice %                      difference  95HD voxels
 structure     run   new            in Dice points          run   new
 ─────────────────────────────────────────────────────────────────────
 left         75.0  87.5  +12.5 (−100.0 to +100.0)         3.00  1.00
 right        50.0  75.0    +25.0 (+25.0 to +25.0)         2.00  1.00
 mean         62.5  81.2    +18.8 (−60.7 to +98.2)         2.50  1.00

Empty.
No clear difference between new and run: +18.8 Dice points (−60.7 to +98.2, 95 % interval over 2 patients). With fewer
than 6 patients none can be shown. About 6 test patients would settle it, if the difference and its spread stay as seen
(and then 4 times in 5).
What would settle single structures: left, about 16 test patients; right, about 6 test patients.
"""


def test_all_that_is_shown(monkeypatch):
    """By hand: left gains 0.25 and 0, right 0.25 twice, so that the means gain 0.25 and 0.125; t is 12.7."""
    monkeypatch.setattr(paired, "EMPTY_POLICY", "Empty.")

    def scored(name, dice, distances):
        places = [("ann", "left"), ("bob", "left"), ("ann", "right"), ("bob", "right")]
        scores = [
            Score(patient=patient, case=patient, structure=structure, dice=a, jaccard=0.5, hd95_mm=b, asd_mm=1.0)
            for (patient, structure), a, b in zip(places, dice, distances, strict=True)
        ]
        names = ("left", "right")
        return Evaluation(name=name, structures=names, unit="voxels", scores=tuple(scores), provenance={})

    out = io.StringIO()
    old = scored("run", (0.5, 1.0, 0.25, 0.75), (2.0, 4.0, 1.0, 3.0))
    render_comparison(old, scored("new", (0.75, 1.0, 0.5, 1.0), [1.0] * 4), Console(file=out, width=120))
    assert [line.rstrip() for line in out.getvalue().splitlines()] == SHOWN.strip("\n").splitlines()


def test_no_least_difference_is_a_least_difference():
    assert require_effect(0.0) == 0
    with pytest.raises(UserError, match="is 100 Dice points, expected 0 to below 100"):
        require_effect(1.0)
    old = evaluation_of("old", dict.fromkeys("abcdef", 0.5))
    assert compare(old, old, smallest=0.0).overall.verdict == "equal"
