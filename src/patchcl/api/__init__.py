"""The Python face of patchcl: each verb of the command line as a function.

Progress is shown on terminal or notebook; what a user can put right is raised as `patchcl.UserError`.
"""

from patchcl.core.threads import choose_wait_policy

choose_wait_policy()  # before what follows loads torch

from patchcl.api.datasets import check, import_data  # noqa: E402
from patchcl.api.runs import evaluate, load_run, predict, report  # noqa: E402
from patchcl.api.training import compare, resume, train, train_folds  # noqa: E402

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
