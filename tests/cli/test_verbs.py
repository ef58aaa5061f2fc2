"""Every verb as a user types it, in a process of its own where that matters."""

import json
import shutil
import signal
import subprocess
import sys
import time

import nibabel
import numpy as np
import pytest
import yaml
from PIL import Image

from patchcl import cli
from patchcl.comparison import folds as folds
from patchcl.comparison import worker as worker
from patchcl.comparison.runner import Ending
from patchcl.core.signals import StopRequest
from patchcl.data.importers.registry import LAYOUTS
from patchcl.data.splits import load_split
from patchcl.evaluation.scores import read_evaluation
from patchcl.inference.trained_run import open_folder
from patchcl.methods import method_names
from patchcl.training import memory_estimate as estimate

PATCHCL = [sys.executable, "-c", "from patchcl.cli import main; main()"]


@pytest.fixture
def patchcl(monkeypatch, capsys):
    """Runs the program within this process; gives its exit code and everything it said."""

    def call(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["patchcl", *map(str, arguments)])
        monkeypatch.setenv("COLUMNS", "200")
        with pytest.raises(SystemExit) as exit_:
            cli.main()
        output = capsys.readouterr()
        return exit_.value.code or 0, output.out + output.err

    return call


def as_options(tiny):
    return [part for setting in tiny for part in ("--set", setting)]


def test_help_lists_every_verb(patchcl):
    code, said = patchcl("--help")
    assert code == 0
    assert all(
        verb in said
        for verb in ("demo", "check", "train", "resume", "predict", "evaluate", "compare", "import", "report")
    )


def test_help_names_the_methods_there_are(patchcl):
    for verb in ("train", "compare"):
        _, said = patchcl(verb, "--help")
        assert all(name in said for name in method_names())


def test_lists_of_another_project_are_imported_with_their_split_and_checked(patchcl, cardiac, tmp_path):
    source, out = tmp_path / "lists", tmp_path / "imported"
    source.mkdir()
    cases = [path.name.removesuffix(".nii.gz") for path in sorted((cardiac / "labelsTr").glob("*.nii.gz"))]
    rows = [f"{cardiac}/imagesTr/{case}_0000.nii.gz,{cardiac}/labelsTr/{case}.nii.gz" for case in cases]
    (source / "train.csv").write_text("\n".join(["image,label", *rows[:-2]]), encoding="utf-8")
    (source / "valid.csv").write_text("\n".join(["image,label", *rows[-2:]]), encoding="utf-8")
    code, said = patchcl("import", source, "-o", out, "--layout", "pymic", "--structures", "RV,MYO,LV")
    assert code == 0, said
    code, said = patchcl("check", out, "--split", out / "split.json")
    assert code == 0, said
    assert "RV" in said
    code, said = patchcl("import", tmp_path / "nowhere", "-o", tmp_path / "b", "--layout", "pymic")
    assert code == 2
    assert "nowhere is no folder" in said


def test_whoever_names_a_foreign_data_set_is_told_how_to_import_it(patchcl, tmp_path):
    source, out = tmp_path / "study", tmp_path / "imported"
    for number in range(3):
        for kind, pixels in {"photos": np.arange(48).reshape(4, 4, 3) + 9 * number, "masks": 255 * np.eye(4)}.items():
            (source / kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8)).save(source / kind / f"tile{number}.png")
    code, said = patchcl("import", source, "-o", out, "--layout", "plain", "--images", "photos")
    assert code == 0, said
    assert "3 with masks; classes: background, structure_1. Values in the masks: 255 became 1 (structure_1)." in said
    assert f"Next: patchcl check {out}\n" in said
    code, said = patchcl("import", source, "-o", tmp_path / "other")
    assert code == 2
    assert f"{source} has no known layout; it holds masks, photos. Say by --layout which one it has:" in said
    assert all(f"  {name}: " in said for name in LAYOUTS)
    (source / "photos").rename(source / "images")
    for verb in (["check", source], ["train", source, "-o", tmp_path / "r"], ["compare", source, "-o", tmp_path / "r"]):
        code, said = patchcl(*verb)
        assert code == 2
        assert f"Import it first: patchcl import {source} -o NEW_FOLDER --layout plain" in said
    assert not (tmp_path / "r").exists()
    code, said = patchcl("import", source, "-o", tmp_path / "detected")
    assert code == 0, said
    assert "3 scans, 3 with masks" in said


