"""What the parts of benchmarks/attack.py share: a call of the program, a copy to be harmed, what counts as right."""

import io
import re
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple

import torch

from patchcl import cli
from patchcl.data.splits import load_split
from patchcl.runs.folder import RunFolder

TINY = (
    *("plan.size=[32, 32]", "plan.fit=resize", "network.features=[4, 8]", "training.steps=2"),
    *("training.labeled_per_batch=2", "training.unlabeled_per_batch=2"),
)
METHOD = ("--method", "mean_teacher", "--device", "cpu")
SECONDS = 60
"""What a call on such small files may take at the most."""


class Ended(NamedTuple):
    """How a call of the program ended."""

    code: int  # -1 after a traceback, or when it was still busy after SECONDS
    said: str


class BusyError(BaseException):
    """The program was still busy after SECONDS; none of its own handlers may take this for a mistake of the user."""


class Copy(NamedTuple):
    """A run and its data, to be harmed."""

    root: Path

    @property
    def run(self) -> RunFolder:
        """The run."""
        return RunFolder(self.root / "run")

    def of(self, folder: str, side: str = "labeled") -> Path:
        """The file in a folder of the data set that belongs to the first patient of a side."""
        patient = getattr(load_split(self.run.split), side)[0]
        return next((self.root / "data" / folder).glob(f"{patient}_*"))

    def prepared(self, kind: str) -> Path:
        """A prepared file."""
        return sorted((self.root / "prepared").rglob(f"*.{kind}-*.npy"))[0]

    def resume(self, *options: str) -> Ended:
        """Go on with the run."""
        return call("resume", str(self.root / "run"), *options)


class Attempt(NamedTuple):
    """A way to do harm, and whether what came of it is right."""

    name: str
    harm: Callable[[Copy], object]
    holds: Callable[[Copy, Ended], bool]
    act: Callable[[Copy], Ended] = lambda copy: copy.resume()


def call(*arguments: str) -> Ended:
    """The program `patchcl` in this process, with all that it says."""
    said, before = io.StringIO(), sys.argv
    sys.argv = ["patchcl", *arguments]
    try:
        with redirect_stdout(said), redirect_stderr(said), at_most(SECONDS):
            cli.main()
    except SystemExit as ended:
        return Ended(int(ended.code or 0), said.getvalue())
    except (Exception, BusyError):
        return Ended(-1, said.getvalue() + traceback.format_exc())
    finally:
        sys.argv = before
    return Ended(0, said.getvalue())


@contextmanager
def at_most(seconds: int) -> Iterator[None]:
    """End the block with an error if it takes longer."""

    def busy(*_: object) -> None:
        raise BusyError(f"still busy after {seconds} s")

    before = signal.signal(signal.SIGALRM, busy)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def train(data: Path, run: Path, *options: str) -> Ended:
    """Train on the data in a folder, into a new run."""
    settings = (part for each in TINY for part in ("--set", each))
    return call("train", str(data), "-o", str(run), *METHOD, *settings, *options)


def predict(copy: Copy, *options: str) -> Ended:
    """Segment the test scans with all maps."""
    scans, out = str(copy.root / "data" / "imagesTs"), str(copy.root / "out")
    return call("predict", str(copy.run.root), scans, "-o", out, "--probabilities", "--device", "cpu", *options)


def refused(pattern: str) -> Callable[[Copy, Ended], bool]:
    """One message that matches, and exit code 2."""
    return lambda _, ended: ended.code == 2 and re.search(pattern, ended.said) is not None


def mended(pattern: str) -> Callable[[Copy, Ended], bool]:
    """It goes on, says so in words that match, and the weights are those of a run that nobody harmed."""

    def holds(copy: Copy, ended: Ended) -> bool:
        well = ended.code == 0 and re.search(pattern, ended.said) is not None
        return well and same_weights(copy.run, RunFolder(copy.root.parent / "run"))

    return holds


def same_weights(run: RunFolder, other: RunFolder) -> bool:
    """Whether two runs ended with the same weights to the last bit, in both of their checkpoints."""
    for ours, theirs in ((run.last, other.last), (run.best, other.best)):
        weights, expected = (torch.load(path, weights_only=True)["method"] for path in (ours, theirs))
        if weights.keys() != expected.keys() or not all(
            torch.equal(weights[name], expected[name]) for name in expected
        ):
            return False
    return True
