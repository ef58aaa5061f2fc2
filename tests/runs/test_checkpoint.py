"""The weights of a run, and what is said where they cannot be had."""

import pytest
import torch
from torch import nn

from patchcl.core.errors import UserError
from patchcl.data.preprocessing.plan import Plan, save_plan
from patchcl.runs.checkpoint import load_network

PLAN = Plan(
    dimensions=2, fit="resize", size=(16, 16), normalise="min_max", channels=("MRI",),
    classes=("background", "left", "right"),
)  # fmt: skip


def parameters(network: nn.Module) -> torch.Tensor:
    return torch.cat([weight.flatten() for weight in network.parameters()])


def test_teacher_and_student_are_different_networks(untrained_run, tmp_path):
    run = untrained_run(tmp_path / "run", PLAN)
    teacher, plan = load_network(run)
    student, _ = load_network(run, weights="student")
    state = torch.load(run.last)["method"]
    assert plan == PLAN
    assert not teacher.training
    assert torch.equal(parameters(teacher)[-3:], state["teacher.classify.bias"])
    assert torch.equal(parameters(student)[-3:], state["student.classify.bias"])
    assert not torch.equal(parameters(teacher), parameters(student))


def test_a_method_without_a_teacher_predicts_with_its_student(untrained_run, tmp_path):
    run = untrained_run(tmp_path / "run", PLAN, teacher=False)
    teacher, student = (load_network(run, weights=weights)[0] for weights in ("teacher", "student"))
    assert torch.equal(parameters(teacher), parameters(student))


def test_a_checkpoint_of_another_network_is_refused(untrained_run, tmp_path):
    run = untrained_run(tmp_path / "run", PLAN)
    save_plan(run.plan, PLAN.model_copy(update={"classes": ("background", "left")}))
    with pytest.raises(UserError, match="does not fit the network"):
        load_network(run)


def test_a_damaged_checkpoint_is_named(untrained_run, tmp_path):
    run = untrained_run(tmp_path / "run", PLAN)
    run.last.write_bytes(run.last.read_bytes()[:200])
    with pytest.raises(UserError, match=r"last\.ckpt cannot be read"):
        load_network(run)
