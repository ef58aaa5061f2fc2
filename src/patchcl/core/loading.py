"""How packages such as torch are loaded: without a look for garbage, since all of what is loaded stays."""

import atexit
import gc
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module


@contextmanager
def loading() -> Iterator[None]:
    """Inside, Python looks for no garbage, which is a sixth of the time that our packages take to load."""
    looked = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if looked:
            gc.enable()


def end_without_a_look() -> None:
    """Have Python look for no garbage at the end of this process either: all of it ends with the process."""
    atexit.register(gc.freeze)


def program(module: str) -> tuple[str, ...]:
    """What Python is to be told for a process of its own that runs the `main` of a module of ours."""
    return "-P", "-c", f"from patchcl.core.loading import run; run({module!r})"


def run(module: str) -> None:
    """Load a module of ours and run its `main`, in a process that does nothing else."""
    with loading():
        main = import_module(module).main
    end_without_a_look()
    main()
