"""How a call ends: the next command where it went well, else one message and an exit code."""

import sys
from pathlib import Path
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
        unseen = ", ".join(ending.unseen)
        saved = f"not seen to end, and perhaps still saving: {unseen}" if unseen else "all of it is saved"
        console.print(f"Stopped; {saved}. Call the same command again to go on.", markup=False, soft_wrap=True)
        raise typer.Exit(ending.stop.exit_code)
    list_failures("Failed", [f"{run}: {reason}" for run, reason in ending.failed.items()])


def finish_folds(root: Path, ending: "Ending") -> None:
    """Say which folds failed, with exit code 1, or what to do with the ensemble or what is there of it."""
    finish_comparison(ending)
    if (root / "postprocessing.json").is_file():
        _name_next(f"Trained all folds into [bold]{escape(str(root))}[/bold].", root)
    else:
        console.print("Other folds are not trained yet; the same command with --folds alone trains what is missing.")


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
        console.print(
            f"Stopped after step {outcome.steps_done}; all of it is saved. Go on with: patchcl resume {root}",
            soft_wrap=True,
        )
        raise typer.Exit(outcome.stop.exit_code)
    _name_next(f"Trained {outcome.steps_done} steps into [bold]{root}[/bold].", outcome.run.root)


def _name_next(what: str, root: Path) -> None:
    named = escape(str(root))
    verbs = f"patchcl evaluate {named}, patchcl predict {named} SCANS -o OUT, patchcl report {named}"
    console.print(f"{what} Next: {verbs}", highlight=False, soft_wrap=True)
