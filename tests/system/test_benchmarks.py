"""Benchmarks of speed compare ways to one result, their ratios are what they claim; documents are current."""

import importlib
import itertools
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from scipy import stats

from patchcl.data.dataset import read_dataset
from patchcl.data.scan import read_mask
from patchcl.evaluation.intervals import over_patients, over_seeds
from patchcl.evaluation.paired import format_interval

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def contrast() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        yield importlib.import_module("beside_published")


@pytest.fixture(scope="module")
def timing(contrast) -> ModuleType:
    return importlib.import_module("timing")


@pytest.fixture(scope="module")
def speed(contrast) -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        yield importlib.import_module("speed")


@pytest.fixture(scope="module")
def published(contrast) -> ModuleType:
    return contrast.published


def test_both_ways_give_the_same_gradient(contrast):
    calls = contrast.losses(64, CPU)
    theirs, ours = calls[contrast.UNMINED](), calls["patchcl, none"]()
    assert theirs.abs().max() > 1e-4
    assert torch.allclose(theirs, ours, atol=1e-6)


def test_both_memories_keep_the_same_embeddings(contrast):
    queues, memory = contrast.filled(8, CPU)
    new, label = torch.randn(6, contrast.DIMENSIONS), torch.tensor([0, 3, 0, 1, 1, 1])
    queues.push(new, label)
    memory.push(new, label)
    for rows, remembered in zip(queues.rows, memory.embedding, strict=True):
        assert torch.equal(torch.stack(rows).sort(dim=0).values, remembered.sort(dim=0).values)
    assert torch.equal(torch.stack(queues.rows[0][-2:]), new[[0, 2]])  # the newest come last


def test_mining_moves_a_class_to_samples_between_the_two(contrast, published):
    np.random.seed(0)
    ours, theirs = np.array([1.0, 0.0]), np.array([0.0, 0.0])
    found = published.between(ours, theirs, np.zeros(2), np.eye(2), wanted=500)
    assert len(found) >= 500
    assert found[:, 0].min() >= 0
    assert found[:, 0].max() <= 1

    rows = contrast.unit_vectors(64)
    own, other = (published.gaussian(rows[k]) for k in (0, 1))
    mined = published.mined(rows[0, :8], own, rows[1], other)
    assert mined.covariance.trace() < other.covariance.trace()  # what that code does: it keeps the easy ones
    assert torch.nn.functional.cosine_similarity(mined.mean, other.mean, dim=0) > 0.95


def test_squared_distances_are_those_of_mahalanobis(published):
    points, mean, inverse = np.array([[1.0, 2.0], [3.0, 1.0]]), np.array([1.0, 1.0]), np.diag([0.5, 3.0])
    assert published.squared_distance(points, mean, inverse).tolist() == [3.0, 2.0]


def test_boxes_cover_components_and_stay_inside(published):
    shown = np.zeros((20, 40), dtype=bool)
    shown[1:5, 0:6] = True  # smaller than a patch, at the corner
    shown[8:19, 15:38] = True  # 11 x 23: two rows and three columns, the last ones flush
    shown[0, 39] = True  # too small
    tiles = [(8, 15), (8, 23), (8, 30), (11, 15), (11, 23), (11, 30)]
    assert published.corners(shown, side=8, by_component=True) == [(0, 0), *tiles]
    assert published.corners(shown, side=10, by_component=False) == [(y, x) for y in (0, 10) for x in (0, 10, 20, 30)]


def test_of_two_boxes_that_share_over_four_fifths_the_first_stays(published):
    assert published.apart([(0, 0), (0, 1), (0, 2), (5, 5)], side=8) == [(0, 0), (0, 2), (5, 5)]


def test_a_published_patch_shows_its_class_alone(contrast, published):
    _, mask = contrast.hearts(3, 32)
    brightness = torch.tensor([0.2, 0.7, 0.4, 0.8])[mask].unsqueeze(1)
    drawn = published.draw_patches(brightness.numpy(), mask.numpy(), 4, side=8, per_class=5)
    for patches, value in zip(drawn, (0.2, 0.7, 0.4, 0.8), strict=True):
        assert patches.shape == (5, 1, 8, 8)
        assert np.allclose(np.unique(patches[patches > 0]), value)


