"""The preset of protocol P1 says what the published ACDC tables were made with, and it runs."""

import shlex
from pathlib import Path

import pytest
import torch
from rich.console import Console

from patchcl.comparison.variants import named_settings
from patchcl.config import Settings, load_settings, make_settings
from patchcl.data.dataset import read_dataset
from patchcl.data.preprocessing.planner import make_plan
from patchcl.data.preprocessing.transforms import to_network_grid
from patchcl.data.scan import read_image
from patchcl.data.splits import cases_of, make_split
from patchcl.methods import build_method
from patchcl.methods.base import Task
from patchcl.networks import build_network
from patchcl.runs.folder import RunFolder
from patchcl.runs.log import read_rows
from patchcl.training.experiment import start
from patchcl.training.loop import build_optimizer

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
PRESET = EXPERIMENTS / "acdc_p1.yaml"
SLICES = {3: 68, 7: 136, 14: 256}
PATIENTS = pytest.mark.parametrize("patients", sorted(SLICES))


def preset(patients: int, *overrides: str) -> Settings:
    """The settings of `train -c acdc_p1.yaml --labeled PATIENTS --set OVERRIDE`."""
    return make_settings(config=PRESET, labeled=patients, settings=overrides)


@PATIENTS
def test_every_constant_is_that_of_the_protocol(patients):
    settings = make_settings(preset="published", config=PRESET, labeled=patients)
    tree = settings.model_dump()
    expected = {
        "split": {"labeled": patients},
        "plan": {
            "dimensions": 2, "fit": "resize", "size": (256, 256), "normalise": "min_max",
            "input_interpolation": "nearest", "output_interpolation": "nearest",
        },
        "network": {"features": (16, 32, 64, 128, 256), "norm": "batch", "dropout": 0.0},
        "augment": {
            "ssl4mis_policy": True, "flip": None, "rotate_90": None,  # so both, as no structure of ACDC has a side
            "rotate_degrees": 20.0, "scale": 0.0,
            "shift": 0.0, "labeled_intensity": 0.0,
        },
        "training": {
            "steps": 30000, "labeled_per_batch": 12, "unlabeled_per_batch": 12, "optimizer": "sgd",
            "learning_rate": 0.01, "power": 0.9, "momentum": 0.9, "weight_decay": 1e-4, "validate_every": 200,
            "precision": "bf16-mixed", "seed": 0,
        },
        "method": {"teacher_decay": 0.99},
        "inference": {"symmetries": False, "postprocessing": False},
    }  # fmt: skip
    assert {section: {key: tree[section][key] for key in keys} for section, keys in expected.items()} == expected
    assert settings.data is settings.split.file is None


def test_the_recommended_recipe_differs_in_augmentation_and_inference_alone():
    ours, published = (make_settings(preset=name, config=PRESET).model_dump() for name in ("matched", "published"))
    changed = {
        key: ours["augment"][key] for key in ours["augment"] if ours["augment"][key] != published["augment"][key]
    }
    assert changed == {
        **{"ssl4mis_policy": False, "scale": 0.15, "shift": 0.05},
        **{"labeled_intensity": 0.5, "strong_intensity": 0.6},
    }
    assert (ours["plan"].pop("output_interpolation"), published["plan"].pop("output_interpolation")) == (
        "linear",
        "nearest",
    )
    assert ours["inference"] == {"symmetries": True, "postprocessing": True}
    assert [key for key in ours if ours[key] != published[key]] == ["preset", "augment", "inference"]
    assert load_settings(PRESET) == make_settings(preset="matched", config=PRESET)


@pytest.mark.parametrize("name", ["matched", "published"])
def test_the_table_gives_all_rows_the_same_but_for_bcp_whose_own_schedule_is_said(name):
    table = EXPERIMENTS / "variants" / "p1.yaml"
    rows, common = named_settings((), table, PRESET, [f"preset={name}"])
    bcp = {row: rows.pop(row) for row in list(rows) if row.startswith("bcp")}
    assert len(rows) == 9
    assert {(row.training, row.augment, row.inference) for row in rows.values()} == {
        (common.training, common.augment, common.inference)
    }
    scored = rows["patchcl"].method
    assert (scored.consistency_weight, scored.labeled_mix_probability, scored.contrast.weight) == (1, 0.5, 0.1)
    none = scored.contrast.model_copy(update={"weight": 0})
    assert rows["patchcl without contrast"].method == scored.model_copy(update={"contrast": none})
    assert rows["patchcl by default"].method == type(scored)()
    assert list(bcp) == ["bcp 10k + 20k", "bcp 10k + 30k"]
    for steps, row in zip((30000, 40000), bcp.values(), strict=True):
        assert (row.training.steps, row.training.power, row.method.student_view) == (steps, 0, "weak")
        task = Task(lambda: build_network(common.network, 1, 4, (256, 256)), 4, (256, 256), row.training.steps)
        assert build_method(row.method, task).pretrain_steps == 10000


