"""The Python face for the verbs: what can be told before torch is loaded is told."""

from collections.abc import Mapping
from types import ModuleType
from typing import Any


def face(given: Mapping[str, Any] | None = None) -> ModuleType:
    """The functions of the Python face; torch is loaded here, and so not for help or a mistyped option.

    Nor for a mistake in what is `given`: settings, methods to compare, or a folder of data that is none.
    """
    if given is not None:
        _require_settings(given)
        _require_data(given)
    from patchcl import api

    return api


def _require_settings(given: Mapping[str, Any]) -> None:
    """Refuse settings, or methods to compare, that there are not."""
    from patchcl.comparison.variants import require_known
    from patchcl.config import SettingsArguments, make_settings

    make_settings(**{key: given[key] for key in SettingsArguments.__annotations__ if key in given})
    if "methods" in given:
        require_known(given["methods"], given.get("variants"))


def _require_data(given: Mapping[str, Any]) -> None:
    """Refuse a folder that is no data set of ours; the formats of files are loaded for it."""
    from patchcl.data.folders import require_description
    from patchcl.data.importers.registry import require_ours

    require_ours(given["data"])
    require_description(given["data"])
