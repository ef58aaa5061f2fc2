"""How long does a step take: of every method, beside the bare networks on the same images, and in its parts?

    OMP_NUM_THREADS=1 python benchmarks/speed.py                       # every method, 4 + 4 slices of 128², one thread
    python benchmarks/speed.py --device cuda --size 256 --batch 12 --precision bf16-mixed --json speed.json
    python benchmarks/speed.py --methods patchcl --classes 104 --size 64
    OMP_NUM_THREADS=1 python benchmarks/speed.py --published           # patch contrast beside the authors' way

A step is what the training loop does, by the same function: batch, forward, backward, optimizer and teacher, halfway
through a run of the method's default settings, with a full memory; on CUDA it is captured. Its floor is the passes that
the method makes through its networks, with and without a gradient, on the images that it makes them with, and nothing
else; captured where the step is. Its parts are not, so that on CUDA they take longer one by one: augmentation (images
chosen included), the passes without a gradient (mostly the teacher's), those with one and their backward passes (the
student's), contrast, optimizer and moving averages, the sums for the log. All ways of a method take turns; see
timing.py. Steps of the first method are also timed with images that stream from files, which the system keeps in
memory, and with such as it has to read from the disk for every step, as those of a set larger than memory. Prediction
is of files, with symmetries averaged. `--profile FOLDER` writes a trace of a step of each method; `--published` writes
benchmarks/results/contrast_speed.json; otherwise only `--json FILE` is written.
"""

import argparse
import itertools
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from lightning.fabric import Fabric
from lightning.fabric.plugins.environments import LightningEnvironment
from torch import Tensor
from torch.optim.lr_scheduler import PolynomialLR

import around_step
import beside_published
from around_step import mb_from_disk, on_disk_alone, predicting, share_rows, traced, written_out
from patchcl.augment import AugmentSettings
from patchcl.config import TrainingSettings
from patchcl.core.batch import StepResult
from patchcl.core.files import write_json
from patchcl.data.loading.image_store import ImageStore
from patchcl.data.loading.loader import BatchLoader, BatchStream
from patchcl.data.preprocessing.cache import PreparedCase
from patchcl.data.preprocessing.plan import Plan
from patchcl.methods import build_method, method_class, method_names
from patchcl.methods.base import Method, Task
from patchcl.networks import NetworkSettings, build_network
from patchcl.networks.unet import UNet
from patchcl.runs.folder import RunFolder
from patchcl.runs.log import RunLog
from patchcl.runs.provenance import provenance
from patchcl.training.captured import WARM_UP, CapturedStep
from patchcl.training.loop import build_optimizer
from patchcl.training.rescue import TrainingState
from patchcl.training.step import TrainingStep, can_capture
from patchcl.training.validation import Validation
from timing import Call, Rounds, alternate, fraction, ratio, shown, table

RESULTS = Path(__file__).parent / "results"
STEPS, STEP = 1000, 500
"""Length of the run that is imagined, and the step of it that is timed."""
SLICES = 40
"""Of the data set that batches are drawn from; a quarter of them are a scan to validate on."""
LOGS, ALL = itertools.count(), 2**34
STEP_WAY, FLOOR, OFF = "step", "floor", "step without contrast"
PARTS = ("augmentation", "teacher", "student", "contrast", "optimizer and EMA", "log")
RESIDENT, STREAMED, FROM_DISK = "images on the device", "images streamed from files", "every image from the disk"
LEAST = 3
"""Rounds of validation and prediction, which take longer than steps; and COUNTED steps are watched reading the disk."""
COUNTED = 10


class Job(NamedTuple):
    """What is timed."""

    device: torch.device
    precision: str
    classes: int
    size: int
    batch: int  # labeled, and as many unlabeled
    features: tuple[int, ...]
    seconds: float  # that rounds of a method go on being started

    def fabric(self) -> Fabric:
        """What runs it, as in training."""
        alone = [LightningEnvironment()]
        return Fabric(accelerator=self.device.type, devices=1, precision=self.precision, plugins=alone)  # type: ignore[arg-type]


class Pass(NamedTuple):
    """One pass of images through a network."""

    network: UNet
    image: Tensor
    dropout: float
    whole: bool  # or the encoder alone
    learns: bool  # with a gradient


