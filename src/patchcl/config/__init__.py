"""One typed tree for a whole run: defaults, then a YAML file, then single settings; kept with the result.

Nothing here loads torch, so that a mistyped setting is answered at once.
"""

from patchcl.config.arguments import PathLike, SettingsArguments, SharedArguments, make_settings, overrides_of
from patchcl.config.files import load_settings, read_settings, settings_yaml
from patchcl.config.settings import LoggerName, Settings, TrainingSettings, planned

__all__ = [
    "LoggerName",
    "PathLike",
    "Settings",
    "SettingsArguments",
    "SharedArguments",
    "TrainingSettings",
    "load_settings",
    "make_settings",
    "overrides_of",
    "planned",
    "read_settings",
    "settings_yaml",
]