def test_a_figure_is_the_time_of_one_call_of_a_block_that_takes_long_enough(timing, monkeypatch):
    passed = []
    monkeypatch.setattr(timing, "clock_of", lambda _: lambda: sum(passed))
    assert timing.milliseconds(lambda: passed.append(0.03), CPU, minimum=0.1) == pytest.approx(30)
    assert len(passed) == 1 + 2 + 4


def test_ways_take_turns_after_a_warm_up_until_the_time_is_over(timing, monkeypatch):
    turns = []
    monkeypatch.setattr(timing, "milliseconds", lambda call, _: call() or 1.0)
    monkeypatch.setattr(timing, "clock_of", lambda _: iter(range(10)).__next__)
    ways = {"a": lambda: turns.append("a"), "b": lambda: turns.append("b")}
    rounds = timing.alternate(ways, CPU, seconds=3, warm_up=True)
    assert "".join(turns) == "ab" + "ababab"
    assert [way["ms"] for way in rounds.values()] == [[1.0] * 3] * 2


def test_a_ratio_is_the_median_within_rounds(timing):
    slow, fast = {"ms": [200.0, 900.0, 330.0]}, {"ms": [1.0, 3.0, 1.0]}
    assert timing.ratio(slow, fast) == "300 (200 to 330)"
    assert timing.fraction({"ms": [75.0, 90.0]}, {"ms": [100.0, 100.0]}) == "17.5% (10.0% to 25.0%)"
    assert timing.ratio(slow, slow) == ""


def impatient(timing, monkeypatch) -> None:
    """Every way is called once in the turn that counts, and takes a millisecond."""

    def called(call, _) -> float:
        call()
        return 1.0

    monkeypatch.setattr(timing, "milliseconds", called)
    monkeypatch.setattr(timing, "clock_of", lambda _: itertools.count(step=60).__next__)


def test_the_comparison_with_the_authors_runs_and_keeps_what_other_devices_found(
    speed, contrast, timing, monkeypatch, tmp_path, capsys
):
    impatient(timing, monkeypatch)
    scale = contrast.Scale("tiny", 32, 1, (8, 16), 0, False)
    small = {"SIDE": 32, "IMAGES": 4, "LENGTHS": (64,), "SCALES": (scale,)}
    for name, value in small.items():
        monkeypatch.setattr(contrast, name, value)
    monkeypatch.setattr(sys, "argv", ["speed.py", "--published", "--results", str(tmp_path)])
    origin = {"hardware": "a card", "threads": 1, "torch": "2", "commit": "c"}
    before = {"cuda": {"provenance": origin, "sampling": {}, "memory": {}, "loss": {}, "steps": {}}}
    results = tmp_path / "contrast_speed.json"
    results.write_text(json.dumps(before), encoding="utf-8")
    speed.main()
    known = json.loads(results.read_text(encoding="utf-8"))
    assert known["cuda"] == before["cuda"]
    assert known["cpu"]["provenance"]["threads"] == torch.get_num_threads()
    text = (tmp_path / "contrast_speed.md").read_text(encoding="utf-8")
    assert text.strip() == capsys.readouterr().out.strip()
    assert "a card, 1 CPU thread(s), torch 2, c" in text
    assert text.count("\n| 64 | p") == 6
    assert text.count("| tiny: 32², 1 labeled + 1 unlabeled |") == 3


