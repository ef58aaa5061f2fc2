"""The command line."""

from patchcl.cli.verbs import app, main

__all__ = ["app", "main"]
