"""A run that a call for a new one finds begun: what the call asks for must be what the run was begun with."""

from pathlib import Path

from patchcl.config import Settings, planned, read_settings
from patchcl.core.errors import UserError
from patchcl.data.dataset import read_dataset
from patchcl.data.preprocessing.fingerprint import Fingerprint
from patchcl.data.preprocessing.plan import Plan, PlanSettings, load_plan
from patchcl.data.preprocessing.planner import make_plan
from patchcl.data.splits import Split, load_split, make_split, visible_to_training, with_split_of
from patchcl.runs.contents import Contents, contents_of, differences
from patchcl.runs.folder import RunFolder
from patchcl.training.changes import FIXED


def require_same(run: RunFolder, data: Path, asked: Settings) -> None:
    """Refuse to go on with a run under other settings, another plan or another split than `asked` for.

    Where its data lie and where it is trained may be another place. What `asked` leaves to the machine is what it was
    when the run was begun.

    Raises:
        UserError: Names what differs, and how to go on.
    """
    settings, plan, split = read_settings(run.settings), load_plan(run.plan), load_split(run.split)
    now = _asked(run, data, asked, settings, plan, split)
    changed = differences(contents_of((), settings, plan, split, (), ()), now)
    if changed:
        listed = "\n".join(f"  {line}" for line in changed)
        accepted = (
            f"; or change {run.settings} and call: patchcl resume {run.root} --accept-changes"
            if not any(line.startswith(FIXED) for line in changed)
            else ""
        )
        raise UserError(
            f"{run.root} was begun otherwise than this call asks for:\n{listed}\nTrain into a new folder with -o; go "
            f"on as it was begun with: patchcl resume {run.root}{accepted}"
        )


def _asked(run: RunFolder, data: Path, asked: Settings, before: Settings, plan: Plan, split: Split) -> Contents:
    """What a run would rest on that `asked` began; drawn and planned from the data it would have the split and plan."""
    division, _ = with_split_of(data, asked.split)
    if division.file is not None:
        split = make_split(read_dataset(data, division.patient_pattern), division)
    if asked.plan.file is not None:
        plan = _plan_by_file(run, data, asked.plan, split) or plan
    asked = planned(asked, plan).model_copy(update={"split": division})
    auto = {key: getattr(before.training, key) for key in ("precision", "compile")}
    auto = {key: kept for key, kept in auto.items() if getattr(asked.training, key) == "auto"}
    asked = asked.model_copy(update={"training": asked.training.model_copy(update=auto)})
    return contents_of((), asked, plan, split, (), ())


def _plan_by_file(run: RunFolder, data: Path, settings: PlanSettings, split: Split) -> Plan | None:
    """The plan that a saved one, which may have changed, comes to; None where the run did not keep what it needs."""
    try:
        fingerprint = Fingerprint.model_validate_json(run.fingerprint.read_bytes())
    except (OSError, ValueError):
        return None
    return make_plan(visible_to_training(read_dataset(data), split), settings, fingerprint)
