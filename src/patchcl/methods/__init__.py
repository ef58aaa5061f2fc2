"""The register of methods. A new one is a file beside this, its settings in settings.py, one line in METHODS.

Nothing here loads torch, nor pydantic before settings are asked for, so that `--help` lists the names at once.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Any, Union

if TYPE_CHECKING:
    from patchcl.methods.base import Method, Task
    from patchcl.methods.settings import MethodSettings

METHODS = {
    "supervised": "patchcl.methods.supervised:Supervised",
    "mean_teacher": "patchcl.methods.mean_teacher:MeanTeacher",
    "uncertainty_mean_teacher": "patchcl.methods.uncertainty_mean_teacher:UncertaintyMeanTeacher",
    "cross_pseudo": "patchcl.methods.cross_pseudo:CrossPseudo",
    "fixmatch": "patchcl.methods.fixmatch:FixMatch",
    "unimatch": "patchcl.methods.unimatch:UniMatch",
    "bcp": "patchcl.methods.bcp:BCP",
    "patchcl": "patchcl.methods.patchcl:PatchCL",
}
"""Name, as `--method` takes it -> module and class."""


def method_names() -> tuple[str, ...]:
    """The names that `--method` takes."""
    return tuple(METHODS)


def method_class(name: str) -> "type[Method[Any]]":
    """The class of the method that is registered under `name`."""
    module, _, attribute = METHODS[name].partition(":")
    kind: type[Method[Any]] = getattr(import_module(module), attribute)
    return kind


def settings_classes() -> "tuple[type[MethodSettings], ...]":
    """The settings of every registered method: XSettings in `settings.py` are those of X."""
    from patchcl.methods import settings

    kinds = (target.partition(":")[2] for target in METHODS.values())
    return tuple(getattr(settings, f"{kind}Settings") for kind in kinds)


def any_method_settings() -> Any:  # noqa: ANN401 - a type that is made while the program runs
    """The type of the settings of any method, for pydantic: their `name` says of which."""
    from pydantic import Field

    return Annotated[Union[settings_classes()], Field(discriminator="name")]  # noqa: UP007


def build_method(chosen: "MethodSettings", task: "Task") -> "Method[Any]":
    """The method that `chosen` describes, for `task`."""
    return method_class(chosen.name)(chosen, task)