class Timed(NamedTuple):
    """A method in the middle of its training."""

    method: Method[Any]
    whole: CapturedStep
    optimizer: Any
    fabric: Fabric
    batches: BatchLoader
    log: RunLog

    def step(self, number: int = STEP) -> StepResult:
        """All of a step."""
        result = self.whole(self.batches.load(number), number)
        self.log.add(result)
        return result

    def move(self) -> None:
        """Optimizer and moving averages."""
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.method.after_step(STEP)


def main() -> None:
    """Measure and print."""
    chosen = options().parse_args()
    device = torch.device(chosen.device)
    if chosen.published:
        published = beside_published.quick(device) if chosen.quick else beside_published.write(device, chosen.results)
        return print(published)
    features = tuple(map(int, chosen.features.split(",")))
    job = Job(device, chosen.precision, chosen.classes, chosen.size, chosen.batch, features, chosen.seconds)
    found = measured(job, chosen.methods.split(","), chosen.profile)
    print(markdown(found))
    if chosen.json is not None:
        write_json(chosen.json, found)


def options() -> argparse.ArgumentParser:
    """What can be asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--precision", default="32-true", choices=("32-true", "bf16-mixed", "16-mixed"))
    parser.add_argument("--methods", default=",".join(method_names()), help="names, with commas between them")
    parser.add_argument("--classes", type=int, default=4, help="background included")
    parser.add_argument("--size", type=int, default=128, help="side of a slice in pixels")
    parser.add_argument("--batch", type=int, default=4, help="labeled slices of a step, and as many unlabeled ones")
    parser.add_argument("--features", default="16,32,64,128,256", help="channels of the network, by level")
    parser.add_argument("--seconds", type=float, default=20, help="how long rounds of a method go on being started")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures")
    parser.add_argument("--profile", type=Path, metavar="FOLDER", help="also write a trace of a step of each method")
    parser.add_argument("--published", action="store_true", help="patch contrast beside the authors' way instead")
    parser.add_argument("--quick", action="store_true", help="of that, the small cases only; nothing is written")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the folder that --published writes to")
    return parser


def measured(job: Job, names: list[str], traces: Path | None = None) -> dict[str, Any]:
    """All figures of one job."""
    origin = provenance(job.device)
    with tempfile.TemporaryDirectory() as folder:
        case = prepared(job, Path(folder))
        steps = [row_of(job, name, case, Path(folder), traces) for name in names]
        ways = validating(job, case, Path(folder))
        network = timed(job, "supervised", case, Path(folder)).method.student
        ways |= predicting(network, plan(job), Path(folder), SLICES // 4, job.device)
        around = alternate(ways, job.device, job.seconds, warm_up=True, least=LEAST)
        streaming = streamed(job, names[0], case, Path(folder))
        shares = share_rows(lambda classes: share_row(job._replace(classes=classes))) if "patchcl" in names else []
    settings = {name: value for name, value in job._asdict().items() if name != "device"}
    origin = {name: value for name, value in origin.items() if name not in ("seconds", "steps_per_second")}
    return {"provenance": origin | {"threads": torch.get_num_threads()} | settings, "steps": steps} | {
        "streaming": {"method": names[0], **streaming},
        "validation": {"slices": SLICES // 4, **around["validation"]},
        "prediction": {
            "files": around_step.SCANS,
            "slices": around_step.SCANS * (SLICES // 4),
            "bare_network_ms": around["bare network"]["ms"],
            **around["prediction"],
        },
        "contrast": shares,
    }


def row_of(job: Job, name: str, case: PreparedCase, folder: Path, traces: Path | None = None) -> dict[str, Any]:
    """What is found of one method."""
    print(f"{name}, {job.classes} classes ...", file=sys.stderr, flush=True)
    whole, plain = timed(job, name, case, folder), timed(job, name, case, folder, contrast=False)
    ways = ways_of(whole, plain)
    found = row(name, alternate(ways, job.device, job.seconds, warm_up=True))
    return found if traces is None else found | traced(whole.step, traces / f"{name}.json", job.device)


def share_row(job: Job) -> dict[str, Any]:
    """The row of `patchcl` with so many classes."""
    with tempfile.TemporaryDirectory() as folder:
        return row_of(job, "patchcl", prepared(job, Path(folder)), Path(folder))


def streamed(job: Job, name: str, case: PreparedCase, folder: Path) -> Rounds:
    """Steps one after the other, with images that lie on the device and with such as are read while a step is taken."""
    (folder / "disk").mkdir()
    apart = prepared(job, folder / "disk")  # files of its own, so that nobody else's are dropped from memory
    files = [file for file in (apart.image, apart.mask) if file is not None]
    written_out(files)
    sources = {RESIDENT: (case, ALL), STREAMED: (case, 0)} | ({FROM_DISK: (apart, 0)} if on_disk_alone(files) else {})
    takers = {way: timed(job, name, its, folder, budget=budget) for way, (its, budget) in sources.items()}
    ways = {way: following(each, files if way == FROM_DISK else ()) for way, each in takers.items()}
    for way, each in takers.items():
        for _ in range((WARM_UP + 1) * each.whole.captures):
            ways[way]()
    found = alternate(ways, job.device, job.seconds / 4, warm_up=True)
    before = mb_from_disk()
    for _ in range(COUNTED if FROM_DISK in ways else 0):
        ways[FROM_DISK]()
    for each in takers.values():
        each.batches.close()
    if FROM_DISK in ways:
        found[FROM_DISK]["mb_from_disk"] = round((mb_from_disk() - before) / COUNTED, 3)
    return found


def following(timed: Timed, forgotten: Sequence[Path]) -> Call:
    """Steps one after the other, each after these files were dropped from memory."""
    steps = itertools.count(STEP)

    def call() -> None:
        on_disk_alone(forgotten)
        timed.step(next(steps))

    return call


def timed(job: Job, name: str, case: PreparedCase, folder: Path, contrast: bool = True, budget: int = ALL) -> Timed:
    """The method of that name with its default settings, or those but for its contrast; images as `loader` has them."""
    torch.manual_seed(0)
    kind, size, network = method_class(name), (job.size, job.size), NetworkSettings(features=job.features)
    changed = {} if contrast or kind.settings_class().contrast is None else {"contrast": {"weight": 0}}
    task = Task(lambda: build_network(network, 1, job.classes, size), job.classes, size, STEPS)
    method, fabric = build_method(kind.settings_class(**changed), task).train(), job.fabric()
    optimizer = build_optimizer(method, TrainingSettings(precision=job.precision), job.device)
    wrapped, stepper = fabric.setup(method, optimizer)
    if method.contrast is not None:
        memory = method.contrast.memory
        memory.rows.copy_(F.normalize(torch.randn_like(memory.rows), dim=1))
        memory.pushed.fill_(memory.length)
    batches = loader(job, case, kind.strong_views, budget)
    log = RunLog(RunFolder.create(folder / f"log{next(LOGS)}"), 0, ())
    log.close()  # no row is written
    state = TrainingState(method, optimizer, PolynomialLR(optimizer, STEPS), fabric.strategy.precision)
    take = TrainingStep(batches.augmented, wrapped, stepper, fabric, state)
    whole = CapturedStep(take, take.kind, optimizer, job.device, batches.generators, can_capture(fabric))
    return Timed(method, whole, optimizer, fabric, batches, log)


def ways_of(timed: Timed, plain: Timed) -> dict[str, Call]:
    """A step whole, without contrast, its floor and its parts."""
    passes, seen = recorded(timed)
    bare = CapturedStep(
        lambda *_: replay(passes, timed),
        lambda _: FLOOR,
        timed.optimizer,
        timed.fabric.device,
        (),
        timed.whole.captures,
    )
    ways: dict[str, Call] = {STEP_WAY: timed.step, FLOOR: lambda: bare((), STEP)}
    ways["augmentation"] = lambda: timed.batches.at(STEP)
    for name, learns in zip(PARTS[1:3], (False, True), strict=True):
        some = [each for each in passes if each.learns == learns]
        if some:
            ways[name] = lambda some=some: replay(some, timed)  # type: ignore[misc]
    if seen is not None:
        ways |= {OFF: plain.step, "contrast": lambda: contrasted(timed, seen)}
    result = timed.step()
    ways |= {"optimizer and EMA": lambda: moved(timed), "log": lambda: timed.log.add(result)}
    for call in (ways[STEP_WAY], ways[FLOOR], plain.step) * (WARM_UP * timed.whole.captures):
        call()  # so that what is timed is captured
    return ways


def recorded(timed: Timed) -> tuple[list[Pass], Any]:
    """The passes of one step, and what it has seen for its contrast, if it has one."""
    passes: list[Pass] = []
    with recording(passes), timed.fabric.autocast():
        result = timed.method.training_step(timed.batches.at(STEP), STEP)
        if timed.method.contrast is None:
            return passes, None
        timed.method.contrast(timed.method.student, timed.method.teacher, result.seen, STEP)
    seen = result.seen
    assert seen is not None
    return passes, seen if seen.features is None else seen._replace(features=seen.features.detach().requires_grad_())


@contextmanager
def recording(passes: list[Pass]) -> Iterator[None]:
    """Inside, every pass through any network is noted."""
    segment, encode = UNet.segment, UNet.encode

    def noted(network: UNet, image: Tensor, dropout: float, whole: bool) -> None:
        learns = torch.is_grad_enabled() and any(weight.requires_grad for weight in network.parameters())
        passes.append(Pass(network, image.detach(), dropout, whole, learns))

    def segmenting(network: UNet, image: Tensor, feature_dropout: float = 0.0) -> tuple[Tensor, Tensor]:
        noted(network, image, feature_dropout, whole=True)
        return segment(network, image, feature_dropout)

    def encoding(network: UNet, image: Tensor) -> Tensor:
        noted(network, image, 0.0, whole=False)
        return encode(network, image)

    UNet.segment, UNet.encode = segmenting, encoding  # type: ignore[method-assign]
    try:
        yield
    finally:
        UNet.segment, UNet.encode = segment, encode  # type: ignore[method-assign]


def replay(passes: list[Pass], timed: Timed) -> StepResult:
    """The passes once more, those that learn with their backward pass, to the mean of what comes out."""
    means: list[Tensor] = []
    with timed.fabric.autocast():
        for network, image, dropout, whole, learns in passes:
            with nullcontext() if learns else torch.no_grad():
                out = network(image, dropout) if whole else network.encode(image)
                means += [out.float().mean()] if learns else []
    loss = torch.stack(means).sum() if means else torch.zeros((), device=timed.fabric.device)
    if means:
        loss.backward()
        timed.optimizer.zero_grad()
    return StepResult(loss, {})


def contrasted(timed: Timed, seen: Any) -> None:
    """Patch contrast, and the teacher's pass for it, forward and backward as far as the features."""
    method = timed.method
    assert method.contrast is not None
    with timed.fabric.autocast():
        loss, _ = method.contrast(method.student, method.teacher, seen, STEP)
    loss.backward()
    timed.optimizer.zero_grad()


