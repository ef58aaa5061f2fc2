"""Records of segmented scans: what each mask was made from and by, so that the same call does not make it again."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from patchcl.core.documents import DocumentError, parse_json
from patchcl.core.errors import UserError
from patchcl.core.files import write_json
from patchcl.core.settings import FrozenSettings
from patchcl.core.version import __version__
from patchcl.data.preprocessing.manifest import Entry, file_entry
from patchcl.inference.case_summary import CaseSummary
from patchcl.inference.familiarity import Familiarity
from patchcl.inference.trained_run import TrainedRun

FOLDER = ".segmented"
"""Beside the masks; it holds a file for each scan."""


class Record(FrozenSettings):
    """A segmented scan."""

    made_by: str  # see `maker`
    sources: tuple[Entry, ...]  # size, times and sha256 of each file of the scan
    outputs: dict[str, Entry]  # and of what was written, by name
    case: str
    sizes: dict[str, float]
    confidence: float
    unlike: dict[str, str]

    @property
    def summary(self) -> CaseSummary:
        """What is known of the scan beside its mask."""
        return CaseSummary(self.case, self.sizes, self.confidence, self.unlike)


def maker(trained: TrainedRun, familiarity: Familiarity | None, files: object) -> str:
    """The sha256 of weights, plan and all else that decides what is written of a scan; devices aside."""
    digest = hashlib.sha256()
    for name, tensor in trained.network.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    seen = None if familiarity is None else familiarity.model_dump(mode="json")
    deciding = [__version__, trained.plan.model_dump(mode="json"), repr(trained.inference), repr(files), seen]
    digest.update(json.dumps(deciding).encode())
    return digest.hexdigest()


def write_record(out: Path, made_by: str, sources: Sequence[Path], case: CaseSummary, outputs: Sequence[Path]) -> None:
    """Keep that a scan is done, once all its files are there."""
    record = Record(
        made_by=made_by,
        sources=tuple(file_entry(path) for path in sources),
        outputs={path.name: file_entry(path) for path in outputs},
        case=case.case,
        sizes=dict(case.sizes),
        confidence=case.confidence,
        unlike=dict(case.unlike),
    )
    write_json(_file(out, case.case), record.model_dump(mode="json"))


def done_before(out: Path, made_by: str, case: str, sources: Sequence[Path]) -> CaseSummary | None:
    """What is known of a scan that was segmented by the same network, and it and all that was written are as then."""
    try:
        record = Record.model_validate(parse_json(_file(out, case).read_bytes()))
        known = [*zip(sources, record.sources, strict=True), *((out / name, of) for name, of in record.outputs.items())]
        same = all(file_entry(file, entry)["sha256"] == entry.get("sha256") for file, entry in known)
    except (OSError, DocumentError, ValueError, UserError):
        return None
    return record.summary if same and record.made_by == made_by else None


def recorded(out: Path) -> set[str]:
    """The cases that have a record, whatever it says."""
    try:
        return {path.stem for path in (out / FOLDER).iterdir()}
    except OSError:
        return set()


def _file(out: Path, case: str) -> Path:
    return out / FOLDER / f"{case}.json"
