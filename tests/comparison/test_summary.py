"""What the terminal says of made-up runs."""

import io

import pytest
from rich.console import Console

from patchcl.comparison.remarks import missing
from patchcl.comparison.summary import NOTHING, headline, lead, render_budgets, sentences
from patchcl.evaluation.metrics import EMPTY_POLICY
from patchcl.evaluation.paired import compare_seeds


def rendered(budgets, width=80):
    said = io.StringIO()
    render_budgets(budgets, Console(file=said, width=width))
    return said.getvalue()


def test_the_tables_fit_a_terminal_and_hold_every_figure(budgets):
    text = rendered(
        budgets(supervised=0, patchcl=lambda compare_run: 0.125 + 0.25 * compare_run.seed, mean_teacher=-0.125)
    )
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    lines = text.splitlines()
    quality, surface, structures = (
        next(line.split() for line in lines[start:] if line.split()[:1] == ["patchcl"])
        for start in (lines.index(line) for line in lines if line.strip().startswith("method"))
    )
    assert " ".join(quality) == "patchcl 66.7 ± 17.7 +25.0 (−100.0 to +100.0) 79.2 ± 17.7"
    assert " ".join(surface) == "patchcl 50.0 ± 0.0 75.0 ± 0.0 9.00 ± 0.00 3.00 ± 0.00"
    assert " ".join(structures) == "patchcl 66.7 66.7 2 1.0 0.50"
    assert EMPTY_POLICY in " ".join(text.split())
    assert "average over seeds" not in text
    assert "averaged over seeds" in " ".join(text.split())


def test_the_best_of_a_column_is_bold(budgets):
    said = io.StringIO()
    render_budgets(budgets(supervised=0, patchcl=0.125), Console(file=said, width=120, force_terminal=True))
    assert "\x1b[1m54.2 ± 0.0\x1b[0m" in said.getvalue()
    assert "\x1b[1m41.7 ± 0.0\x1b[0m" not in said.getvalue()


def test_missing_runs_stand_below_with_their_reason(budgets):
    made = budgets(supervised=0, patchcl=lambda compare_run: None if compare_run.seed else 0.125)
    assert missing(made) == [("labeled_2/patchcl/seed_1", "not run yet")]
    text = " ".join(rendered(made).split())
    assert "Missing: labeled_2/patchcl/seed_1: not run yet" in text
    assert "never called the best: patchcl (1)" in text
    assert headline(made) == "supervised scores highest"


def test_the_answer_says_by_how_much_and_whether_that_is_clear(budgets):
    (sentence,) = sentences(
        budgets(supervised=0, patchcl=0.125, mean_teacher=-0.125, fixmatch=lambda compare_run: 0.25)
    )
    assert sentence == (
        "With 2 labeled patients (2 seeds) fixmatch has the highest Dice, 66.7 ± 0.0 %, "
        "+25.0 (+25.0 to +25.0) points against supervised. "
        "Its lead over the next, patchcl, is clear: +12.5 (+12.5 to +12.5). "
        "Better than supervised: patchcl, fixmatch. Worse than supervised: mean_teacher."
    )


def test_seeds_that_disagree_are_no_verdict(budgets):
    """On average 12.5 points in every patient, but one of the seeds is worse."""
    made = budgets(supervised=0, patchcl=lambda compare_run: 0.375 - 0.5 * compare_run.seed)
    (sentence,) = sentences(made)
    assert "Its lead over the next, supervised, may be chance: +12.5 (−100.0 to +100.0)" in sentence
    assert (
        "Not clearly different from supervised: patchcl (settled by more than 1000 test patients and 50 s" in sentence
    )


def test_the_headline_names_the_best_of_every_count(budgets):
    made = budgets(
        labeled=(1, 2, 3), supervised=0, patchcl=lambda compare_run: 0.125 if compare_run.labeled == 2 else -0.125
    )
    assert headline(made) == "Highest Dice: supervised with 1 and 3, patchcl with 2 labeled patients"


