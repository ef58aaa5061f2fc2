"""What is left to the machine is settled when a run starts."""

import shutil
import warnings

import pytest
import torch
from rich.console import Console

from patchcl.config import TrainingSettings, load_settings, read_settings
from patchcl.methods import method_names
from patchcl.training.experiment import resume, start
from patchcl.training.machine import LONG_RUN, can_compile, compile_for_training, deterministic, settled

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
    tf32 = torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()
    assert tf32 == (True, "highest"), "a run leaves torch's defaults, TF32 in convolutions alone"


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


def modes():
    return torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.deterministic


@pytest.mark.parametrize(
    ("asked", "device", "expected"), [(True, CUDA, True), (False, CUDA, False), (True, CPU, False)]
)
def test_kernels_of_cuda_are_deterministic_while_a_run_that_asks_for_it_lasts(asked, device, expected, monkeypatch):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    with deterministic(TrainingSettings(deterministic=asked), device):
        assert modes() == (expected, expected)
    assert modes() == (False, False)


def test_the_one_false_alarm_is_not_passed_on():
    alarm = "{}_cuda does not have a deterministic implementation".format
    with deterministic(TrainingSettings(), CUDA):
        warnings.warn(alarm("max_pool3d_with_indices_backward"), stacklevel=1)
        with pytest.raises(UserWarning, match="something"):
            warnings.warn(alarm("something"), stacklevel=1)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
@pytest.mark.parametrize("method", method_names())
@pytest.mark.parametrize("dimensions", [2, 3])
def test_on_cuda_the_same_command_gives_the_same_weights_and_resumed_equals_not_stopped(
    method, dimensions, cardiac, tmp_path, tiny
):
    """Twelve steps are captured from the fourth of a kind on; the stopped run begins its last six anew."""
    size = "[32, 32]" if dimensions == 2 else "[32, 32, 8]"
    changes = [f"method.name={method}", "training.device=cuda", "training.steps=12", "training.validate_every=6"]
    changes += [f"plan.dimensions={dimensions}", f"plan.size={size}", "training.log_every=1"]
    settings = load_settings(None, (*tiny, *changes))
    runs = [start(cardiac, tmp_path / name, settings, Console(quiet=True)).run for name in ("one", "two")]
    shutil.copytree(runs[0].root, tmp_path / "stopped")
    shutil.copy(runs[0].previous, tmp_path / "stopped" / runs[0].last.relative_to(runs[0].root))
    weights = [torch.load(run.last)["method"] for run in (*runs, resume(tmp_path / "stopped", Console(quiet=True)).run)]
    assert all(torch.equal(weights[0][name], other[name]) for other in weights[1:] for name in weights[0])
