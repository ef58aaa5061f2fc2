"""One typed tree for a whole run: defaults, then a YAML file, then single settings; kept with the result."""

import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict, Unpack

import yaml
from pydantic import Field, ValidationError
from pydantic_core import ErrorDetails

from patchcl.augment import AugmentSettings
from patchcl.contrast.patch_contrast import ContrastSettings
from patchcl.core.devices import Device, Precision
from patchcl.core.documents import DocumentError, parse_yaml
from patchcl.core.errors import UserError
from patchcl.core.names import sided
from patchcl.core.renamed import old_settings, with_new_names
from patchcl.core.settings import FrozenSettings
from patchcl.data.preprocessing.plan import BATCH, Plan, PlanSettings, load_plan
from patchcl.data.splits import SplitSettings
from patchcl.methods import any_method_settings, build_method, method_names, settings_classes
from patchcl.methods.base import Method, MethodSettings, Task
from patchcl.methods.patchcl import PatchCLSettings
from patchcl.networks import NetworkSettings, build_network
from patchcl.networks.unet import UNet

if TYPE_CHECKING:
    AnyMethodSettings = MethodSettings
else:
    AnyMethodSettings = any_method_settings()


LoggerName = Literal["tensorboard", "wandb", "mlflow"]


class TrainingSettings(FrozenSettings):
    """The loop, the optimizer and the machine."""

    steps: int = Field(6000, gt=0, description="Optimizer steps.")
    labeled_per_batch: int = Field(12, gt=0)
    unlabeled_per_batch: int = Field(12, gt=0)
    optimizer: Literal["adamw", "sgd"] = "adamw"
    learning_rate: float = Field(1e-3, gt=0, description="At the start; it falls to 0 as (1 - step / steps) ** power.")
    power: float = Field(0.9, ge=0, description="Of the fall of the learning rate.")
    momentum: float = Field(0.9, ge=0, lt=1, description="Of sgd.")
    weight_decay: float = Field(1e-4, ge=0)
    validate_every: int = Field(200, gt=0, description="In steps.")
    log_every: int = Field(20, gt=0, description="In steps.")
    checkpoint_minutes: float = Field(
        5.0, gt=0, description="Between checkpoints, beside those at validations; made at the next log row."
    )
    device: Device = "auto"
    precision: Precision | Literal["auto"] = Field(
        "auto", description="auto: bf16-mixed on a card that has bfloat16, 16-mixed on one that has not, else 32-true."
    )
    compile: bool | Literal["auto"] = Field(
        "auto", description="Compile the networks with torch.compile; auto: in long runs whose steps are captured."
    )
    deterministic: bool = Field(True, description="On CUDA: the same weights every time. Off may be faster.")
    memory_gib: float = Field(
        8.0, ge=0, description="Of the training device, for prepared images; beyond it they stream."
    )
    loggers: tuple[LoggerName, ...] = Field(("tensorboard",), description="Of tensorboard, wandb, mlflow.")
    seed: int = Field(0, ge=0)


class Settings(FrozenSettings):
    """Everything that decides a result."""

    data: Path | None = None
    cache: Path | None = Field(None, description="Folder of prepared images; by default `prepared` beside the run.")
    method: AnyMethodSettings = PatchCLSettings()
    network: NetworkSettings = NetworkSettings()
    plan: PlanSettings = PlanSettings()
    split: SplitSettings = SplitSettings()
    augment: AugmentSettings = AugmentSettings()
    training: TrainingSettings = TrainingSettings()

    def build_network(self, plan: Plan) -> UNet:
        """The network, with new weights, for images that are prepared by `plan`."""
        return build_network(self.network, len(plan.channels), len(plan.classes), plan.size, plan.spacing_mm)

    def build_method(self, plan: Plan, size: tuple[int, ...] | None = None) -> Method[Any]:
        """The method with new weights for images that are prepared by `plan`, of `size` if that is not the plan's."""
        task = Task(lambda: self.build_network(plan), len(plan.classes), size or plan.size, self.training.steps)
        return build_method(self.method, task)


PathLike = str | Path