def test_without_a_baseline_methods_are_still_ranked(budgets):
    made = budgets(patchcl=0.125, mean_teacher=0)
    assert headline(made) == "patchcl scores highest"
    assert sentences(made) == [
        "With 2 labeled patients (2 seeds) patchcl has the highest Dice, 54.2 ± 0.0 %. "
        "Its lead over the next, mean_teacher, is clear: +12.5 (+12.5 to +12.5)."
    ]


def test_one_method_leads_nobody(budgets):
    (budget,) = budgets(supervised=0)
    assert lead(budget) is None
    assert sentences([budget]) == ["With 2 labeled patients (2 seeds) supervised has the highest Dice, 41.7 ± 0.0 %."]


def test_nothing_done_is_nothing_to_compare(budgets):
    made = budgets(supervised=None, patchcl=None)
    assert headline(made) == NOTHING
    assert sentences(made) == []
    assert NOTHING in rendered(made)


def test_verdicts_are_corrected_for_the_number_of_methods(budgets):
    """Six patients who all gain are a verdict on one method (1 in 32), and none on each of two."""
    (few,) = budgets(patients=6, supervised=0, patchcl=0.125, mean_teacher=0.125)
    assert few.rows[1].against.overall.p_value == pytest.approx(2 / 32)
    assert "Not clearly different from supervised: patchcl (settled by about 7 test patients)" in sentences([few])[0]
    assert compare_seeds(*([r.scores["last"] for r in row.results] for row in few.rows[:2])).overall.verdict == "helped"


def test_methods_that_score_alike_are_named_together(budgets):
    made = budgets(supervised=0, patchcl=0)
    assert headline(made) == "supervised and patchcl score alike"
    assert "supervised and patchcl share the highest Dice" in sentences(made)[0]
    assert "The next, patchcl, is equal to it: 0.0 (0.0 to 0.0)." in sentences(made)[0]
    assert "Equal to supervised: patchcl." in sentences(made)[0]


def test_what_a_few_patients_leave_open_is_no_lead_of_methods_that_score_alike(budgets):
    made = budgets(patients=3, supervised=0, patchcl=0)
    said = sentences(made)[0]
    assert "share the highest Dice" in said
    assert "lead" not in said
    assert "would settle" not in said.partition("Not clearly")[0]


@pytest.mark.parametrize(
    ("gain", "headline_"),
    [(0.0003, "patchcl and supervised score alike"), (0.0008, "patchcl and supervised score alike")],
)
def test_a_lead_that_does_not_count_is_a_tie(budgets, gain, headline_):
    """41.67 and 41.70 % are both shown as 41.7; of 41.7 and 41.75 the difference is less than counts."""
    assert headline(budgets(supervised=0, patchcl=gain)) == headline_


def test_nothing_learned_is_no_ranking(budgets):
    made = budgets(patients=1, supervised=-0.25, patchcl=0.001 - 0.25)
    assert headline(made) == "Nothing was learned"
    (sentence,) = sentences(made)
    assert sentence == "With 2 labeled patients (2 seeds) nothing was learned: no method has a mean Dice of 1 %."


def test_one_patient_is_no_verdict(budgets):
    made = budgets(patients=1, supervised=0, patchcl=0.125)
    (sentence,) = sentences(made)
    assert "+12.5 points against supervised" in sentence
    assert "Scored on one patient, which is no verdict against supervised: patchcl." in sentence
    assert "Its lead over the next, supervised, +12.5, is that of one patient: no verdict." in sentence
    assert "settle" not in sentence
    assert "chance" not in sentence


def test_the_least_difference_that_counts_is_a_setting(budgets):
    (budget,) = budgets(min_effect=0.03, supervised=0, patchcl=0.02)
    assert budget.rows[1].against.overall.verdict == "equal"
    one, other = ([result.scores["last"] for result in row.results] for row in budget.rows)
    assert compare_seeds(one, other).overall.verdict == "helped"
