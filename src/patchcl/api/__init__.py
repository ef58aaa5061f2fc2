"""The Python face of patchcl: each verb of the command line as a function.

Progress is shown on terminal or notebook; what a user can put right is raised as `patchcl.UserError`.
"""

from patchcl.api.datasets import check, import_data
from patchcl.api.runs import compare, evaluate, load_run, predict, report, resume, train, train_folds

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
