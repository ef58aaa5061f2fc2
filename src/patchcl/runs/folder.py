"""The folder of a run: every file has its name here, and every write either happens whole or not at all."""

import shutil
from pathlib import Path

from patchcl.core.errors import UserError
from patchcl.core.files import UNFINISHED

COMPARISON = "compare.json"
"""The file that says that a folder holds a comparison, and so runs in folders below it."""


def comparison_in(root: Path) -> Path:
    """The file of the comparison that was made in `root`.

    Raises:
        UserError: There is none in `root`.
    """
    path = root / COMPARISON
    if not path.is_file():
        raise UserError(f"{root} holds no comparison: {COMPARISON} is missing. Name a folder made by it.")
    return path


class RunFolder:
    """The folder that holds one run: what was asked, what happened, what came out."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.settings = root / "settings.yaml"
        self.plan = root / "plan.yaml"
        self.fingerprint = root / "fingerprint.json"
        self.familiarity = root / "familiarity.json"
        self.split = root / "split.json"
        self.contents = root / "contents.json"
        self.provenance = root / "provenance.json"
        self.log_jsonl = root / "log.jsonl"
        self.log_csv = root / "log.csv"
        self.tensorboard = root / "tensorboard"
        self.last = root / "checkpoints" / "last.ckpt"
        self.previous = root / "checkpoints" / "previous.ckpt"
        self.best = root / "checkpoints" / "best.ckpt"
        self.pictures = root / "pictures"
        self.folds = root / "folds.json"
        self.postprocessing = root / "postprocessing.json"
        self.predictions = root / "predictions"
        self.evaluation = root / "evaluation"
        self.report = root / "report.html"

    @classmethod
    def create(cls, root: Path) -> "RunFolder":
        """A new, empty run folder.

        Raises:
            UserError: `root` already holds something: two runs are never mixed.
        """
        if root.exists() and (not root.is_dir() or any(not path.name.startswith(".writer") for path in root.iterdir())):
            raise UserError(
                f"{root} is not empty, and a run never writes over another one. "
                f"Choose a new folder with -o, or continue that run with: patchcl resume {root}"
            )
        try:
            (root / "checkpoints").mkdir(parents=True, exist_ok=True)
            (root / "pictures").mkdir(exist_ok=True)
        except OSError as error:
            raise UserError(
                f"Cannot create the run folder {root}: {error.strerror}. Choose another with -o."
            ) from error
        return cls(root)

    @classmethod
    def open(cls, root: Path) -> "RunFolder":
        """The run that was made in `root`.

        Raises:
            UserError: There is no run in `root`.
        """
        run = cls(root)
        if not run.settings.is_file():
            raise UserError(
                f"{root} holds no run: {run.settings.name} is missing. Name a folder made by patchcl train."
            )
        return run

    def begun(self) -> bool:
        """Whether a run can be continued here; what a start that was cut short left behind is removed.

        The two folders are the first that a start makes, and the provenance is the last. Nothing is removed where other
        files lie as well.
        """
        if self.provenance.is_file() or not self.root.is_dir():
            return self.provenance.is_file()
        folders = {self.last.parent, self.pictures}
        left = {path for path in self.root.iterdir() if not path.name.startswith(UNFINISHED)}
        starting = folders | {self.settings, self.plan, self.fingerprint, self.split}
        if folders <= left <= starting and not any(any(folder.iterdir()) for folder in folders):
            shutil.rmtree(self.root)
        return False

    def remove_unfinished(self) -> None:
        """Remove the checkpoints that a killed process had half written; only for who holds the run."""
        for path in self.last.parent.glob(f"{UNFINISHED}*"):
            path.unlink(missing_ok=True)

    def remove_if_never_begun(self) -> None:
        """Make room for the next attempt, unless a first step was done."""
        if not self.log_jsonl.exists():
            shutil.rmtree(self.root, ignore_errors=True)

    def checkpoint(self, name: str) -> Path:
        """The file of checkpoint `name`, which is `last` or `best`.

        Raises:
            UserError: That checkpoint was never written.
        """
        path = {"last": self.last, "best": self.best}[name]
        if not path.is_file():
            raise UserError(f"{path} does not exist. Train first, or finish the run with: patchcl resume {self.root}")
        return path
