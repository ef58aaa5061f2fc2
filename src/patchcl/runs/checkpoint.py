"""Checkpoints: everything that a run needs to go on, and the weights that predict."""

import io
import os
import shutil
import time
import warnings
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import torch
from torch import Tensor

from patchcl.core.errors import UserError
from patchcl.core.files import atomic_write
from patchcl.runs.folder import RunFolder
from patchcl.runs.log import read_rows

Weights = Literal["teacher", "student"]
Content = dict[str, Any]


class CheckpointWriter:
    """Writes the checkpoints of a run in a thread, beside its steps: in order, each whole or not at all.

    `last.ckpt` is the newest. Before it is replaced it becomes `previous.ckpt`, if it was made at a validation. So
    there are two: one to go on from, and one made at a validation, where a run goes on if the last file is damaged,
    and where it goes back to if it diverges. Validations come at the same steps however often a run is stopped, and
    checkpoints by the clock do not; so a rescued run ends with the same weights as well.
    """

    def __init__(self, run: RunFolder, minutes: float, last_is_validated: bool) -> None:
        self.run, self.minutes, self.last_is_validated = run, minutes, last_is_validated
        self._saved = time.monotonic()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._writing: Future[None] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.shutdown()
        if error is None:
            self.finish()

    @property
    def due(self) -> bool:
        """Whether the last checkpoint is `minutes` old."""
        return time.monotonic() - self._saved >= 60 * self.minutes

    @property
    def validated(self) -> Path:
        """The newest checkpoint that was made at a validation, or at the start of the run."""
        return self.run.last if self.last_is_validated else self.run.previous

    def save(self, content: Content, validated: bool, best: bool = False) -> None:
        """Writes `last.ckpt` and, if it is the `best`, that file; `validated` says that it was made at a validation."""
        keep, self.last_is_validated = self.last_is_validated, validated
        self._write(content, [*[self.run.best] * best, self.run.last], keep)

    def save_start(self, content: Content) -> None:
        """Writes what a run goes back to before its first validation."""
        self._write(content, [self.run.previous])

    def keep_last(self) -> None:
        """Makes `previous.ckpt` the same as `last.ckpt`."""
        atomic_write(self.run.previous, lambda unfinished: _link(self.run.last, unfinished))

    def finish(self) -> None:
        """Waits until what was saved is on disk.

        Raises:
            OSError: It could not be written.
        """
        if self._writing is not None:
            self._writing.result()

    def _write(self, content: Content, paths: Sequence[Path], keep: bool = False) -> None:
        """Copies `content` to the memory of the host, so that steps may go on, and has it written."""
        copied = io.BytesIO()
        torch.save(content, copied)
        self.finish()
        self._saved = time.monotonic()
        self._writing = self._thread.submit(self._write_bytes, copied.getbuffer(), paths, keep)

    def _write_bytes(self, content: memoryview, paths: Sequence[Path], keep: bool) -> None:
        if keep:
            self.keep_last()
        for path in paths:
            atomic_write(path, lambda unfinished: unfinished.write_bytes(content))


def read_checkpoint(run: RunFolder, checkpoint: str) -> Content:
    """Everything in a checkpoint: `method` holds the weights, `step` how long they were trained.

    Raises:
        UserError: There is no such checkpoint, the file is damaged, or its weights are not finite.
    """
    return read_content(run.checkpoint(checkpoint))


def read_newest(run: RunFolder, min_step: int = 1) -> tuple[Content, str]:
    """The last checkpoint, or the one before if that cannot be used; and what this means, in words, or nothing.

    Raises:
        UserError: Neither can be used, or the one before saw fewer steps than `min_step`.
    """
    try:
        return read_checkpoint(run, "last"), ""
    except UserError as problem:
        if not run.previous.is_file() or not run.last.is_file():
            raise
        content = read_content(run.previous)
        if content["step"] < min_step:
            raise
        reached = max((int(row["step"]) for row in read_rows(run)), default=0)
        lost = max(reached - content["step"], 0)
        return content, (
            f"{str(problem).partition('. ')[0]}. The checkpoint before it, {run.previous.name}, is used instead: it is "
            f"that of step {content['step']}, {lost} steps before the end of the log."
        )


def read_content(path: Path) -> Content:
    """The content of a checkpoint file.

    Raises:
        UserError: The file is damaged, or its weights are not finite.
    """
    try:
        with warnings.catch_warnings(action="ignore"):  # what torch thinks of bytes that are no checkpoint
            content: Content = torch.load(path, map_location="cpu", weights_only=True)
        method, _ = content["method"], int(content["step"])
        finite = all_finite(method.values())
    except MemoryError:
        raise
    except Exception as error:  # a damaged file fails in as many ways as there are
        raise UserError(
            f"{path} cannot be read: the file is damaged. Take another checkpoint or train anew."
        ) from error
    if not finite:
        raise UserError(
            f"{path} holds weights that are not finite numbers, for training diverged. Take another checkpoint, or "
            "train anew with a lower training.learning_rate."
        )
    return content


def all_finite(tensors: Iterable[Tensor]) -> bool:
    """Whether there is no NaN and no infinity in any of `tensors`; the host waits for their device once."""
    return bool(torch.stack([torch.isfinite(values).all() for values in tensors]).all())


def weights_used(state: Mapping[str, Tensor], wanted: Weights) -> Weights:
    """`wanted`, or the student where a teacher is wanted but the method has none."""
    return wanted if any(key.startswith(f"{wanted}.") for key in state) else "student"


def weights_of(state: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """The weights of the sub-module `name`."""
    return {key.removeprefix(f"{name}."): value for key, value in state.items() if key.startswith(f"{name}.")}


def _link(path: Path, target: Path) -> None:
    """A second name for the content of `path`; where the file system has none, a copy."""
    target.unlink(missing_ok=True)
    try:
        os.link(path, target)
    except OSError:
        shutil.copyfile(path, target)
