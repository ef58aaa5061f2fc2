"""How a call ends: the next command where it went well, else one message and an exit code."""

import sys
from typing import TYPE_CHECKING, NoReturn

import typer
from rich.markup import escape

from patchcl.core.console import console, errors
from patchcl.core.errors import UserError

if TYPE_CHECKING:
    from patchcl.comparison.runner import Ending
    from patchcl.training.experiment import Outcome


def tell(message: str, exit_code: int = UserError.exit_code) -> NoReturn:
    """End with the one message that a user needs."""
    errors.print("[bold red]Error[/bold red]", end=" ")
    errors.print(message, markup=False, highlight=False, soft_wrap=True)
    sys.exit(exit_code)


def finish_comparison(ending: "Ending") -> None:
    """Say which runs failed, with exit code 1, or how to go on with what was stopped."""
    if ending.stop:
        console.print("Stopped; all of it is saved. Call the same command again to go on.")
        raise typer.Exit(ending.stop.exit_code)
    list_failures("Failed", [f"{run}: {reason}" for run, reason in ending.failed.items()])


def list_failures(what: str, messages: list[str]) -> None:
    """A line for each of `messages`, and exit code 1 if there are any."""
    for message in messages:
        errors.print(f"[bold red]{what}[/bold red]", end=" ")
        errors.print(message, markup=False, highlight=False, soft_wrap=True)
    if messages:
        raise typer.Exit(1)


def finish(outcome: "Outcome") -> None:
    """Say what to do with a run next: use it, or go on with it if it was stopped."""
    root = escape(str(outcome.run.root))
    if outcome.stop:
        console.print(f"Stopped after step {outcome.steps_done}; all of it is saved. Go on with: patchcl resume {root}")
        raise typer.Exit(outcome.stop.exit_code)
    console.print(
        f"Trained {outcome.steps_done} steps into [bold]{root}[/bold]. Next: patchcl evaluate {root}, "
        f"patchcl predict {root} SCANS -o OUT, patchcl report {root}",
        highlight=False,
    )