class SharedArguments(TypedDict, total=False):
    """What a call may say of the settings of one run or many; what is named later here has the last word."""

    config: PathLike | None
    """A YAML file with parts of the tree."""
    settings: Mapping[str, Any] | Sequence[str] | None
    """Single settings: {"training.steps": 2000} or, as the command line has them, ["training.steps=2000"]."""
    method: str | None
    """`patchcl` by default; `supervised` learns from masks alone."""
    split: PathLike | None
    """A JSON file that divides the patients."""
    plan: PathLike | None
    """A saved plan."""
    steps: int | None
    """Optimizer steps."""
    seed: int | None
    """Of weights, order and augmentation."""
    device: Device | None
    """Where to compute; by default the fastest there is."""
    precision: str | None
    """`auto`, `32-true`, `bf16-mixed` or `16-mixed`."""


class SettingsArguments(SharedArguments, total=False):
    """What a call may say of the settings of one run."""

    labeled: int | Sequence[str] | None
    """Pretend that only so many training patients, or these, have masks."""


SHORT = {"method": "method.name", "labeled": "split.labeled", "split": "split.file", "plan": "plan.file"}
SHORT |= {name: f"training.{name}" for name in ("steps", "seed", "device", "precision")}
"""Arguments that are short for one setting."""


def make_settings(**arguments: Unpack[SettingsArguments]) -> Settings:
    """The settings tree that `arguments` describe.

    Raises:
        UserError: A file cannot be read, or a setting is unknown, of the wrong type or out of range.
    """
    config = arguments.pop("config", None)
    return load_settings(None if config is None else Path(config), overrides_of(**arguments))


def overrides_of(**arguments: Unpack[SettingsArguments]) -> list[str]:
    """All of `arguments` but the file, as KEY=VALUE, the value in YAML."""
    given = arguments.get("settings") or ()
    single = [f"{key}={_yaml(value)}" for key, value in given.items()] if isinstance(given, Mapping) else list(given)
    values = {SHORT[name]: value for name, value in arguments.items() if name in SHORT and value is not None}
    files = {key: str(Path(str(values[key])).absolute()) for key in ("split.file", "plan.file") if key in values}
    return [*single, *(f"{key}={_yaml(value)}" for key, value in (values | files).items())]


def _yaml(value: object) -> str:
    """`value` in YAML, of which JSON is a part."""
    return json.dumps(list(value) if isinstance(value, tuple) else value, default=str, ensure_ascii=False)


def load_settings(file: Path | None = None, overrides: Sequence[str] = ()) -> Settings:
    """The defaults, changed by a YAML `file`, changed by `overrides` such as `method.teacher_decay=0.999`.

    The batch of a saved plan that the settings name stands where they set none.

    Raises:
        UserError: A file cannot be read, or a setting is unknown, of the wrong type or out of range.
    """
    tree = _read_yaml(file) if file else {}
    for override in overrides:
        _set(tree, override)
    source = str(file) if file else "the settings"
    _refuse_old_names(tree, source)
    return _with_plan_file(_checked(tree, source))


def planned(settings: Settings, plan: Plan) -> Settings:
    """`settings` with the patches of `plan`, if the method compares any, and without mirrors if its classes have sides.

    A structure on the left that is mirrored looks like that on the right. What the user has set stands.
    """
    if sided(plan.classes):
        asked = settings.augment.model_dump(include=settings.augment.model_fields_set)
        calm = settings.augment.model_copy(update={"flip": False, "rotate_90": False, **asked})
        settings = settings.model_copy(update={"augment": calm})
    contrast = settings.method.contrast
    if contrast is None or plan.patch_fraction is None:
        return settings
    contrast = contrast.model_copy(update={"patch_fraction": plan.patch_fraction})
    return settings.model_copy(update={"method": settings.method.model_copy(update={"contrast": contrast})})


def read_settings(path: Path) -> Settings:
    """The settings that were written beside a run.

    Raises:
        UserError: They cannot be read, or belong to another version of patchcl.
    """
    return _checked(with_new_names(_read_yaml(path)), str(path))


