"""What can be wrong with devices and clusters, end to end: one message that says what to do, and exit code 2."""

import re
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from patchcl import cli
from patchcl.core import cluster
from patchcl.training import crew

SECONDS = 0.5


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs the program within this process; gives its one message."""

    def call(*arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", ["patchcl", *map(str, arguments)])
        monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")  # or it is told to come too late for this process
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capsys.readouterr().err
        assert ended.value.code == 2
        assert said.startswith("Error ")
        assert said.count("Error ") == 1
        assert "Traceback" not in said
        return " ".join(said.split())

    return call


@pytest.fixture
def options(tiny: tuple[str, ...]) -> list[str]:
    return [part for setting in tiny for part in ("--set", setting)]


@pytest.fixture
def nobody() -> Iterator[str]:
    """An address where somebody listens who never answers."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        yield f"tcp://127.0.0.1:{silent.getsockname()[1]}"


@pytest.fixture(params=["predict", "evaluate", "compare", "folds"])
def shared_out(request, cardiac: Path, trained: Path, options: list[str], tmp_path: Path) -> list[object]:
    """A command for a cluster, whose place comes last."""
    new = ["--method", "supervised", *options]
    calls: dict[str, list[object]] = {
        "predict": ["predict", trained, cardiac / "imagesTs", "-o", tmp_path / "masks"],
        "evaluate": ["evaluate", "--predictions", cardiac / "labelsTs", "--masks", cardiac / "labelsTs"],
        "compare": ["compare", cardiac, "-o", tmp_path / "grid", "--methods", "supervised", "--seeds", "0", *options],
        "folds": ["train", cardiac, "-o", tmp_path / "folds", "--folds", "2", *new],
    }
    return [*calls[request.param], "--cluster"]


def test_a_cluster_that_does_not_answer_is_told_with_the_time_it_had(shared_out, nobody, refused, monkeypatch):
    pytest.importorskip("distributed", reason="the extra `cluster` is not installed")
    monkeypatch.setattr(cluster, "CONNECT_SECONDS", SECONDS)
    begun = time.monotonic()
    said = refused(*shared_out, nobody)
    assert f"No Dask scheduler answered at {nobody} within {SECONDS:g} seconds: TimeoutError. Start one" in said
    assert time.monotonic() - begun < 30


def test_a_cluster_without_the_extra_says_how_to_get_it(shared_out, refused, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    assert "Install it with: pip install 'patchcl[cluster]'" in refused(*shared_out, "tcp://127.0.0.1:9")


@pytest.mark.parametrize(
    ("asked", "cards", "way_out"),
    [
        (("--device", "cuda", "--devices", "2"), 0, "torch finds no CUDA device here. Use --device auto or cpu"),
        (("--device", "cuda", "--devices", "2"), 1, "This torch has no NCCL, .* Use --devices 1, or install one with"),
        (("--device", "cpu", "--devices", "3"), 0, "labeled_per_batch is 2, .* Set it to 3, or take another number of"),
        (("--device", "cpu", "--nodes", "2"), 0, "nothing started them on their nodes. .* srun or torchrun"),
        (("--device", "cpu", "--cluster", "tcp://127.0.0.1:9"), 0, "One run takes --devices and --nodes"),
    ],
    ids=["no such devices", "no NCCL", "batch smaller than the devices", "no launcher", "one run on a cluster"],
)
def test_devices_that_cannot_train_together_are_refused_before_anything_begins(
    asked, cards, way_out, cardiac, options, refused, monkeypatch, tmp_path
):
    monkeypatch.setattr(crew, "_started", lambda *_: pytest.fail("a process was started"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cards > 0)
    monkeypatch.setattr(torch.distributed, "is_nccl_available", lambda: False)
    said = refused("train", cardiac, "-o", tmp_path / "run", *options, *asked)
    assert re.search(way_out, said), said
    assert not (tmp_path / "run").exists()
