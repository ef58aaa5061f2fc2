"""What stands in tables: figures by what was done, surfaces, rescued runs, and a hundred structures."""

import io

import pytest
from rich.console import Console

from patchcl.comparison.results import Figure, read_budgets
from patchcl.comparison.tables import (
    EXTREMES,
    column_figures,
    column_headings,
    columns_table,
    detail_metrics,
    extremes,
    figure_cell,
    policy,
    quality_table,
    scored_patients,
    structure_tables,
    surface_table,
)
from patchcl.evaluation.inference_columns import ONE_PASS_COLUMN, POSTPROCESSED_COLUMN, SYMMETRIES_COLUMN
from patchcl.evaluation.metrics import SURFACE_POLICY

DICE = {"supervised": [0.5, 0.25], "patchcl": [0.75, 0.5]}


def rows_of(dice, hd95):
    figures = {"dice": {"mean": dice, "std": 0.0}, "hd95_mm": {"mean": hd95, "std": None}}
    return dict.fromkeys(("left", "right", "mean"), figures)


def lines(table, width=80):
    said = io.StringIO()
    Console(file=said, width=width).print(table)
    return [line.rstrip() for line in said.getvalue().splitlines() if line.strip()]


@pytest.fixture
def made(make_spec, folder, change):
    """Two runs: one that averages and post-processes, one whose validation chose no post-processing."""

    def make(seeds=(0,), **changes):
        spec = make_spec(seeds=seeds)
        out = folder(spec, lambda compare_run: DICE[compare_run.method])
        for compare_run in spec.runs:
            change(spec, compare_run, out, **changes.get(compare_run.method, {}))
        return read_budgets(spec, out)[0]

    return make


def test_one_pass_symmetries_and_postprocessing_have_a_column_each(made):
    """What a run leaves out changed nothing: its figure is that of the column before."""
    budget = made(
        supervised={"columns": {ONE_PASS_COLUMN: rows_of(0.25, 8), SYMMETRIES_COLUMN: rows_of(0.375, 9)}},
        patchcl={
            "columns": {
                ONE_PASS_COLUMN: rows_of(0.5, 7),
                SYMMETRIES_COLUMN: rows_of(0.5625, 6),
                POSTPROCESSED_COLUMN: rows_of(0.625, 9),
            }
        },
    )
    assert budget.columns == (ONE_PASS_COLUMN, SYMMETRIES_COLUMN, POSTPROCESSED_COLUMN)
    supervised, patchcl = lines(columns_table(budget))[-2:]
    assert supervised.split() == ["supervised", "25.0", "37.5", "37.5"]
    assert patchcl.split() == ["patchcl", "50.0", "56.2", "62.5"]
    pages = [figure_cell(budget.rows[1], figure) for figure in column_figures(budget)]
    assert pages == ["50.0", "56.2", "62.5", "7.00", "6.00", "9.00"]
    assert column_headings(budget)[4] == ("95HD mm", "symmetries averaged")


def test_runs_of_one_pass_alone_have_no_such_table(made):
    budget = made()
    assert budget.columns == ()
    assert figure_cell(budget.rows[0], Figure("dice", column=SYMMETRIES_COLUMN)) == "37.5"


def test_surface_dice_stands_beside_the_other_scores_where_it_was_measured(made):
    budget = made()
    assert "surface Dice %" in lines(surface_table(budget))[0]
    assert "75.0" in lines(surface_table(budget))[-1]
    assert policy(budget).endswith(SURFACE_POLICY)


def test_scores_without_surfaces_leave_a_gap_or_no_column_at_all(made):
    old = made().evaluations[0]
    without = tuple(score.model_copy(update={"surface_dice": None}) for score in old.scores)
    mixed = made(supervised={"scores": without})
    assert [figure_cell(row, Figure("surface_dice")) for row in mixed.rows] == ["", "75.0"]
    assert mixed.best(Figure("surface_dice")) is None
    none = made(supervised={"scores": without}, patchcl={"scores": without})
    assert "surface_dice" not in detail_metrics(none)
    assert SURFACE_POLICY not in policy(none)


def test_a_method_with_a_rescued_run_has_a_star(made):
    budget = made(patchcl={"provenance": {"trained_rescues": 2}})
    assert [row.name for row in budget.rows] == ["supervised", "patchcl *"]
    assert lines(quality_table(budget))[-1].startswith(" patchcl * ")


def test_a_hundred_structures_are_lines_of_which_the_extremes_are_shown(made):
    names = tuple(f"structure {place:02}" for place in range(100))
    first = made().evaluations[0].scores[0]
    scores = tuple(
        first.model_copy(update={"patient": patient, "structure": name, "dice": place / 100})
        for patient in ("p0", "p1")
        for place, name in enumerate(names)
    )
    same = {"structures": names, "scores": scores}
    budget = made(supervised=same, patchcl=same)
    assert extremes(budget) == [*names[:EXTREMES], *names[-EXTREMES:]]
    costs, listed = structure_tables(budget)
    assert lines(costs)[-1].split() == ["patchcl", "1", "1.0", "0.50"]
    text = lines(listed)
    assert max(map(len, text)) <= 80
    assert [line.split()[1:] for line in text if "structure 04" in line or "structure 95" in line] == [
        ["04", "4.0", "4.0"],
        ["95", "95.0", "95.0"],
    ]
    assert "structure 50" not in "\n".join(text)
    assert "The lowest and the highest of 100 structures; all are in compare.csv." in " ".join(" ".join(text).split())


def test_with_folds_it_is_said_who_was_scored_by_what(make_spec, folder):
    spec = make_spec(("supervised",), (None,), folds=2)
    (budget,) = read_budgets(spec, folder(spec, lambda compare_run: [0.5, 0.25]))
    assert scored_patients(budget) == "2 labeled patients, each scored by the run that has not seen it"
    assert scored_patients(budget._replace(folds=None)) == "2 patients scored"


def test_names_of_structures_are_text(make_spec, folder, rename_structures):
    """What is markup to the terminal's library stands in the tables as it is written."""
    names, spec = ("[/red]", "<script>"), make_spec()
    out = folder(spec, lambda compare_run: DICE[compare_run.method])
    rename_structures(out, names)
    budget = read_budgets(spec, out)[0]
    shown = "\n".join(line for table in structure_tables(budget) for line in lines(table, 120))
    assert all(name in shown for name in names)