def test_help_of_import_names_the_layouts_there_are(patchcl):
    code, said = patchcl("import", "--help")
    assert code == 0
    assert all(name in said for name in LAYOUTS)
    code, said = patchcl("import", "x", "-o", "y", "--layout", "nifti")
    assert code == 2
    assert f"--layout nifti is not known; choose one of {', '.join(LAYOUTS)}." in said


def test_check_says_what_was_understood(patchcl, cardiac):
    code, said = patchcl("check", cardiac)
    assert code == 0
    for expected in ("cine-MRI", "RV", "MYO", "LV", "slices"):
        assert expected in said


def test_a_plan_is_written_shown_and_trained_by(patchcl, cardiac, tmp_path, tiny):
    plan, run = tmp_path / "plan.yaml", tmp_path / "run"
    code, said = patchcl("check", cardiac, "--set", "plan.size=[32, 32]", "--plan-out", plan)
    assert code == 0
    assert all(word in said for word in ("On this machine", "enough for a batch of", f"--plan {plan}"))
    changed = as_options((*tiny[1:], "plan.output_interpolation=nearest"))
    code, said = patchcl("train", cardiac, "-o", run, "--plan", plan, *changed)
    assert code == 0, said
    fixed, used = (yaml.safe_load(path.read_text(encoding="utf-8")) for path in (plan, run / "plan.yaml"))
    assert used["reasons"].pop("output_interpolation") == used["reasons"].pop("fit") == "set by the user."
    assert fixed["reasons"].pop("fit")
    batch = dict.fromkeys(("labeled_per_batch", "unlabeled_per_batch"), 2)
    assert {used["reasons"].pop(key) for key in batch} == {"set by the user."}
    assert {fixed["reasons"].pop(key) for key in batch} == {"the default, and it fits."}
    assert used == fixed | {"output_interpolation": "nearest"} | batch


def test_the_batch_for_a_small_machine_goes_from_check_by_the_plan_into_training(
    patchcl, cardiac, tmp_path, tiny, monkeypatch
):
    """Five times as much memory makes room for a larger batch; what is set decides over both."""
    few = as_options([part for part in tiny if "per_batch" not in part])
    batches = []
    for gib in (0.004, 0.02):
        monkeypatch.setattr(estimate, "total_memory", {"cpu": gib * 2**30}.get)
        plan = tmp_path / f"{gib}.yaml"
        code, said = patchcl("check", cardiac, *few, "--plan-out", plan)
        assert code == 0, said
        assert "12 + 12 would take" in said
        saved = yaml.safe_load(plan.read_text(encoding="utf-8"))
        batches.append((saved["labeled_per_batch"], saved["unlabeled_per_batch"]))
        assert f"{batches[-1][0]} + {batches[-1][1]}" in said
        assert saved["reasons"]["labeled_per_batch"].startswith("the most that")
    assert 1 <= batches[0][0] < batches[1][0] < 12

    for name, more, expected in (
        ("with", ("--plan", plan), batches[1]),
        ("but", ("--plan", plan, "--set", "training.labeled_per_batch=2"), (2, batches[1][1])),
        ("without", (), (12, 12)),
    ):
        code, said = patchcl("train", cardiac, "-o", tmp_path / name, *more, *few)
        assert code == 0, said
        training = yaml.safe_load((tmp_path / name / "settings.yaml").read_text(encoding="utf-8"))["training"]
        assert (training["labeled_per_batch"], training["unlabeled_per_batch"]) == expected


