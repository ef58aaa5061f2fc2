"""Several processes train one network: the law that they do what one process does that takes their shares in turn."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from lightning.fabric import Fabric
from lightning.fabric.plugins.environments import LightningEnvironment
from torch import nn

from patchcl.augment import AugmentSettings
from patchcl.config import TrainingSettings
from patchcl.contrast import memory_bank
from patchcl.core.batch import StepResult
from patchcl.core.seeds import seed_for
from patchcl.core.signals import StopRequest
from patchcl.data.loading.loader import BatchLoader, BatchStream
from patchcl.methods import method_class, method_names, settings_classes
from patchcl.methods.base import Task
from patchcl.networks import NetworkSettings, build_network
from patchcl.runs.folder import RunFolder
from patchcl.runs.log import read_rows
from patchcl.training.loop import build_optimizer, train
from patchcl.training.ranks import ALONE, Ranks
from patchcl.training.shares import LoaderOfShares

COUNT, STEPS, SIDE = 2, 3, 32
TRAINING = TrainingSettings(steps=STEPS, labeled_per_batch=4, unlabeled_per_batch=4, log_every=1, loggers=())


class Store:
    """Eight images, each of one bright disc on its own ground, as an image store has them."""

    resident, device = True, torch.device("cpu")

    def __init__(self, masked: bool) -> None:
        across = torch.arange(SIDE)
        centres = torch.tensor([[8 + 2 * item, 24 - 2 * item] for item in range(8)]).unsqueeze(2)
        far = (centres[:, :1] - across.view(-1, 1)).square() + (centres[:, 1:] - across).square()
        self.mask = (far < 100).long() + (far < 25).long()
        noise = torch.rand(8, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(int(masked)))
        self.image = 0.3 * self.mask.unsqueeze(1) + 0.3 * noise
        self.masked = masked

    def __len__(self) -> int:
        return 8

    def load(self, items, corners, on_structure):
        return self.image[items], self.mask[items] if self.masked else None


def make(name):
    """The method with all its defaults, with contrast, on a tiny network, and its optimizer."""
    kind = next(kind for kind in settings_classes() if kind.model_fields["name"].default == name)
    task = Task(lambda: build_network(NetworkSettings(features=(8, 16)), 1, 3, (SIDE, SIDE)), 3, (SIDE, SIDE), STEPS)
    torch.manual_seed(0)
    settings = kind()
    return method_class(name)(kind(contrast=settings.contrast or {}), task).train()


def batches(method, rank, count, shares=1):
    if shares > 1:
        return LoaderOfShares([batches(method, rank * shares + share, count * shares) for share in range(shares)])
    streams = [
        BatchStream(Store(name == "labeled"), 4 // count, name, TRAINING.seed, rank, count)
        for name in ("labeled", "unlabeled")
    ]
    return BatchLoader(*streams, AugmentSettings(), method.strong_views)


def work(rank: int, port: int, out: Path) -> None:
    """What one of the processes does: all methods, one after the other."""
    torch.set_num_threads(1)
    store = dist.TCPStore("127.0.0.1", port, COUNT, is_master=False)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=COUNT, timeout=timedelta(seconds=120))
    for name in method_names():
        torch.save(learned(name, out / f"{name}-{rank}", Ranks(rank, COUNT)), out / f"{name}-{rank}.pt")
    torch.save(in_more_shares(out / f"shares-{rank}", Ranks(rank, COUNT), 2), out / f"shares-{rank}.pt")
    dist.destroy_process_group()


def in_more_shares(root, ranks, shares):
    """By SGD: four summands have several orders, and AdamW makes whole steps of what rounding leaves of them."""
    return learned("patchcl", root, ranks, shares, optimizer="sgd", learning_rate=0.1)


def learned(name, root, ranks=ALONE, shares=1, **training):
    """The weights and buffers of the method after a run in `root`."""
    method, run = make(name), RunFolder.create(root)
    fabric = Fabric(accelerator="cpu", devices=1, plugins=[LightningEnvironment()])
    loader = batches(method, ranks.rank, ranks.count, shares)
    settings = TRAINING.model_copy(update={"batch_shares": shares, **training})
    args = (loader.load, validate, settings, run, fabric, Silence(), StopRequest(), loader.augmented)
    train(method, *args, ranks=ranks)
    return method.state_dict()


def validate(method, step):
    return {"validation_dice": 0.5}


class Silence:
    """Progress that nobody watches."""

    def advance(self, step):
        pass

    def report(self, row, seconds_per_step, new_warnings):
        pass

    def notice(self, line):
        pass


@contextmanager
def exchanging(exchange) -> Iterator[None]:
    """`exchange` stands for the exchange of what memories take in."""
    before, memory_bank.gathered = memory_bank.gathered, exchange
    try:
        yield
    finally:
        memory_bank.gathered = before


def one_process(name):
    """Losses and weights of one process that takes the shares in turn, each from where the step began."""
    method = make(name)
    optimizer = build_optimizer(method, TRAINING)
    scheduler = torch.optim.lr_scheduler.PolynomialLR(optimizer, STEPS, power=TRAINING.power)
    shares, losses = [batches(method, rank, COUNT).at for rank in range(COUNT)], []
    for step in range(STEPS):
        start = {key: value.clone() for key, value in method.state_dict().items()}
        taken = [look(method, start, share, rank, step)[2] for rank, share in enumerate(shares)]
        together = [torch.cat(parts) for parts in zip(*taken, strict=True)]
        looks = [look(method, start, share, rank, step, together) for rank, share in enumerate(shares)]
        losses.append(float(sum(loss for loss, *_ in looks) / COUNT))
        for weight, *gradients in zip(method.parameters(), *(gradients for _, gradients, *_ in looks), strict=True):
            weight.grad = None if gradients[0] is None else sum(gradients) / COUNT
        states = [state for *_, state in looks]
        ends = {key: [state[key] for state in states] for key in start}
        method.load_state_dict({k: sum(v) / COUNT if v[0].is_floating_point() else v[0] for k, v in ends.items()})
        optimizer.step()
        scheduler.step()
        method.after_step(step)
    return losses, method.state_dict()


def look(method, start, share, rank, step, together=None):
    """Loss and gradients of a share, what it has its memory take in, and the buffers after it.

    `together` is what the memory takes in instead: what that of every share does.
    """
    method.load_state_dict(start)
    method.zero_grad()
    taken, given = [], list(together or ())

    def exchange(tensor):
        taken.append(tensor)
        return given.pop(0) if together is not None else tensor

    torch.manual_seed(seed_for(TRAINING.seed, step, rank, "method"))
    with exchanging(exchange):
        result = method(share(step), step)
    result.loss.backward()
    gradients = [None if weight.grad is None else weight.grad.clone() for weight in method.parameters()]
    return result.loss.detach(), gradients, taken, {key: v.clone() for key, v in method.state_dict().items()}


def on_one_thread(work, *args, **named):
    """What `work` gives, computed as the processes compute it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return work(*args, **named)
    finally:
        torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def together(tmp_path_factory) -> Path:
    """What two processes left behind, started once for all methods."""
    out = tmp_path_factory.mktemp("ranks")
    store = dist.TCPStore("127.0.0.1", 0, COUNT, is_master=True, wait_for_workers=False)
    calls = [[sys.executable, __file__, json.dumps([rank, store.port, str(out)])] for rank in range(COUNT)]
    processes = [subprocess.Popen(call, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) for call in calls]
    said = [process.communicate(timeout=300)[0].decode() for process in processes]
    assert [process.returncode for process in processes] == [0] * COUNT, said
    return out


