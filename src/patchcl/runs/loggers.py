"""Where else a run's figures go, for people to look at: TensorBoard, and W&B or MLflow for whoever asks for them."""

import importlib.util
import os
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

from patchcl.config import LoggerName
from patchcl.core.errors import UserError
from patchcl.core.names import ascii_tag
from patchcl.runs.folder import RunFolder


def open_logger(name: LoggerName, run: RunFolder, first_step: int) -> Any:  # noqa: ANN401 - a logger of Lightning
    """The logger called `name` for a run that has done `first_step` steps: `log_metrics(values, step)`, `finalize`.

    Only TensorBoard, whose files lie in the run folder, is ever on unless somebody asks for another. MLflow keeps
    a database in the run folder unless MLFLOW_TRACKING_URI names a server; W&B obeys its own WANDB_ variables.

    Raises:
        UserError: Its library is not installed.
    """
    if importlib.util.find_spec(name) is None:
        raise UserError(
            f"training.loggers names {name}, but the library {name} is not installed here. "
            f"Install it with: pip install {name}, or take {name} out of training.loggers."
        )
    if name == "tensorboard":
        from lightning.fabric.loggers import TensorBoardLogger

        return TensorBoardLogger(run.tensorboard, name="", version="", purge_step=first_step + 1)
    if name == "wandb":
        from lightning.pytorch.loggers import WandbLogger

        return WandbLogger(name=run.root.name, project="patchcl", save_dir=run.root)
    from lightning.pytorch.loggers import MLFlowLogger

    address = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{run.root.absolute() / 'mlflow.db'}"
    return AsciiNames(MLFlowLogger("patchcl", run_name=run.root.name, tracking_uri=address))


class AsciiNames:
    """A logger whose names are ASCII alone: Lightning leaves other letters out for MLflow, and two names become one."""

    def __init__(self, logger: Any) -> None:  # noqa: ANN401 - a logger of Lightning
        self.logger = logger

    def log_metrics(self, values: Mapping[str, float], step: int) -> None:
        """Logs `values`, whose names are safe as those of files."""
        self.logger.log_metrics({ascii_tag(unquote(name)): value for name, value in values.items()}, step)

    def finalize(self, status: str) -> None:
        """Ends it."""
        self.logger.finalize(status)