def test_check_lists_every_problem_and_exits_with_2(patchcl, cardiac, tmp_path):
    data = shutil.copytree(cardiac, tmp_path / "data")
    damaged = sorted((data / "imagesTr").iterdir())[:2]
    for path in damaged:
        path.write_bytes(path.read_bytes()[:200])
    code, said = patchcl("check", data)
    assert code == 2
    assert all(path.name in said for path in damaged)
    assert "Traceback" not in said


def test_train_evaluate_predict_report(patchcl, cardiac, tmp_path, tiny):
    run = tmp_path / "my run"
    code, said = patchcl("train", cardiac, "-o", run, "--method", "mean_teacher", "--labeled", 2, *as_options(tiny))
    assert code == 0
    assert "Trained 6 steps" in said
    assert len(json.loads((run / "split.json").read_text())["labeled"]) == 2

    code, said = patchcl("evaluate", run)
    assert code == 0
    assert all(word in said for word in ("Dice", "95HD", "RV", "MYO", "LV", "mean"))
    assert (run / "evaluation" / "test_last.csv").is_file()

    scan = sorted((cardiac / "imagesTs").iterdir())[0]
    code, _ = patchcl("predict", run, scan, "-o", tmp_path / "out", "--probabilities", "--uncertainty")
    assert code == 0
    name = scan.name.removesuffix("_0000.nii.gz")
    mask, image = nibabel.load(tmp_path / "out" / f"{name}.nii.gz"), nibabel.load(scan)
    assert mask.shape == image.shape
    assert np.array_equal(mask.affine, image.affine)
    assert (tmp_path / "out" / f"{name}_uncertainty.nii.gz").is_file()

    predictions = run / "predictions" / "test_last"
    code, _ = patchcl("evaluate", "--predictions", predictions, "--masks", cardiac / "labelsTs")
    assert code == 0
    of_run, of_folders = run / "evaluation" / "test_last.csv", predictions / "evaluation.csv"
    assert of_folders.read_text() == of_run.read_text()
    assert json.loads((predictions / "evaluation.json").read_text())["summary"]["patients"] == 3
    code, _ = patchcl("report", run, "-o", tmp_path / "report.html")
    assert code == 0
    assert "<html" in (tmp_path / "report.html").read_text()


def test_one_pass_and_no_postprocessing_are_asked_for(patchcl, cardiac, trained, tmp_path):
    run = shutil.copytree(trained, tmp_path / "run")
    steps = {"postprocessing": {"largest_together": True}, "validation": {}}
    (run / "postprocessing.json").write_text(json.dumps(steps))
    facts = {}
    for options in ((), ("--fast",), ("--no-postprocessing",), ("--fast", "--no-postprocessing")):
        assert patchcl("evaluate", run, *options)[0] == 0
        name = "_".join(["test_last", *(option.removeprefix("--") for option in options)])
        known = json.loads((run / "evaluation" / f"{name}.json").read_text())["provenance"]
        facts[options] = (known["symmetries"], known["postprocessing"])
    together = "largest component of all structures together"
    assert list(facts.values()) == [(8, together), (1, together), (8, "none"), (1, "none")]
    scan = sorted((cardiac / "imagesTs").iterdir())[0]
    masks = run / "predictions" / "test_last_fast_no-postprocessing"
    assert patchcl("predict", run, scan, "-o", tmp_path / "out", "--fast", "--no-postprocessing")[0] == 0
    name = scan.name.replace("_0000", "")
    assert (tmp_path / "out" / name).read_bytes() == (masks / name).read_bytes()
    (run / "postprocessing.json").write_text("{")
    code, said = patchcl("predict", run, scan, "-o", tmp_path / "out")
    assert code == 2
    assert "postprocessing.json cannot be read" in said
    assert patchcl("predict", run, scan, "-o", tmp_path / "out", "--no-postprocessing")[0] == 0


