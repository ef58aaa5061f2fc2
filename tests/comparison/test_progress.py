"""What a person sees of many runs."""

import io

from rich.console import Console

from patchcl.comparison.progress import CompareProgress
from patchcl.comparison.spec import job_of


def test_lines_say_what_begins_and_what_has_ended(make_spec, tmp_path):
    spec, said = make_spec(("supervised",), (2,), (0, 1)), io.StringIO()
    first, second = spec.runs
    job = job_of(spec, second, tmp_path, 1)
    job.root.mkdir(parents=True)
    with CompareProgress(Console(file=said, width=40), 2) as progress:
        progress.begin(first.run_id, job_of(spec, first, tmp_path, 1))
        progress.remove(first.run_id)
        progress.finish(first.run_id, "[red]Dice 75.0 %")
        progress.begin(second.run_id, job)
    assert said.getvalue().splitlines() == [
        "labeled_2/supervised/seed_0 starts",
        "[1/2] labeled_2/supervised/seed_0 [red]Dice 75.0 %",
        "labeled_2/supervised/seed_1 goes on",
    ]


def test_bars_follow_the_logs(make_spec, tmp_path):
    spec = make_spec(("supervised",))
    job = job_of(spec, spec.runs[0], tmp_path, 1)
    progress = CompareProgress(Console(file=io.StringIO(), force_terminal=True), 1)
    progress.begin("here", job)
    job.root.mkdir(parents=True)
    progress.update("here", job)
    task = progress.bar.tasks[1]
    assert (task.completed, task.total) == (0, 6)
    (job.root / "log.jsonl").write_text('{"step": 2, "loss": 1.0}\n{"step": 4, "loss": 1.0}\n{"step": 5, "lo')
    progress.update("here", job)
    assert task.completed == 4
    progress.remove("here")
    progress.finish("here", "done")
    assert [task.completed for task in progress.bar.tasks] == [1]
