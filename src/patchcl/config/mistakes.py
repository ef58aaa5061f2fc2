"""Settings that are wrong: each is named by its key, with what was found and what was expected."""

import difflib
from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from patchcl.augment import AugmentSettings
from patchcl.config.settings import InferenceSettings, Settings, TrainingSettings
from patchcl.contrast import ContrastSettings
from patchcl.core.errors import UserError
from patchcl.core.settings import FrozenSettings
from patchcl.data.preprocessing.plan import PlanSettings
from patchcl.data.split_settings import SplitSettings
from patchcl.methods import method_names, settings_classes
from patchcl.methods.settings import PatchCLSettings
from patchcl.networks import NetworkSettings


def below(tree: dict[str, Any], key: str) -> Any:  # noqa: ANN401 - whatever YAML can hold
    """What is under `key`: a group of settings, if all is well. `method: patchcl` is short for a group of that name."""
    below = {} if tree.get(key) is None else tree[key]
    return {"name": below} if key == "method" and isinstance(below, str) else below


def checked(tree: dict[str, Any], source: str) -> Settings:
    """The settings that `tree` holds.

    Args:
        tree: As YAML has it; what is missing keeps its default.
        source: What it was read from, for the message.

    Raises:
        UserError: A setting is unknown, of the wrong type or out of range; all that are wrong are named.
    """
    tree = {key: value for key, value in tree.items() if value is not None}  # a heading with nothing below it
    method = below(tree, "method")
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
        if extra and (having := _methods_with(error["loc"])):
            yield f"{key} is not a setting of {error['loc'][1]}, but of {', '.join(having)}."
        elif extra:
            yield f"{key} is not a setting.{_meant(keys)}"
        elif error["type"] == "union_tag_invalid":
            yield f"method.name is {error['ctx']['tag']!r}; choose one of {', '.join(sorted(method_names()))}."
        elif error["type"] == "value_error" and isinstance(error["input"], dict):  # settings that do not go together
            yield f"{key}{': ' * bool(key)}{_said(error)}."
        else:
            yield f"{key} is {error['input']!r}: {_said(error)}."


def _said(error: ErrorDetails) -> str:
    """What is wrong, in our own words where a validator of ours has found it, or Python's would be strange."""
    if error["type"] in ("list_type", "tuple_type"):
        return "Input should be a list in brackets, such as [8, 16]"
    return str(error["ctx"]["error"]) if error["type"] == "value_error" else error["msg"]


def _methods_with(place: tuple[int | str, ...]) -> list[str]:
    """The methods that have the setting at `place`, which that method there does not have."""
    if len(place) != 3 or place[0] != "method":
        return []
    having = [known.model_fields for known in settings_classes() if place[2] in known.model_fields]
    return sorted(str(fields["name"].default) for fields in having)


def _meant(keys: Sequence[str]) -> str:
    """The setting whose name is nearest, if possible of the same group, as a suggestion; nothing if none is near."""
    group = [key for key in _all_keys() if key.rpartition(".")[0] == ".".join(keys[:-1])]
    for known in (group, _all_keys()):
        names = {key.rpartition(".")[2]: key for key in reversed(known)}
        close = difflib.get_close_matches(keys[-1], sorted(names), n=1)
        if close:
            return f" Did you mean {names[close[0]]}?"
    return ""


def _all_keys() -> list[str]:
    groups: list[tuple[str, type[FrozenSettings]]] = [
        ("", Settings),
        ("network.", NetworkSettings),
        ("plan.", PlanSettings),
        ("split.", SplitSettings),
        ("augment.", AugmentSettings),
        ("training.", TrainingSettings),
        ("inference.", InferenceSettings),
        *(("method.", method) for method in settings_classes()),
        ("method.contrast.", ContrastSettings),
    ]
    return [f"{group}{key}" for group, section in groups for key in section.model_fields]
