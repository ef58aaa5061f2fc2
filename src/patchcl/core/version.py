"""The version of patchcl."""

__version__ = "0.2.0.dev0"