def test_predict_does_the_good_scans_lists_the_bad_and_exits_with_1(patchcl, cardiac, trained, tmp_path):
    scans = shutil.copytree(cardiac / "imagesTs", tmp_path / "scans")
    bad, *good = sorted(scans.iterdir())
    bad.write_bytes(b"not a scan")
    code, said = patchcl("predict", trained, scans, "-o", tmp_path / "out")
    assert code == 1
    assert bad.name in said
    assert "Traceback" not in said
    names = {path.name.replace("_0000", "") for path in good}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names | {"predictions.csv"}
    code, said = patchcl("predict", trained, good[0], "-o", tmp_path / "out", "--format", "dicom-seg")
    assert code == 1
    assert "is no DICOM series" in said


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            ("train", "{data}", "-o", "{out}", "--set", "training.stepz=3"),
            "Did you mean training.steps?",
        ),
        (("train", "{data}", "-o", "{out}", "--method", "magic"), f"choose one of {', '.join(sorted(method_names()))}"),
        (("train", "{data}", "-o", "{out}", "--steps", "-3"), "training.steps is -3"),
        (("train", "{data}", "-o", "{out}", "--config", "missing.yaml"), "missing.yaml"),
        (("train", "{data}", "-o", "{out}", "--labeled", "nobody"), "nobody"),
        (("train", "nowhere", "-o", "{out}"), "nowhere"),
        (("train", "{data}", "-o", "{out}", "--device", "cuda"), "no CUDA device"),
        (("train", "{data}", "-o", "{out}", "--cluster", "tcp://n1:8786"), "--cluster is for many runs"),
        (("resume", "{data}"), "holds no run"),
        (("predict", "{data}", "{data}", "-o", "{out}"), "holds no run"),
        (("evaluate",), "Give either a RUN"),
        (("compare",), "Give either DATA and -o DIR, or --show DIR alone"),
        (("compare", "{data}"), "Give either DATA and -o DIR"),
        (("compare", "{data}", "--show", "{out}"), "Give either DATA and -o DIR"),
        (("compare", "--show", "{out}"), "holds no comparison"),
        (("compare", "--table", "{out}"), "--table is now called --show"),
        (("compare", "{data}", "-o", "{data}"), "something else than a comparison"),
        (("compare", "{data}", "-o", "{out}", "--methods", "magic"), "each also as NAME+contrast"),
        (("compare", "{data}", "-o", "{out}", "--methods", ""), "names none"),
        (("compare", "{data}", "-o", "{out}", "--labeled", "3,few"), "--labeled holds 'few'"),
        (("compare", "{data}", "-o", "{out}", "--seeds", "-1"), "--seeds holds '-1'"),
        (("compare", "{data}", "-o", "{out}", "--seeds", ""), "--seeds holds ''"),
        (("compare", "{data}", "-o", "{out}", "--labeled", "50"), "split.labeled is 50"),
        (("check", "nowhere"), "nowhere"),
    ],
)
def test_a_mistake_is_one_message_and_exit_code_2(arguments, expected, patchcl, cardiac, tmp_path):
    code, said = patchcl(*(part.format(data=cardiac, out=tmp_path / "run") for part in arguments))
    assert code == 2
    assert expected in said
    assert "Traceback" not in said
    assert not (tmp_path / "run").exists()


def test_control_c_leaves_a_resumable_run_and_says_so(cardiac, tmp_path, tiny):
    run = tmp_path / "run"
    options = ["--steps", "5000", "--set", "training.log_every=1", *as_options(tiny[:3] + tiny[5:])]
    process = subprocess.Popen(
        [*PATCHCL, "train", str(cardiac), "-o", str(run), *options], stdout=subprocess.PIPE, text=True
    )
    log = run / "log.jsonl"
    while process.poll() is None and not (log.exists() and log.stat().st_size):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "patchcl resume" in " ".join(said.split())
    assert (run / "checkpoints" / "last.ckpt").is_file()


