"""Semi-supervised medical image segmentation with PatchCL: many scans, few annotations.

    import patchcl

    patchcl.check("my_data")
    patchcl.train("my_data", "runs/all")
    patchcl.load_run("runs/all").predict("scan.nii.gz").mask

The functions are those of `patchcl.api`, loaded when one is used for the first time.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from patchcl.core.errors import UserError
from patchcl.core.version import __version__

if TYPE_CHECKING:
    from patchcl.api import check, compare, evaluate, import_data, load_run, predict, report, resume, train, train_folds

__all__ = [
    "UserError",
    "__version__",
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


def __getattr__(name: str) -> object:
    """A function of the face, when it is asked for."""
    if name not in __all__:
        raise AttributeError(f"module 'patchcl' has no attribute {name!r}")
    return getattr(import_module("patchcl.api"), name)


def __dir__() -> list[str]:
    """What `__all__` names, as completion asks for it."""
    return __all__
