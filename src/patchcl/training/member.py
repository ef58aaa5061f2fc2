"""A process of a run that the first one started on this machine: it trains along and writes nothing.

Its task comes over its input, as `crew` writes it.
"""

import sys

from patchcl.core.console import errors
from patchcl.core.errors import UserError
from patchcl.training.crew import Task, crew_of
from patchcl.training.experiment import join


def main() -> None:
    """Train along; what a user can put right is one message and its exit code."""
    task = Task.model_validate_json(sys.stdin.read())
    try:
        with crew_of(task.settings, task.place) as ranks:
            join(ranks)
    except UserError as error:
        errors.print(str(error), markup=False, highlight=False, soft_wrap=True)
        sys.exit(error.exit_code)
