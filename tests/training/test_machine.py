"""What is left to the machine is settled when a run starts."""

import pytest
import torch
from rich.console import Console

from patchcl.config import TrainingSettings, load_settings, read_settings
from patchcl.training.experiment import start
from patchcl.training.machine import LONG_RUN, can_compile, compile_for_training, settled

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(("named", "expected"), [("auto", "32-true"), ("bf16-mixed", "bf16-mixed")])
def test_a_cpu_has_32_bits_unless_told_otherwise_and_compiles_nothing(named, expected):
    found = settled(TrainingSettings(precision=named, steps=10**6), CPU)
    assert (found.precision, found.compile) == (expected, False)


@pytest.mark.parametrize(("steps", "precision", "expected"), [
    (LONG_RUN, "bf16-mixed", True), (LONG_RUN - 1, "bf16-mixed", False), (LONG_RUN, "16-mixed", False),
])  # fmt: skip
def test_long_runs_whose_steps_are_captured_are_compiled(steps, precision, expected, monkeypatch):
    monkeypatch.setattr("patchcl.training.machine.can_compile", lambda: True)
    training = TrainingSettings(precision=precision, steps=steps)
    assert settled(training, CUDA).compile is expected
    assert settled(training.model_copy(update={"compile": False}), CUDA).compile is False
    monkeypatch.setattr("patchcl.training.machine.can_compile", lambda: False)
    assert settled(training, CUDA).compile is False
    assert settled(training.model_copy(update={"compile": True}), CUDA).compile is True


def test_without_a_compiler_nothing_can_be_compiled(monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CC", raising=False)
    assert not can_compile()


def test_a_run_keeps_what_was_settled(cardiac, tmp_path, tiny):
    settings = load_settings(None, (*tiny, "training.steps=1", "method.name=supervised"))
    assert (settings.training.precision, settings.training.compile) == ("auto", "auto")
    run = start(cardiac, tmp_path / "run", settings, Console(quiet=True)).run
    kept = read_settings(run.settings).training
    assert (kept.precision, kept.compile) == ("32-true", False)


def test_steps_are_compiled_and_validation_is_not(make_task, monkeypatch):
    used = []
    monkeypatch.setattr(torch, "compile", lambda plain, dynamic: lambda *given: used.append(dynamic) or plain(*given))
    network = make_task().build_network().eval()
    image = torch.rand(2, 1, 16, 16)
    before = network(image)
    compile_for_training(network)
    with torch.inference_mode():
        assert torch.equal(network(image), before)
    assert used == []
    assert torch.equal(network(image), before)
    assert used == [False]