def test_every_method_is_timed_beside_its_floor_and_in_parts(speed, timing, monkeypatch, tmp_path, capsys):
    impatient(timing, monkeypatch)
    around = importlib.import_module("around_step")
    monkeypatch.setattr(around, "SCANS", 2)
    monkeypatch.setattr(around, "SIDE", 16)
    tiny = ["--size", "16", "--batch", "2", "--features", "4,8", "--classes", "3", "--seconds", "0"]
    monkeypatch.setattr(sys, "argv", ["speed.py", *tiny, "--json", str(tmp_path / "speed.json")])
    speed.main()
    found = json.loads((tmp_path / "speed.json").read_text(encoding="utf-8"))
    assert [step["method"] for step in found["steps"]] == list(speed.method_names())
    for step in found["steps"]:
        assert step["step_ms"] == step["floor_ms"] == step["step_over_floor"] == 1
        parts = set(speed.PARTS) & set(step["rounds"])
        assert ("contrast" in parts) == ("contrast_share" in step) == (step["method"] == "patchcl")
        assert ("teacher" in parts) == (step["method"] != "supervised")
        assert {"augmentation", "student", "optimizer and EMA", "log"} <= parts
    assert (found["provenance"]["classes"], found["provenance"]["size"]) == (3, 16)
    assert found["streaming"]["method"] == "supervised"
    ways = (speed.RESIDENT, speed.STREAMED, *([speed.FROM_DISK] if hasattr(os, "posix_fadvise") else []))
    assert [found["streaming"][way]["ms"] for way in ways] == [[1.0]] * len(ways)
    prediction, rounds = found["prediction"], [1.0] * speed.LEAST
    assert found["validation"]["ms"] == prediction["ms"] == prediction["bare_network_ms"] == rounds
    assert (prediction["files"], prediction["slices"]) == (2, 20)
    assert [share["classes"] for share in found["contrast"]] == [3, 104]
    text = capsys.readouterr().out
    assert "with images streamed from files over one with images on the device: 1 (1 to 1)." in text
    assert text.count("| 1 (1) | 1 (1) | 1 (1 to 1) |") == len(found["steps"])


def read_from_disk_without(file):
    """Bytes that Linux says to have fetched for a file that it was told to forget."""

    def count():
        lines = Path("/proc/self/io").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("read_bytes"))

    with file.open("rb") as opened:
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        before = count()
        opened.read()
    return count() - before


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="Linux alone tells what was read from disks")
def test_what_was_dropped_from_memory_is_read_from_the_disk(speed, tmp_path):
    around = importlib.import_module("around_step")
    file = tmp_path / "set.npy"
    file.write_bytes(bytes(2**20))
    around.written_out([file])
    if read_from_disk_without(file) == 0:  # asked of Linux itself, so that a fault of ours is no reason to skip
        pytest.skip("the folder for tests is on no disk that Linux counts, such as tmpfs")
    read = []
    for drop in (True, False):
        assert not drop or around.on_disk_alone([file])
        before = around.mb_from_disk()
        file.read_bytes()
        read.append(around.mb_from_disk() - before)
    assert read[0] >= 0.9
    assert read[1] == 0


def test_a_trace_of_a_step_is_written_if_asked(speed, timing, tmp_path):
    around = importlib.import_module("around_step")
    assert around.traced(lambda: torch.ones(3) + 1, tmp_path / "traces" / "step.json", CPU) == {}
    assert "aten::add" in (tmp_path / "traces" / "step.json").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "passes"),
    [
        ("supervised", [(2, True, True)]),
        ("patchcl", [(2, True, False), (4, True, True), (2, False, False)]),
        ("unimatch", [(2, True, False), (6, True, True), (2, True, True)]),
        ("cross_pseudo", [(2, True, False), (2, True, False), (4, True, True), (4, True, True)]),
    ],
)
def test_the_floor_of_a_method_is_the_passes_that_it_makes(name, passes, speed, tmp_path):
    """Images, whether the decoder takes part, and whether there is a gradient; and a replay moves nothing."""
    job = speed.Job(CPU, "32-true", 3, 16, 2, (4, 8), 0.0)
    method = speed.timed(job, name, speed.prepared(job, tmp_path), tmp_path)
    found, seen = speed.recorded(method)
    assert [(len(each.image), each.whole, each.learns) for each in found] == passes
    assert (seen is not None) == (name == "patchcl")
    before = [weight.clone() for weight in method.method.parameters()]
    speed.replay(found, method)
    assert all(weight.grad is None for weight in method.method.parameters())
    assert all(torch.equal(one, two) for one, two in zip(before, method.method.parameters(), strict=True))
    method.step()
    assert not all(torch.equal(one, two) for one, two in zip(before, method.method.parameters(), strict=True))


