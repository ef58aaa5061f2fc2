"""What changed since a run began: it is named and refused, or accepted and kept; what no checkpoint can bear never."""

from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from torch import Tensor

from patchcl.config import TrainingSettings
from patchcl.core.errors import UserError
from patchcl.core.files import write_json
from patchcl.methods.base import Method
from patchcl.runs.checkpoint import read_checkpoint
from patchcl.runs.contents import Contents, differences, read_contents, write_contents
from patchcl.runs.folder import RunFolder
from patchcl.runs.provenance import ACCEPTED, read_provenance
from patchcl.training.loop import build_optimizer

FIXED = tuple(
    f"training.{name}" for name in ("steps", "optimizer", "learning_rate", "power", "momentum", "weight_decay")
)
"""Settings that optimizer and schedule took up at the first step, and that the checkpoint brings back."""
PROCESSES = "processes"
"""The key under which the provenance says how many processes train a run, if not one."""


def settle_changes(
    run: RunFolder, now: Contents, method: Method[Any], training: TrainingSettings, accept: bool, console: Console
) -> None:
    """Keep what a run that begins rests on; of one that goes on, compare it with what it rested on.

    Args:
        run: Its folder.
        now: What it would learn from now.
        method: As the settings of now make it.
        training: The settings of now.
        accept: Go on whatever has changed, as far as that can be, and keep it in the provenance.
        console: Told, in one line, that a run of version 0.1 kept no hashes.

    Raises:
        UserError: Names what changed, and how to go on.
    """
    changed = _changes(run, now, accept, console)
    fixed = [line for line in changed if line.startswith(FIXED)]
    if fixed:
        raise UserError(
            f"{run.root} was begun otherwise: {'; '.join(fixed)}. Its optimizer and its schedule hold these from the "
            f"first step on, so they cannot change within a run. Put them back in {run.settings}, or train anew."
        )
    if changed and not accept:
        listed = "\n".join(f"  {line}" for line in changed)
        raise UserError(
            f"{run.root} would not go on with what it was begun with:\n{listed}\nPut that back, train anew, or go on "
            f"all the same, which its provenance and report will say: patchcl resume {run.root} --accept-changes"
        )
    _require_fit(run, method, training)
    if changed:
        _keep(run, changed)
    write_contents(run.contents, now)


def settle_processes(run: RunFolder, count: int, console: Console) -> None:
    """Keep how many processes train the run; if they were others before, say what that changes, and keep it too."""
    before = int(read_provenance(run.provenance).get(PROCESSES, 1))
    if before != count and run.last.is_file():
        changed = f"processes were {before}, now {count}"
        line = (
            f"{run.root} goes on, but {changed}: each step sees the same images as before; augmentation, and all that "
            "looks at a share of the batch together, such as batch norm and contrast, is another."
        )
        console.print(line, markup=False, highlight=False, soft_wrap=True)
        _keep(run, [changed])
    if before != count:
        write_json(run.provenance, read_provenance(run.provenance) | {PROCESSES: count})


def _changes(run: RunFolder, now: Contents, accept: bool, console: Console) -> list[str]:
    """What differs from what the run kept, if it has begun and kept anything."""
    if run.contents.exists():
        try:
            return differences(read_contents(run.contents), now)
        except UserError:
            if not accept:
                raise
            return [f"{run.contents.name} could not be read: what else changed is not known"]
    if run.last.exists() or run.log_jsonl.exists():
        line = f"{run.root} kept no hashes of its data and settings when it began; from now on it does."
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    return []


def _keep(run: RunFolder, changed: list[str]) -> None:
    """Add what changed to the provenance, with the day."""
    notes = read_provenance(run.provenance)
    when = datetime.now(UTC).isoformat(timespec="seconds")
    write_json(run.provenance, notes | {ACCEPTED: [*notes.get(ACCEPTED, []), *(f"{when}: {line}" for line in changed)]})


def _require_fit(run: RunFolder, method: Method[Any], training: TrainingSettings) -> None:
    """Refuse to load a checkpoint into another network or optimizer, naming a weight or the optimizer."""
    if not run.last.is_file():
        return
    try:
        content = read_checkpoint(run, "last")
    except UserError:  # for whoever loads it to tell
        return
    saved, ours = content.get("method", {}), method.state_dict()
    differing = [name for name in saved | ours if _shape(saved.get(name)) != _shape(ours.get(name))]
    group = content.get("optimizer", {}).get("param_groups", [{}])[0]
    other = ("betas" in group) != ("betas" in build_optimizer(method, training).param_groups[0])
    if differing or other:
        found = f"{differing[0]} and {len(differing) - 1} more weights differ" if differing else "the optimizer differs"
        raise UserError(
            f"{run.last} does not fit the network and the optimizer that {run.settings} and {run.plan} describe "
            f"({found}). Put these files back as training wrote them, or train anew."
        )


def _shape(weight: object) -> tuple[int, ...] | None:
    return tuple(weight.shape) if isinstance(weight, Tensor) else None