def test_the_labeled_patients_are_not_in_the_file():
    assert load_settings(PRESET).split == Settings().split


def test_the_first_lines_name_the_commands_the_hardware_and_the_scores():
    comment = " ".join(line.strip("# \\") for line in PRESET.read_text(encoding="utf-8").splitlines() if line[0] == "#")
    for command, labeled in (("patchcl train", "7"), ("patchcl compare", ",".join(map(str, SLICES)))):
        _, found, after = comment.partition(command)
        options = after.split("patchcl ")[0]
        assert found
        assert f"-c experiments/{PRESET.name} " in options
        assert f"--labeled {labeled} " in options
    for numbers in (SLICES, SLICES.values()):
        assert "{}, {} or {} ".format(*numbers) in comment
    for fact in ("Hardware:", "Expected score, mean test Dice in %", "measured yet"):
        assert fact in comment


def test_the_optimizer_is_sgd_as_published():
    settings = preset(7, "method=supervised")
    network = settings.network
    task = Task(lambda: build_network(network, 1, 4, (256, 256)), classes=4, size=(256, 256), steps=30000)
    (group,) = build_optimizer(build_method(settings.method, task), settings.training).param_groups
    found = {key: group[key] for key in ("lr", "momentum", "weight_decay", "nesterov")}
    assert found == {"lr": 0.01, "momentum": 0.9, "weight_decay": 1e-4, "nesterov": False}


@pytest.mark.parametrize("method", ["supervised", "patchcl"])
def test_a_step_of_the_preset_runs(method, cardiac, tmp_path):
    reduced = ("plan.size=[32, 32]", "training.steps=2", "training.log_every=1")
    small = ("training.labeled_per_batch=2", "training.unlabeled_per_batch=2", "training.device=cpu")
    settings = preset(2, f"method.name={method}", *reduced, *small)
    outcome = start(cardiac, tmp_path / "run", settings, Console(quiet=True))
    rates = [row["learning_rate"] for row in read_rows(outcome.run) if "learning_rate" in row]
    assert rates == pytest.approx([0.01 * 0.5**0.9, 0])
    assert all(
        torch.isfinite(weight).all() for weight in torch.load(RunFolder(outcome.run.root).last)["method"].values()
    )


@pytest.mark.realdata
@PATIENTS
def test_the_preset_teaches_with_the_published_slices(patients, acdc):
    settings = preset(patients, f"split.file={acdc / 'ssl4mis_split.json'}")
    dataset = read_dataset(acdc)
    split = make_split(dataset, settings.split)
    plan = make_plan(dataset, settings.plan)
    cases = cases_of(dataset, split.labeled, masked=True)
    assert len(split.labeled) == patients
    assert len(split.labeled) + len(split.unlabeled) == 70
    prepared = [to_network_grid(read_image(case.images), plan) for case in cases]
    assert sum(len(each) for each in prepared) == SLICES[patients]
    for each in prepared:
        assert each.shape[1:] == (1, 256, 256)
        assert 0 <= each.min() < 0.01
        assert 0.9 < each.max() <= 1


def test_the_lists_for_a_gpu_hold_runs_of_the_protocol():
    """Three seeds of each, what differs from `p1.yaml` named; the best row is the one that was scored."""
    table, _ = named_settings((), EXPERIMENTS / "variants" / "p1.yaml", PRESET, ())
    rows = {"best": "patchcl without contrast", "default": "patchcl by default", "bcp": "bcp 10k + 20k"}
    seen: dict[str, list[int]] = {}
    for path in sorted((EXPERIMENTS / "p1").glob("*.list")):
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
        assert 1 <= len(lines) <= 8
        for name, *words in map(shlex.split, lines):
            options = list(zip(words[::2], words[1::2], strict=True))
            (method,), (labeled,), (seed,) = (
                [value for key, value in options if key == option] for option in ("--method", "--labeled", "--seed")
            )
            given = [value for key, value in options if key == "--set" and not value.startswith("cache=")]
            settings = make_settings(method=method, config=PRESET, labeled=int(labeled), seed=int(seed), settings=given)
            row, patients, number = name.split("_")
            assert (settings.split.labeled, settings.training.seed) == (int(patients), int(number))
            assert settings.training.steps == 30_000
            seen.setdefault(f"{row}_{patients}", []).append(settings.training.seed)
            if row not in ("border", "level1"):
                expected = table[rows.get(row, row)]
                assert (settings.method, settings.augment, settings.inference) == (
                    expected.method, expected.augment, expected.inference,
                )  # fmt: skip
    assert set(map(tuple, seen.values())) == {(0, 1, 2)}
    assert {
        "best_1",
        "best_3",
        "best_7",
        "best_14",
        "default_7",
        "supervised_7",
        "unimatch_7",
        "bcp_7",
        "border_7",
        "level1_7",
    } <= seen.keys()
