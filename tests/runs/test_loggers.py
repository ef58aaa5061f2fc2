"""Loggers of others: what is on, and what is said of one that is not installed."""

import importlib.util
import sys
from unittest.mock import MagicMock

import pytest
from lightning.fabric.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from patchcl.config import TrainingSettings
from patchcl.core.errors import UserError
from patchcl.core.names import file_safe
from patchcl.runs.folder import RunFolder
from patchcl.runs.loggers import open_logger


@pytest.fixture
def run(tmp_path):
    return RunFolder.create(tmp_path / "run")


def test_only_tensorboard_is_on_by_itself():
    assert TrainingSettings().loggers == ("tensorboard",)


def test_tensorboard_goes_on_after_the_steps_that_are_done(run):
    for first_step, value in ((0, 1.0), (20, 2.0)):
        logger = open_logger("tensorboard", run, first_step)
        assert isinstance(logger, TensorBoardLogger)
        for step in (first_step + 10, first_step + 20):
            logger.log_metrics({"loss": value}, step)
        logger.log_metrics({"loss": value}, first_step + 30)
        logger.finalize("success")
    scalars = EventAccumulator(str(run.tensorboard)).Reload().Scalars("loss")
    assert [(event.step, event.value) for event in scalars] == [(10, 1), (20, 1), (30, 2), (40, 2), (50, 2)]


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_logger_that_is_not_installed_is_named(name, run):
    if importlib.util.find_spec(name) is not None:
        pytest.skip(f"{name} is installed here")
    with pytest.raises(UserError, match=f"{name} is not installed here. Install it with: pip install {name}"):
        open_logger(name, run, 0)


def test_two_names_in_another_script_stay_two_in_mlflow(run, monkeypatch):
    """Of Lightning's logger, which needs the library, only what it is told."""
    told = MagicMock()
    monkeypatch.setitem(sys.modules, "lightning.pytorch.loggers", told)
    monkeypatch.setattr("patchcl.runs.loggers.importlib.util.find_spec", bool)
    logger = open_logger("mlflow", run, 0)
    names = ("loss", "validation_dice_左", "validation_dice_右", "validation_dice_50%")
    logger.log_metrics({file_safe(name): 0.5 for name in names}, 3)
    logger.finalize("success")
    of_lightning = told.MLFlowLogger.return_value
    expected = ("loss", "validation_dice__xe5b7a6", "validation_dice__xe58fb3", "validation_dice_50_x25")
    of_lightning.log_metrics.assert_called_once_with(dict.fromkeys(expected, 0.5), 3)
    of_lightning.finalize.assert_called_once_with("success")
