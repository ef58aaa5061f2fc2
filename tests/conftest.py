"""What several tests start from."""

import gc
import json
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import nibabel as nib
import numpy as np
import pytest
import torch
from rich.console import Console
from scipy import ndimage
from torch import nn

from patchcl.config import Settings, load_settings, settings_yaml
from patchcl.core.batch import LabeledBatch, TrainingBatch, UnlabeledBatch
from patchcl.core.executor import UnitExecutor
from patchcl.core.memory import release_memory
from patchcl.data.preprocessing.plan import Plan, save_plan
from patchcl.demo.phantom import write_cardiac
from patchcl.methods.base import Task
from patchcl.networks import NetworkSettings, build_network
from patchcl.runs.folder import RunFolder
from patchcl.training.experiment import start

LAUNCHERS = ("SLURM_", "SRUN_", "SBATCH_", "TORCHELASTIC_", "MASTER_")
TASK = {"RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "NODE_RANK", "GROUP_RANK"}


def pytest_configure() -> None:
    """Forget the job that the tests may run in, and which of its tasks this is: each test is alone."""
    for name in set(os.environ) - {"SLURM_CONF"}:
        if name.startswith(LAUNCHERS) or name in TASK:
            del os.environ[name]


@pytest.fixture(scope="session")
def cardiac(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A generated data set: 4 labeled patients, 5 unlabeled, 3 held out."""
    return write_cardiac(tmp_path_factory.mktemp("cardiac"), labeled=4, unlabeled=5, test=3, side=48, seed=1)


@pytest.fixture
def still_memory() -> Iterator[None]:
    """Nothing that tests before left behind goes back to the system while this one looks at its memory."""
    gc.collect()
    release_memory()
    gc.disable()
    yield
    gc.enable()


@pytest.fixture
def make_task() -> Callable[..., Task]:
    """A small segmentation task in 2-D or 3-D, of three classes."""

    def make(dimensions: int = 2, side: int = 16, norm: str = "batch", steps: int = 10, **network: object) -> Task:
        settings = NetworkSettings(**({"features": (8, 8, 16), "norm": norm} | network))
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


@pytest.fixture
def untrained_run() -> Callable[..., RunFolder]:
    """A run as training leaves it behind, of a network that learned nothing, with a teacher or without."""

    def make(root: Path, plan: Plan, teacher: bool = True) -> RunFolder:
        run, network = RunFolder.create(root), NetworkSettings(features=(4, 8))
        run.settings.write_text(settings_yaml(Settings(network=network)))
        save_plan(run.plan, plan)
        torch.manual_seed(0)
        names = ("student", "teacher")[: 1 + teacher]
        parts = {name: build_network(network, len(plan.channels), len(plan.classes), plan.size) for name in names}
        torch.save({"method": nn.ModuleDict(parts).state_dict(), "step": 7}, run.last)
        return run

    return make


class InProcess(UnitExecutor):
    """Works on units in this process, one at a time, as a worker does in its own."""

    def __init__(self) -> None:
        self.units = 0

    def submit(self, fn, /, *args, **kwargs):
        self.units += 1
        future: Future = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future

    def slots(self) -> int:
        return 1

    def stop(self) -> None:
        pass


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> Callable[[ModuleType], InProcess]:
    """Has the units of a module worked on in this process, and gives what counts them."""
    made = InProcess()

    @contextmanager
    def workers(*_: object) -> Iterator[InProcess]:
        yield made

    def replace(module: ModuleType) -> InProcess:
        monkeypatch.setattr(module, "workers", workers)
        return made

    return replace


@pytest.fixture
def diagnostic_logs() -> dict[str, list[dict[str, float]]]:
    """The log rows of a run that was validated once, and of one that was validated twice and goes on."""
    first = {
        "step": 20,
        "validation_dice": 0.5,
        "accepted_background": 1.0,
        "accepted_left": 0.0,
        "agreement_background": 0.875,
        "found_background": 0.75,
        "found_left": 0.0,
        "ece": 0.03125,
        "ece_structures": 0.25,
        "warnings": 0,
    }
    last = first | {"step": 40, "accepted_left": 0.5, "agreement_left": 0.625, "ece": 0.0625, "effective_rank": 3.14159}
    return {"supervised": [{"step": 20, "loss": 1.0, "accepted": 0.5}, first], "patchcl": [first, last, {"step": 45}]}


@pytest.fixture
def largest_by_scipy() -> Callable[[np.ndarray, int], np.ndarray]:
    """Keeps the largest component of every image and class, each by itself, as the authors of BCP do it."""

    def keep(mask: np.ndarray, classes: int) -> np.ndarray:
        kept = np.zeros_like(mask)
        for image, result in zip(mask, kept, strict=True):
            for k in range(1, classes):
                labels, found = ndimage.label(image == k, np.ones((3,) * image.ndim))
                if found:
                    result[labels == np.bincount(labels.flat)[1:].argmax() + 1] = k
        return kept

    return keep


# Small data sets on disk, written with nibabel itself so that our own writer is not its own witness

OBLIQUE = np.array([[-1.2, 0.3, 1.1, 20.5], [0.2, -1.3, 2.0, -31.25], [0.4, 0.5, 7.6, 12.125], [0.0, 0.0, 0.0, 1.0]])


def _save(path: Path, voxels: np.ndarray, affine: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(voxels, affine), path)
    return path


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., Path]:
    """Save voxels as a file of that name, on an oblique grid unless told otherwise."""

    def save(name: str, voxels: np.ndarray, affine: np.ndarray = OBLIQUE) -> Path:
        return _save(tmp_path / name, voxels, affine)

    return save


@pytest.fixture
def make_dataset(tmp_path: Path) -> Callable[..., Path]:
    """Write a data set: `train` and `test` map scan names to whether there is a mask; classes are A and B."""

    def make(
        train: Mapping[str, bool],
        unlabeled: tuple[str, ...] = (),
        test: Mapping[str, bool] | None = None,
        shape: tuple[int, ...] = (12, 10, 4),
        spacing_mm: tuple[float, ...] = (1.5, 1.5, 8.0),
        channels: tuple[str, ...] = ("MRI",),
        root: Path = tmp_path / "data",
    ) -> Path:
        affine = np.diag([*spacing_mm, *[1.0] * (4 - len(spacing_mm))])
        kinds = [("imagesTr", "labelsTr", train), ("imagesUn", "", dict.fromkeys(unlabeled, False))]
        for images, masks, names in [*kinds, ("imagesTs", "labelsTs", test or {})]:
            for name, masked in names.items():
                random = np.random.default_rng(list(name.encode()))
                for channel in range(len(channels)):
                    voxels = random.integers(0, 1000, shape).astype(np.int16)
                    _save(root / images / f"{name}_{channel:04d}.nii.gz", voxels, affine)
                if masked:
                    _save(root / masks / f"{name}.nii.gz", random.integers(0, 3, shape).astype(np.uint8), affine)
        description = {
            "name": "Tiny",
            "channel_names": {str(index): name for index, name in enumerate(channels)},
            "labels": {"background": 0, "B": 2, "A": 1},
            "file_ending": ".nii.gz",
        }
        (root / "dataset.json").write_text(json.dumps(description), encoding="utf-8")
        return root

    return make


@pytest.fixture
def acdc() -> Path:
    """The ACDC data set; a test that asks for it is skipped where it is not."""
    root = Path(__file__).parents[2] / "shared" / "data" / "Dataset027_ACDC"
    if not root.is_dir():
        pytest.skip("ACDC is not here")
    return root
