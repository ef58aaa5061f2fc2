"""Where else a run's figures go, for people to look at: TensorBoard, and W&B or MLflow for whoever asks for them."""

import importlib.util
import os
from typing import Any

from patchcl.config import LoggerName
from patchcl.core.errors import UserError
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
    return MLFlowLogger("patchcl", run_name=run.root.name, tracking_uri=address)
