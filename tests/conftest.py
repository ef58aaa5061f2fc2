"""What several tests start from."""

import gc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from rich.console import Console

from patchcl.batch import LabeledBatch, TrainingBatch, UnlabeledBatch
from patchcl.config import load_settings
from patchcl.data.many import give_memory_back
from patchcl.data.sources.synthetic import write_cardiac
from patchcl.experiment import start
from patchcl.methods import Task
from patchcl.networks import NetworkSettings, build_network


@pytest.fixture(scope="session")
def cardiac(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A generated data set: 4 labeled patients, 5 unlabeled, 3 held out."""
    return write_cardiac(tmp_path_factory.mktemp("cardiac"), labeled=4, unlabeled=5, test=3, side=48, seed=1)


@pytest.fixture
def still_memory() -> Iterator[None]:
    """Nothing that tests before left behind goes back to the system while this one looks at its memory."""
    gc.collect()
    give_memory_back()
    gc.disable()
    yield
    gc.enable()


@pytest.fixture
def make_task() -> Callable[..., Task]:
    """A small segmentation task in 2-D or 3-D, of three classes."""

    def make(dimensions: int = 2, side: int = 16, norm: str = "batch", steps: int = 10) -> Task:
        settings = NetworkSettings(features=(8, 8, 16), norm=norm)
        return Task(lambda: build_network(settings, 1, 3, (side,) * dimensions), 3, (side,) * dimensions, steps)

    return make


@pytest.fixture
def make_batch() -> Callable[..., TrainingBatch]:
    """Random images with all three classes in every mask, and three views of others."""

    def make(dimensions: int = 2, side: int = 16, count: int = 3, seed: int = 0) -> TrainingBatch:
        generator = torch.Generator().manual_seed(seed)
        shape = (count, 1, *(side,) * dimensions)
        coarse = torch.randint(0, 3, (count, 1, *(4,) * dimensions), generator=generator).float()
        mask = torch.nn.functional.interpolate(coarse, shape[2:], mode="nearest")[:, 0].long()
        image = (mask.unsqueeze(1) * 0.3 + 0.3 * torch.rand(shape, generator=generator)).clamp(0, 1)
        weak = torch.rand(shape, generator=generator)
        strong, second = ((weak + 0.1 * torch.randn(shape, generator=generator)).clamp(0, 1) for _ in range(2))
        return TrainingBatch(LabeledBatch(image, mask), UnlabeledBatch(weak, strong, second))

    return make


TINY = (
    "plan.size=[32, 32]",
    "plan.fit=resize",
    "network.features=[8, 16]",
    "training.steps=6",
    "training.validate_every=3",
    "training.log_every=2",
    "training.labeled_per_batch=2",
    "training.unlabeled_per_batch=2",
    "training.device=cpu",
)


@pytest.fixture
def tiny() -> tuple[str, ...]:
    """Settings, as --set takes them, under which a run takes a second or two."""
    return TINY


@pytest.fixture(scope="session")
def trained(cardiac: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished patchcl run on `cardiac`."""
    root = tmp_path_factory.mktemp("trained") / "patchcl"
    start(cardiac, root, load_settings(None, TINY), Console(quiet=True))
    return root