def moved(timed: Timed) -> None:
    """Optimizer and moving averages, for gradients that are there and 0."""
    for weight in timed.method.parameters():
        weight.grad = torch.zeros_like(weight) if weight.requires_grad else None
    timed.move()


def loader(job: Job, case: PreparedCase, strong_views: int, budget: int = ALL) -> BatchLoader:
    """Batches of the slices of `case`, with masks and without; on the device up to that many bytes, else from files."""
    stores = (ImageStore([each], plan(job), job.device, budget) for each in (case, case._replace(mask=None)))
    streams = (BatchStream(store, job.batch, name, 0) for store, name in zip(stores, ("labeled", "unlabeled")))  # noqa: B905
    return BatchLoader(next(streams), next(streams), AugmentSettings(), strong_views)


def plan(job: Job) -> Plan:
    """Slices of one channel."""
    names = tuple(map(str, range(job.classes)))
    return Plan(
        dimensions=2, fit="resize", size=(job.size, job.size), normalise="min_max", channels=("MR",), classes=names
    )


def prepared(job: Job, folder: Path) -> PreparedCase:
    """Slices tiled by all classes, each with a grey value of its own."""
    along, count = np.arange(job.size), int(np.ceil(job.classes**0.5))
    tile = along * count // job.size
    mask = (tile[:, None] * count + tile) % job.classes
    masks = np.stack([np.roll(mask, 7 * number, axis=(0, 1)) for number in range(SLICES)]).astype(np.uint8)
    noise = 0.1 * np.random.default_rng(0).random(masks.shape)
    np.save(folder / "image.npy", ((masks / job.classes + noise) / 1.1)[:, None].astype(np.float32))
    np.save(folder / "mask.npy", masks)
    return PreparedCase("scan", "patient", folder / "image.npy", folder / "mask.npy")