def test_a_preempted_job_goes_on_by_the_same_command(cardiac, tmp_path, tiny):
    """SIGTERM, as a scheduler sends it: exit code 143, and all of it saved."""
    run = tmp_path / "run"
    options = ["--steps", "30", "--set", "training.log_every=1", *as_options(tiny[:3] + tiny[5:])]
    command = [*PATCHCL, "train", str(cardiac), "-o", str(run), "--method", "supervised", "--resume-if-there", *options]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    log = run / "log.jsonl"
    while process.poll() is None and not (log.exists() and log.stat().st_size):
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=120) == 143
    assert (run / "checkpoints" / "last.ckpt").is_file()
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "Trained 30 steps" in " ".join(ended.stdout.split())
    again = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "Trained 30 steps" in " ".join(again.stdout.split())


def test_diverged_training_is_one_message_and_exit_code_1(patchcl, cardiac, tmp_path, tiny):
    run = tmp_path / "run"
    options = ("--method", "supervised", "--set", "training.learning_rate=.inf")
    code, said = patchcl("train", cardiac, "-o", run, *as_options(tiny), *options)
    assert code == 1
    assert "Training diverged" in said
    assert "training.learning_rate (now inf)" in said
    assert "Traceback" not in said
    assert not (run / "checkpoints" / "last.ckpt").exists()
    code, said = patchcl("predict", run, cardiac / "imagesTs", "-o", tmp_path / "out")
    assert (code, "last.ckpt does not exist" in said) == (2, True)


def test_compare_stops_goes_on_and_answers(patchcl, cardiac, tmp_path, tiny):
    """Two runs side by side; Ctrl-C while they train, then the same command again, then the table alone."""
    out = tmp_path / "comparison"
    options = ["--methods", "supervised,mean_teacher", "--labeled", "2", "--seeds", "0", "--steps", "40", "--jobs", "2"]
    command = ["compare", str(cardiac), "-o", str(out), *options, *as_options(tiny[:3] + tiny[6:])]
    often = ["--set", "training.log_every=1", "--set", "training.validate_every=20"]
    process = subprocess.Popen([*PATCHCL, *command, *often], stdout=subprocess.PIPE, text=True)
    roots = [out / "runs" / "labeled_2" / method / "seed_0" for method in ("supervised", "mean_teacher")]
    while process.poll() is None and not any((root / "log.jsonl").exists() for root in roots):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 130
    assert "Call the same command again to go on" in " ".join(said.split())
    assert any((root / "checkpoints" / "last.ckpt").is_file() for root in roots)
    assert not list(out.rglob("*.lock-*"))

    code, said = patchcl(*command, *often)
    assert code == 0
    assert all(word in said for word in ("supervised", "mean_teacher", "95HD", "RV", "MYO", "LV", "highest Dice"))
    for root in roots:
        assert sum(session["steps"] for session in json.loads((root / "sessions.json").read_text())) == 40
        sides = {"test_last.json", "test_best.json", "validation_last.json"}
        assert {path.name for path in (root / "evaluation").glob("*.json")} == sides
    assert "Chosen run: labeled_2/supervised/seed_0" in " ".join(said.split())
    runs = json.loads((out / "results.json").read_text())["runs"]
    assert all(0 < run["peak_gib"] < 100 and run["minutes"] > 0 for run in runs)

    before = {path: path.stat().st_mtime_ns for path in (out / "runs").rglob("*") if path.is_file()}
    (out / "compare.html").unlink()
    code, again = patchcl("compare", "--show", out)
    assert code == 0
    assert again in said
    assert (out / "compare.html").is_file()
    assert before == {path: path.stat().st_mtime_ns for path in (out / "runs").rglob("*") if path.is_file()}


