"""What a person sees of many runs."""

import io

from rich.console import Console

from patchcl.comparison.cell import Cell, CellEnding
from patchcl.comparison.progress import CompareProgress
from patchcl.comparison.spec import job_of
from patchcl.core.signals import StopRequest


def jobs_and_cells(spec, out):
    jobs = {run.run_id: job_of(spec, run, out, 1) for run in spec.runs}
    return jobs, [Cell(run_id, str(job.root), "") for run_id, job in jobs.items()]


def test_lines_say_what_begins_and_what_has_ended(make_spec, tmp_path):
    jobs, (first, second, third) = jobs_and_cells(make_spec(("supervised",), (2,), (0, 1, 2)), tmp_path)
    jobs[second.run_id].root.mkdir(parents=True)
    said, stop = io.StringIO(), StopRequest()
    with CompareProgress(Console(file=said, width=40), jobs) as progress:
        progress.begin(first)
        progress.tally.begun -= 120
        progress.end(first, CellEnding(None, False, 12.3), "[red]Dice 75.0 %")
        progress.begin(second)
        progress.begin(third)
        progress.update(stop)
        stop.signal = 15
        progress.update(stop)
        progress.update(stop)
        progress.end(second, CellEnding(None, True, 1.0), "")
        progress.end(third, CellEnding("no memory", False, 1.0), "")
    assert said.getvalue().splitlines() == [
        "labeled_2/supervised/seed_0 starts",
        "[1/3] labeled_2/supervised/seed_0 [red]Dice 75.0 %, 12 s; 4 min left",
        "labeled_2/supervised/seed_1 goes on",
        "labeled_2/supervised/seed_2 starts",
        "Stopping: whatever runs saves its state first. Ctrl-C again gives that up.",
        "[2/3] labeled_2/supervised/seed_2 failed: no memory; 60 s left",
    ]
    assert str(progress.tally).startswith("2 of 3 done, 0 running, 1 failed")


def test_bars_follow_the_logs(make_spec, tmp_path):
    jobs, (cell,) = jobs_and_cells(make_spec(("supervised",)), tmp_path)
    job = jobs[cell.run_id]
    progress = CompareProgress(Console(file=io.StringIO(), force_terminal=True), jobs)
    progress.begin(cell)
    job.root.mkdir(parents=True)
    progress.update(StopRequest())
    task = progress.bar.tasks[1]
    assert (task.completed, task.total) == (0, 6)
    assert progress.bar.tasks[0].description == "runs: 0 of 1 done, 1 running, 0 failed"
    (job.root / "log.jsonl").write_text('{"step": 2, "loss": 1.0}\n{"step": 4, "loss": 1.0}\n{"step": 5, "lo')
    progress.update(StopRequest())
    assert task.completed == 4
    progress.end(cell, CellEnding(None, False, 1.0), "done")
    assert [task.completed for task in progress.bar.tasks] == [1]