def validating(job: Job, case: PreparedCase, folder: Path) -> dict[str, Call]:
    """One scan, validated without a picture."""
    parts = []
    for file in (case.image, case.mask):
        assert file is not None
        parts.append(folder / f"some_{file.name}")
        np.save(parts[-1], np.load(file)[: SLICES // 4])
    method = timed(job, "supervised", case, folder).method
    scan = PreparedCase("scan", "patient", *parts)
    validation = Validation([scan], None, plan(job), RunFolder(folder / "run"), job.device)
    return {"validation": lambda: validation(method, STEP)}


def row(name: str, rounds: Rounds) -> dict[str, Any]:
    """What was found of one method; `rounds` have every figure behind it."""
    figures: dict[str, Any] = {"method": name}
    for way, key in ((STEP_WAY, "step"), (FLOOR, "floor")):
        figures |= {f"{key}_ms": round(median(rounds[way]["ms"]), 3), f"{key}_peak_mb": rounds[way]["peak_mb"]}
    pairs = zip(rounds[STEP_WAY]["ms"], rounds[FLOOR]["ms"], strict=True)
    figures["step_over_floor"] = round(median(whole / bare for whole, bare in pairs), 3)
    if OFF in rounds:
        pairs = zip(rounds[OFF]["ms"], rounds[STEP_WAY]["ms"], strict=True)
        figures["contrast_share"] = round(median(1 - off / whole for off, whole in pairs), 3)
        peaks = rounds[OFF]["peak_mb"], rounds[STEP_WAY]["peak_mb"]
        figures["contrast_share_of_memory"] = round(1 - peaks[0] / peaks[1], 3) if peaks[1] else None
    return figures | {"rounds": rounds}


def markdown(found: Mapping[str, Any]) -> str:
    """The table of all methods, and where it was measured."""
    origin, validation = found["provenance"], found["validation"]
    where = f"{origin['hardware']}, {origin['threads']} CPU thread(s), torch {origin['torch']}, {origin['commit']}"
    what = f"{origin['batch']} + {origin['batch']} slices of {origin['size']}², {origin['classes']} classes, "
    headings = ["ms (rounds)", "step", "floor", "step / floor", *PARTS, "share of contrast", "peak MB", "floor's"]
    lines = [cells(each["method"], each["rounds"]) for each in found["steps"]]
    if any("launches" in each for each in found["steps"]):
        headings.append("launches")
        lines = [[*line, str(each.get("launches", ""))] for line, each in zip(lines, found["steps"], strict=True)]
    scan = f"Validation of a scan of {validation['slices']} slices: {shown(validation)} ms."
    prediction = found["prediction"]
    bare = ratio({"ms": prediction["bare_network_ms"]}, prediction)
    files = (
        f"Prediction of {prediction['files']} files, {prediction['slices']} slices, with symmetries: "
        f"{shown(prediction)} ms; slices a second over those of the bare network with as many passes: {bare}."
    )
    streaming = found["streaming"]
    streams = [
        f"A step of {streaming['method']} with {way} over one with {RESIDENT}: "
        f"{ratio(streaming[way], streaming[RESIDENT])}."
        for way in (STREAMED, FROM_DISK)
        if way in streaming
    ]
    shares = [f"{each['classes']} classes {each['contrast_share']:.1%}" for each in found["contrast"]]
    ending = [f"Contrast's share of a step of patchcl: {', '.join(shares)}."] if shares else []
    return "\n\n".join([where, what + origin["precision"], table(headings, lines), *streams, scan, files, *ending])


def cells(name: str, rounds: Rounds) -> list[str]:
    """One line of that table."""
    parts = [shown(rounds[part]) if part in rounds else "" for part in PARTS]
    share = fraction(rounds[OFF], rounds[STEP_WAY]) if OFF in rounds else ""
    whole, floor = rounds[STEP_WAY], rounds[FLOOR]
    peaks = [f"{way['peak_mb']:.0f}" for way in (whole, floor)]
    return [name, shown(whole), shown(floor), ratio(whole, floor), *parts, share, *peaks]


if __name__ == "__main__":
    main()