def test_compare_with_folds_stops_goes_on_and_predicts_with_the_chosen_ensemble(
    patchcl, cardiac, tmp_path, tiny, monkeypatch
):
    """Both methods on two folds, all units in this process; the first call is stopped after its first fold."""
    begun, stop = [], StopRequest()

    def run_here(jobs, folder, at_once, console, cluster):
        for name, job in jobs.items():
            if stop:
                break
            begun.append(name)
            worker.work(job, console)
            stop.signal = signal.SIGINT if len(begun) == 1 else None
        return Ending({}, stop)

    monkeypatch.setattr(folds, "run_jobs", run_here)
    monkeypatch.setattr("patchcl.comparison.page.themed", lambda draw: {"light": "blank", "dark": "blank"})
    out, cells = tmp_path / "comparison", ["labeled_all/supervised/seed_0", "labeled_all/mean_teacher/seed_0"]
    command = ["compare", cardiac, "-o", out, "--methods", "supervised,mean_teacher", "--seeds", "0"]
    command += as_options([*tiny, "training.steps=2", "inference.symmetries=false"])
    code, said = patchcl(*command, "--folds", "2")
    assert (code, begun) == (130, [f"{cells[0]}/fold_0"])
    assert "Call the same command again to go on" in said
    _, said = patchcl("compare", "--show", out)
    assert f"Missing: {cells[0]}: fold_1 not run yet" in " ".join(said.split())

    stop.signal = None
    code, said = patchcl(*command, "--folds", "2")
    said = " ".join(said.split())
    assert code == 0
    assert begun[1:] == [f"{cells[0]}/fold_1", f"{cells[1]}/fold_0", f"{cells[1]}/fold_1", *cells]
    assert "2 runs of 2 folds each, 0 of them finished already." in said
    assert "4 labeled patients, each scored by the run that has not seen it; mean" in said
    assert "beyond chance over 4 labeled patients; with fewer than 6 patients none can be shown to be" in said
    for cell in cells:
        root = out / "runs" / cell
        scored = read_evaluation(root / "evaluation" / "validation_last.json")
        assert set(scored.patients) == set(load_split(root / "split.json").labeled)
        by_fold = [load_split(root / f"fold_{fold}" / "split.json").validation for fold in (0, 1)]
        assert sorted(patient for patients in by_fold for patient in patients) == sorted(scored.patients)
    results = json.loads((out / "results.json").read_text())
    assert (results["spec"]["folds"], results["spec"]["on"]) == (2, "validation")
    assert all(sum(spent["steps"] for spent in run["sessions"]) == 4 for run in results["runs"])
    assert json.loads((out / "chosen.json").read_text())["run_id"] == results["chosen"]["run_id"] == cells[0]

    code, said = patchcl(*command, "--folds", "2")
    assert (code, len(begun)) == (0, 6)
    for other in (["--folds", "3"], []):
        code, said = patchcl(*command, *other)
        assert (code, "compares under other conditions" in said, "--folds" in said) == (2, True, True)

    scan = min((cardiac / "imagesTs").iterdir())
    code, said = patchcl("predict", out, scan, "-o", tmp_path / "masks", "--device", "cpu")
    assert (code, f"Chosen run: {cells[0]}." in said) == (0, True)
    (mask,) = (tmp_path / "masks").glob("*.nii.gz")
    ensemble = open_folder(out / "runs" / cells[0], device="cpu")
    assert len(ensemble.folds) == 2
    np.testing.assert_array_equal(nibabel.load(mask).get_fdata(), ensemble.predict(scan).mask)


def test_a_failed_run_is_named_at_the_end_and_the_exit_code_is_1(patchcl, cardiac, tmp_path, tiny):
    data = shutil.copytree(cardiac, tmp_path / "data")
    scan = sorted((data / "imagesTr").iterdir())[0]
    scan.write_bytes(bytes(scan.stat().st_size))
    out = tmp_path / "comparison"
    code, said = patchcl(
        "compare", data, "-o", out, "--methods", "supervised", "--labeled", 2, "--seeds", 0, *as_options(tiny)
    )
    assert code == 1
    assert "Failed labeled_2/supervised/seed_0" in said
    assert scan.name in said
    assert "Traceback" not in said