def settings_yaml(settings: Settings) -> str:
    """The whole tree, with every default spelled out."""
    return yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _with_plan_file(settings: Settings) -> Settings:
    """While it is known what the user has set: that decides over a plan, whether saved or made from the data."""
    contrast, plan, training = settings.method.contrast, settings.plan, settings.training
    if contrast is not None and "patch_fraction" in contrast.model_fields_set and plan.patch_fraction is None:
        plan = plan.model_copy(update={"patch_fraction": contrast.patch_fraction})
    if plan.file is not None:
        batch = load_plan(plan.file).model_dump(include=set(BATCH) - training.model_fields_set, exclude_none=True)
        training = training.model_copy(update=batch)
    return settings.model_copy(update={"plan": plan, "training": training})


def _refuse_old_names(tree: dict[str, Any], source: str) -> None:
    lines = [f"  {old} is called {new} now; its meaning is the same." for old, new in old_settings(tree)]
    if lines:
        raise UserError("\n".join([f"In {source}:", *lines]))


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        tree = parse_yaml(path.read_bytes()) or {}
    except OSError as error:
        raise UserError(
            f"Cannot read the settings file {path}: {error.strerror}. Give an existing YAML file."
        ) from error
    except DocumentError as error:
        raise UserError(f"{path} is not valid YAML: {error}. Fix it and try again.") from error
    if not isinstance(tree, dict):
        raise UserError(f"{path} holds a {type(tree).__name__}; expected settings such as `method: {{name: patchcl}}`.")
    return tree


def _set(tree: dict[str, Any], override: str) -> None:
    """Puts the value of one `a.b=c` into the tree."""
    dotted, equals, value = override.partition("=")
    if not equals or not dotted:
        raise UserError(f"--set {override!r}: expected KEY=VALUE, for example --set training.steps=2000.")
    *parents, leaf = dotted.strip().split(".")
    for parent in parents:
        below = _below(tree, parent)
        if not isinstance(below, dict):
            raise UserError(f"--set {override!r}: {parent} is a single setting and holds nothing below it.")
        tree[parent] = tree = below
    try:
        tree[leaf] = parse_yaml(value)
    except DocumentError as error:
        raise UserError(f"--set {override!r}: {value!r} is not a valid YAML value.") from error


def _below(tree: dict[str, Any], key: str) -> Any:  # noqa: ANN401 - whatever YAML can hold
    """What is under `key`: a group of settings, if all is well. `method: patchcl` is short for a group of that name."""
    below = {} if tree.get(key) is None else tree[key]
    return {"name": below} if key == "method" and isinstance(below, str) else below


def _checked(tree: dict[str, Any], source: str) -> Settings:
    method = _below(tree, "method")
    if isinstance(method, dict):
        tree = tree | {"method": {"name": PatchCLSettings().name} | method}
    try:
        return Settings.model_validate(tree)
    except ValidationError as error:
        found = "\n".join(f"  {line}" for line in _explained(error.errors()))
        raise UserError(f"In {source}:\n{found}") from error


def _explained(errors: Sequence[ErrorDetails]) -> Iterator[str]:
    """One line for every setting that is wrong: its key, what was found, what was expected."""
    for error in errors:
        place = error["loc"]
        if place[:1] == ("method",):  # what follows is the name of the method, and no key
            place = place[:1] + place[2:]
        extra = error["type"] == "extra_forbidden"  # then the last part is the user's word, whatever stands in it
        named, users = (place[:-1], place[-1:]) if extra else (place, ())
        keys = [str(part) for part in named if "[" not in str(part)] + [str(part) for part in users]
        key = ".".join(keys)  # a part with a bracket names one of several types
        if extra:
            yield f"{key} is not a setting.{_meant(keys[-1])}"
        elif error["type"] == "union_tag_invalid":
            yield f"method.name is {error['ctx']['tag']!r}; choose one of {', '.join(sorted(method_names()))}."
        else:
            yield f"{key} is {error['input']!r}: {error['msg']}."


def _meant(key: str) -> str:
    """The setting whose name is nearest to `key`, as a suggestion; nothing if none is near."""
    close = difflib.get_close_matches(key, sorted(_all_keys()), n=1)
    return f" Did you mean {close[0]}?" if close else ""


def _all_keys() -> set[str]:
    sections: list[type[FrozenSettings]] = [
        Settings,
        NetworkSettings,
        PlanSettings,
        SplitSettings,
        AugmentSettings,
        TrainingSettings,
        ContrastSettings,
        *settings_classes(),
    ]
    return {key for section in sections for key in section.model_fields}
