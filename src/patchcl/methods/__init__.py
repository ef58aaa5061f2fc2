"""The methods that patchcl knows. A new one is a file beside this and one line in METHODS."""

from typing import TYPE_CHECKING, Annotated, Any, Union

from pydantic import Field

from patchcl.methods.base import Method, MethodSettings, Task
from patchcl.methods.bcp import BCP, BCPSettings
from patchcl.methods.cross_pseudo import CrossPseudo, CrossPseudoSettings
from patchcl.methods.fixmatch import FixMatch, FixMatchSettings
from patchcl.methods.mean_teacher import MeanTeacher, MeanTeacherSettings
from patchcl.methods.patchcl import PatchCL, PatchCLSettings
from patchcl.methods.supervised import Supervised, SupervisedSettings
from patchcl.methods.uncertainty_mean_teacher import UncertaintyMeanTeacher, UncertaintyMeanTeacherSettings
from patchcl.methods.unimatch import UniMatch, UniMatchSettings

METHODS: dict[type[MethodSettings], Any] = {
    SupervisedSettings: Supervised,
    MeanTeacherSettings: MeanTeacher,
    UncertaintyMeanTeacherSettings: UncertaintyMeanTeacher,
    CrossPseudoSettings: CrossPseudo,
    FixMatchSettings: FixMatch,
    UniMatchSettings: UniMatch,
    BCPSettings: BCP,
    PatchCLSettings: PatchCL,
}

if TYPE_CHECKING:
    AnyMethodSettings = MethodSettings
else:
    AnyMethodSettings = Annotated[Union[tuple(METHODS)], Field(discriminator="name")]  # noqa: UP007


def method_names() -> tuple[str, ...]:
    """The names that `--method` takes."""
    return tuple(settings.model_fields["name"].default for settings in METHODS)


def build_method(settings: MethodSettings, task: Task) -> Method:
    """The method that `settings` describe, for `task`."""
    method: Method = METHODS[type(settings)](settings, task)
    return method