def test_torch_waits_until_a_verb_needs_it():
    subprocess.run(
        [sys.executable, "-c", "import sys, patchcl.cli; sys.exit('torch' in sys.modules or 'monai' in sys.modules)"],
        check=True,
    )


ASKING = """
import sys
from patchcl.cli import main
for verb in {verbs}:
    sys.argv = ["patchcl", *verb]
    try:
        main()
    except SystemExit as end:
        print(end.code, file=sys.stderr)
print("torch" in sys.modules)
"""


def said_without_torch(verbs, folder):
    """What each of `verbs` says on the errors' stream with its exit code; torch is not loaded for any."""
    call = [sys.executable, "-c", ASKING.format(verbs=verbs)]
    told = subprocess.run(call, capture_output=True, text=True, cwd=folder, check=False)
    assert told.stdout == "False\n", told.stderr
    return told.stderr.splitlines()


def test_a_folder_that_is_not_there_is_told_without_torch(tmp_path):
    new, missing = ("-o", "new"), "nowhere"
    first = [("train", missing, *new), ("check", missing), ("evaluate", missing), ("predict", missing, ".", *new)]
    runs = [("resume", missing), ("report", missing)]
    options = [("--split", missing), ("--plan", missing), ("-c", missing)]
    settings = [(verb, ".", *more, *option) for verb, *more in (("train", *new), ("check",)) for option in options]
    compare = [("compare", ".", *new, option, missing) for option in ("--split", "-c", "--variants")]
    masks = [
        ("evaluate", "--predictions", missing, "--masks", "."),
        ("evaluate", "--predictions", ".", "--masks", missing),
    ]
    verbs = [*first, *runs, *settings, *compare, *masks]
    told = "Error nowhere does not exist. Give the folder or file that is meant."
    assert said_without_torch(verbs, tmp_path) == [told, "2"] * len(verbs)
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_run_or_not_enough_is_told_without_torch(trained, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    verbs = [("resume", "other"), ("predict", "other", ".", "-o", "new"), ("evaluate", "other")]
    verbs += [("report", str(trained), "other", "-o", "new")]
    told = "Error other holds no run: settings.yaml is missing. Name a folder made by patchcl train."
    assert said_without_torch(verbs, tmp_path) == [told, "2"] * len(verbs)
    one = "Error Give either a RUN, or both --predictions DIR and --masks DIR."
    assert said_without_torch([("evaluate",), ("evaluate", str(trained), "--masks", ".")], tmp_path) == [one, "2"] * 2
    what, tell = "other holds no comparison: compare.json is missing.", "Name a folder made by it."
    assert said_without_torch([("compare", "--show", "other")], tmp_path) == [f"Error {what} {tell}", "2"]
    (said, code) = said_without_torch([("import", "nowhere", "-o", "new")], tmp_path)
    assert (said.startswith("Error nowhere is no folder and no file."), code) == (True, "2")
    assert list(tmp_path.iterdir()) == [other]


@pytest.mark.parametrize("verb", [("train", "-o", "new"), ("check",), ("compare", "-o", "new")])
def test_a_mistyped_setting_is_told_without_torch(verb, tmp_path):
    script = "import sys; from patchcl.cli import main\ntry:\n    main()\nfinally:\n    print('torch' in sys.modules)"
    call = [sys.executable, "-c", script, verb[0], ".", *verb[1:], "--set", "method.contrast.wait=1"]
    told = subprocess.run(call, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert (told.returncode, told.stdout) == (2, "False\n")
    assert "method.contrast.wait is not a setting. Did you mean method.contrast.weight?" in told.stderr
    assert list(tmp_path.iterdir()) == []


def test_masks_are_not_written_into_a_run(patchcl, trained, cardiac):
    before = sorted(trained.iterdir())
    code, said = patchcl("predict", trained, cardiac / "imagesTs", "-o", trained)
    assert code == 2
    assert sorted(trained.iterdir()) == before
    assert "holds a run or a comparison" in " ".join(said.split())
