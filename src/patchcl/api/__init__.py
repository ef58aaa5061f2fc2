"""The Python face of patchcl: each verb of the command line as a function.

Progress is shown on terminal or notebook; what a user can put right is raised as `patchcl.UserError`.
A function is loaded when it is asked for: who predicts does not wait for what trains.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from patchcl.core.loading import loading
from patchcl.core.threads import choose_wait_policy

choose_wait_policy()  # before what follows loads torch

if TYPE_CHECKING:
    from patchcl.api.datasets import check, import_data
    from patchcl.api.runs import evaluate, load_run, predict, report
    from patchcl.api.training import compare, resume, train, train_folds

__all__ = [
    "check",
    "compare",
    "evaluate",
    "import_data",
    "load_run",
    "predict",
    "report",
    "resume",
    "train",
    "train_folds",
]
ROOMS = {
    **dict.fromkeys(("check", "import_data"), "datasets"),
    **dict.fromkeys(("evaluate", "load_run", "predict", "report"), "runs"),
}
"""The module of a function; `training` for all others."""


def __getattr__(name: str) -> object:
    """A function of the face, when it is asked for."""
    if name not in __all__:
        raise AttributeError(f"module 'patchcl.api' has no attribute {name!r}")
    with loading():
        return getattr(import_module(f"patchcl.api.{ROOMS.get(name, 'training')}"), name)


def __dir__() -> list[str]:
    """What `__all__` names, as completion asks for it."""
    return __all__
