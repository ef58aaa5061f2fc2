"""What a person sees of many cells."""

import io

from rich.console import Console

from patchcl.comparison.progress import Board
from patchcl.comparison.spec import job_of


def test_lines_say_what_begins_and_what_has_ended(question, tmp_path):
    asked, said = question(("supervised",), (2,), (0, 1)), io.StringIO()
    first, second = asked.cells
    job = job_of(asked, second, tmp_path, 1)
    job.root.mkdir(parents=True)
    with Board(Console(file=said, width=40), 2) as board:
        board.begin(first.place, job_of(asked, first, tmp_path, 1))
        board.leave(first.place)
        board.finish(first.place, "[red]Dice 75.0 %")
        board.begin(second.place, job)
    assert said.getvalue().splitlines() == [
        "labeled_2/supervised/seed_0 starts",
        "[1/2] labeled_2/supervised/seed_0 [red]Dice 75.0 %",
        "labeled_2/supervised/seed_1 goes on",
    ]


def test_bars_follow_the_logs(question, tmp_path):
    asked = question(("supervised",))
    job = job_of(asked, asked.cells[0], tmp_path, 1)
    board = Board(Console(file=io.StringIO(), force_terminal=True), 1)
    board.begin("here", job)
    job.root.mkdir(parents=True)
    board.move("here", job)
    task = board.bar.tasks[1]
    assert (task.completed, task.total) == (0, 6)
    (job.root / "log.jsonl").write_text('{"step": 2, "loss": 1.0}\n{"step": 4, "loss": 1.0}\n{"step": 5, "lo')
    board.move("here", job)
    assert task.completed == 4
    board.leave("here")
    board.finish("here", "done")
    assert [task.completed for task in board.bar.tasks] == [1]