@pytest.mark.parametrize("name", method_names())
def test_processes_learn_what_one_does_that_takes_their_shares_in_turn(name, together):
    losses, expected = on_one_thread(one_process, name)
    rows = read_rows(RunFolder(together / f"{name}-0"))
    assert [row["loss"] for row in rows if "loss" in row] == pytest.approx(losses, rel=1e-5)
    assert [row for row in rows if "contrast" in row][-1]["contrast"] > 0
    first, second = (torch.load(together / f"{name}-{rank}.pt") for rank in range(COUNT))
    assert all(torch.equal(value, second[key]) for key, value in first.items())
    assert torch.load(RunFolder(together / f"{name}-0").last)["method"].keys() == first.keys()
    for key, value in expected.items():
        torch.testing.assert_close(first[key], value, rtol=1e-5, atol=1e-6, msg=lambda text, key=key: f"{key}: {text}")


@pytest.mark.parametrize("name", method_names())
def test_one_process_that_takes_a_batch_in_shares_learns_what_as_many_processes_do(name, together, tmp_path):
    expected, found = (
        torch.load(together / f"{name}-0.pt"),
        on_one_thread(learned, name, tmp_path / "run", shares=COUNT),
    )
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=1e-5, atol=1e-6, msg=lambda text, key=key: f"{key}: {text}")
    rows = [read_rows(RunFolder(root)) for root in (together / f"{name}-0", tmp_path / "run")]
    ours, theirs = ([row["contrast"] for row in each if "contrast" in row] for each in rows)
    assert ours == pytest.approx(theirs, rel=1e-5)


def test_processes_that_take_their_batch_in_shares_learn_what_more_of_them_would(together, tmp_path):
    expected, found = torch.load(together / "shares-0.pt"), on_one_thread(in_more_shares, tmp_path / "run", ALONE, 4)
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=1e-3, atol=1e-4, msg=lambda text, key=key: f"{key}: {text}")


def test_only_the_first_process_writes(together):
    for name in method_names():
        written = [path.name for path in (together / f"{name}-1").rglob("*") if path.is_file()]
        assert written == []
        assert RunFolder(together / f"{name}-0").last.is_file()


def test_one_process_has_nothing_to_agree_upon():
    network, stop = nn.BatchNorm1d(2).train(), StopRequest()
    network(torch.tensor([[1.0, 2.0], [3.0, 5.0]])).sum().backward()
    before = [network.weight.grad.clone(), network.running_mean.clone()]
    ALONE.average(network)
    assert all(torch.equal(*pair) for pair in zip(before, (network.weight.grad, network.running_mean), strict=True))
    result = StepResult(torch.tensor(1.0), {"supervised": torch.tensor(2.0)})
    assert ALONE.mean(result) is result
    assert (ALONE.share(5), ALONE.gathered([1, 2]), ALONE.from_first(3), ALONE.agreed(stop)) == (5, [1, 2], 3, False)
    stop.signal = 15
    assert ALONE.agreed(stop)


if __name__ == "__main__":
    rank, port, out = json.loads(sys.argv[1])
    work(rank, port, Path(out))