def test_the_share_of_contrast_is_what_a_step_without_it_saves(speed):
    ways = {"step": [10.0, 20.0], "floor": [8.0, 10.0], "step without contrast": [8.0, 15.0]}
    figures = speed.row("x", {name: {"ms": ms, "peak_mb": 2 * ms[0]} for name, ms in ways.items()})
    assert (figures["step_ms"], figures["floor_ms"], figures["step_over_floor"]) == (15, 9, 1.625)
    assert (figures["contrast_share"], figures["contrast_share_of_memory"]) == (0.225, 0.2)


def test_speed_is_told_beside_what_it_can_be_at_best(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    document = importlib.import_module("document")
    monkeypatch.setattr(document, "RESULTS", tmp_path)
    step = {"method": "x", "step_ms": 20.0, "floor_ms": 10.0, "step_over_floor": 2.0, "launches": 7}
    streaming = {"method": "x", "images on the device": {"ms": [10.0]}, "files": {"ms": [20.0], "mb_from_disk": 0.5}}
    around = {"validation": {"slices": 3, "ms": [4.0]}, "streaming": streaming}
    around["prediction"] = {"slices": 9, "ms": [10.0, 10.0, 20.0], "bare_network_ms": [8.0, 9.0, 10.0]}
    found = {"steps": [step], "contrast": [{"classes": 3, "step_ms": 5.0, "contrast_share": 0.25}], **around}
    (tmp_path / "speed_cpu.json").write_text(json.dumps(found))
    assert document.speed_table().splitlines()[2:] == [
        "| x | 20 | 10 | 2.00 |  | 7 |",
        "| patchcl, 3 classes | 5 |  |  | 25.0 % |  |",
    ]
    assert document.around_table().splitlines()[2:] == [
        "| step of x, files (0.5 MB a step) | 20 | images on the device | 10 | 0.50 |",
        "| validation, a scan of 3 slices | 4 |  |  |  |",
        "| prediction of 9 slices from files to files, with symmetries | 10 | as many passes of the bare network | 9 "
        "| 0.80 (0.50 to 0.90) |",
    ]


def test_calls_are_timed_and_end_as_they_must(timing, monkeypatch, tmp_path):
    answers = importlib.import_module("answers")
    monkeypatch.setattr(answers, "CALLS", {"report nowhere": "a folder that is not there"})
    (found,) = answers.answers(1)
    assert 0 < found["seconds"][0] < 60
    assert len(found["cpu_seconds"]) == 1
    with pytest.raises(RuntimeError, match="--version ended with 0, not 2"):
        answers.answered(["--version"], tmp_path, 2)


@pytest.mark.parametrize("name", ["results.md", "reliability.md"])
def test_a_document_is_what_the_json_files_say(name):
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        document = importlib.import_module("document")
        assert name in document.NAMES
        text = (document.DOCUMENTS / name).read_text(encoding="utf-8")
        assert text == document.document(name)  # else: benchmarks/document.py


def test_the_whole_campaign_was_held_and_was_as_large_as_is_promised():
    found = json.loads((BENCHMARKS / "results" / "attack.json").read_text(encoding="utf-8"))
    attempts = {part: count["attempts"] for part, count in found["counts"].items()}
    assert found["fallen"] == []
    assert all(count["held"] == count["attempts"] for count in found["counts"].values())
    assert attempts["kills by time"] + attempts["kills by file operation"] >= 100
    assert (attempts["tampering"] >= 40, attempts["damage"] >= 30, attempts["hostile files"] >= 60) == (True,) * 3
    assert min(attempts["full disks"], attempts["processes"], attempts["names"]) >= 1
    assert not found["commit"].endswith("-dirty")
    assert "/tmp" not in json.dumps(found)


def test_the_table_of_a_comparison_names_the_best_method_first(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    document = importlib.import_module("document")
    monkeypatch.setattr(document, "RESULTS", tmp_path)
    common = {"labeled_patients": 3, "seeds": 2, "structure": "mean", "dice_std": 0.01, "minutes": 1.5}
    none = {"dice_difference": None, "dice_difference_low": None, "dice_difference_high": None}
    gain = {"dice_difference": 0.05, "dice_difference_low": -0.01, "dice_difference_high": 0.11}
    rows = [
        common | line | {"checkpoint": checkpoint}
        for checkpoint in ("last", "best")
        for line in ({"method": "supervised", "dice_mean": 0.8} | none, {"method": "bcp", "dice_mean": 0.85} | gain)
    ]
    for content, gained in (({"spec": {}}, "+5.0 (−1.0 to +11.0)"), ({}, "+5.0")):  # old intervals were too narrow
        (tmp_path / "made.json").write_text(json.dumps({"rows": rows, **content}))
        assert document.compare_table("made.json", 3).splitlines()[2:] == [
            f"| bcp | 2 | 85.0 ± 1.0 | {gained} | 85.0 ± 1.0 | 1.5 |",
            "| supervised | 2 | 80.0 ± 1.0 |  | 80.0 ± 1.0 | 1.5 |",
        ]
    assert len(document.compare_table("made.json", 7).splitlines()) == 2


def test_the_table_of_an_ablation_pairs_patients_and_seeds(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    document = importlib.import_module("document")
    monkeypatch.setattr(document, "RESULTS", tmp_path)

    def run(dice, **figures):
        return {"dice": {"mean": dict(zip("abc", dice, strict=True))}, "figures": figures}

    known = {"contrast_over_collapse": -1.0, "separability": 2.0, "effective_rank": 4.0}
    gains = [{"a": 0.1, "b": 0.2, "c": 0.3}, {"a": 0.0, "b": 0.1, "c": 0.2}]
    rows = {
        "all": {"0": run([0.7, 0.7, 0.7], **known), "1": run([0.5, 0.5, 0.5], **known)},
        "less": {"0": run([0.8, 0.9, 1.0]), "1": run([0.5, 0.6, 0.7])},
        "never run": {},
    }
    (tmp_path / "made.json").write_text(json.dumps({"rows": rows}))
    expected = format_interval(over_seeds(gains).interval())
    assert document.ablation_table("made.json", "all").splitlines()[2:] == [
        "| all | 2 | 60.0 ± 14.1 |  | -1.00 | 2.00 | 4.00 |",
        f"| less | 2 | 75.0 ± 21.2 | {expected} |  |  |  |",
    ]


def test_memory_is_told_by_kind(monkeypatch, still_memory):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    many_cases = importlib.import_module("many_cases")
    if not Path("/proc/self/status").exists():
        pytest.skip("only Linux tells")
    before = many_cases.resident(os.getpid())
    assert before["RssFile"] > 0
    held = np.ones(2**25, np.uint8)  # 32 MiB
    grown = many_cases.resident(os.getpid())["RssAnon"] - before["RssAnon"]
    assert grown == pytest.approx(len(held) / 2**10, rel=0.1)
    found = {"3": {"check": many_cases.Measured(1.5, 20.0, None, 4.0)}}
    assert many_cases.markdown(found).splitlines()[-1] == "| check | 1.5 | 20.0 |  | 4.0 |"


def test_the_table_of_damaged_files_is_of_made_up_or_of_real_ones(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    document = importlib.import_module("document")
    monkeypatch.setattr(document, "RESULTS", tmp_path)
    found = {"outcomes": {"png": {"read": 1, "refused": 2}}, "real": {"outcomes": {"A": {"read": 3, "refused": 4}}}}
    (tmp_path / "fuzz.json").write_text(json.dumps(found))
    assert document.fuzz_table().splitlines()[2:] == ["| png | 1 | 2 |"]
    assert document.fuzz_table(real=True).splitlines()[2:] == ["| A | 3 | 4 |"]


def test_a_table_of_inference_has_every_way_and_the_gain_of_the_last_ones(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    document = importlib.import_module("document")
    monkeypatch.setattr(document, "RESULTS", tmp_path)
    assert not document.measured("made.json")
    means = {"one pass": (0.5, 9.0), "symmetries": (0.625, 3.0), "both": (0.75, 1.5)}
    run = {
        "summary": {
            way: {"mean": {"dice": {"mean": dice}, "hd95_mm": {"mean": distance}}}
            for way, (dice, distance) in means.items()
        },
        "patients": {way: {"a": dice - 0.125, "b": dice + 0.125} for way, (dice, _) in means.items()},
        "chosen": {"symmetries, post-processed": {"in_words": "holes filled in LV"}},
    }
    (tmp_path / "made.json").write_text(json.dumps({"runs": {"a": run}}))
    assert document.measured("made.json")
    assert document.inference_table("made.json").splitlines() == [
        "| " + " | ".join(["", *means, "gain: symmetries", "gain: both"]) + " |",
        "| --- | --- | --- | --- | --- | --- |",
        "| a | 50.00 / 9.00 | 62.50 / 3.00 | 75.00 / 1.50 | +12.5 (+12.5 to +12.5) | +25.0 (+25.0 to +25.0) |",
    ]
    assert document.inference_choices("made.json") == "- `a`: holes filled in LV."


def test_simulated_intervals_are_those_of_the_package(monkeypatch):
    """The benchmark makes many at once; patients and seeds, row by row."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    intervals = importlib.import_module("intervals")
    cells = np.random.default_rng(0).normal(0.02, 0.05, (5, 3, 7))
    low, high = intervals.ours(intervals.resampled(cells[:, 0]))
    expected = np.array([over_patients(row).interval() for row in cells[:, 0]])
    assert np.allclose(np.stack([low, high], 1), expected[:, 1:])
    tables = [[{str(place): value for place, value in enumerate(seed)} for seed in table] for table in cells]
    found = [over_seeds(table).interval() for table in tables]
    assert intervals.seeds_after(cells)["width"] == pytest.approx(
        100 * np.median([each.high - each.low for each in found])
    )


def test_the_benchmark_of_intervals_knows_bca_and_flipped_signs_from_scipy(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    intervals = importlib.import_module("intervals")
    values = np.random.default_rng(1).normal(0.02, 0.05, (4, 9))
    sample = intervals.resampled(values)
    for row, low, high, flipped in zip(values, *intervals.bca(sample), intervals.sign_flip(sample)[0], strict=True):
        drawn = stats.bootstrap((row,), np.mean, n_resamples=20_000, method="BCa", rng=np.random.default_rng(0))
        assert (low, high) == pytest.approx(tuple(drawn.confidence_interval), abs=0.003)
        flips = stats.permutation_test((row,), np.mean, permutation_type="samples", n_resamples=np.inf)
        assert (flipped > 0) == (flips.pvalue <= 0.05 and row.mean() > 0)


def test_large_volumes_are_a_data_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    large_volumes = importlib.import_module("large_volumes")
    monkeypatch.setattr(large_volumes, "SHAPE", (40, 44, 42))
    large_volumes.make(tmp_path)
    dataset = read_dataset(tmp_path)
    assert [case.mask is not None for case in dataset.cases] == [True] * 4 + [False] * 2
    assert set(np.unique(read_mask(dataset.cases[0].mask, dataset.classes))) == {0, 1, 2}


def test_workers_that_nobody_killed_and_scans_that_were_lost_are_told(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    cluster = importlib.import_module("cluster")
    sound = {"kills": 3, "lost": 0, "twice": 0, "made_again": 0}
    assert cluster.wrong_in({"predict": sound, "check": {"seconds": 1.0}}) == []
    parts = {"predict": sound | {"kills": 0}, "dask": sound | {"lost": 2}}
    assert cluster.wrong_in(parts) == ["dask: lost 2", "predict: no worker was killed"]
    spent = cluster.ticks([os.getpid(), 2**30]) / os.sysconf("SC_CLK_TCK")  # the second is no process
    assert spent == pytest.approx(sum(os.times()[:4]), abs=1)
