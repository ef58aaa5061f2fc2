"""The plugin of pytest that tests planted faults: all tests pass once without any, then a process is forked for each.

In it the fault wakes, and the tests that come by it run until one fails, those of its own module first. Fixtures of the
whole session are made once, before. Shapes are checked as in every test.
"""

import gc
import itertools
import json
import os
import resource
import signal
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path

import pytest
from jaxtyping import install_import_hook
from mutmut.mutation.trampoline import set_mutant_under_test
from mutmut.state import state

WORK = Path(os.environ["MUTANTS"])
KILLER = WORK.with_suffix(".killer")
"""What saw the last fault; it is likely to see the next one in the same function, too, and goes first."""
MOST_SECONDS = 10
"""Of a processor beyond three times what the tests take without a fault; a fault that takes longer never ends."""

TIME = 4
"""Seconds of tests after which a fault counts as missed."""

install_import_hook(["patchcl.losses", "patchcl.contrast", "patchcl.evaluation"], "typechecker.checked")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Of the laws those on slices alone."""
    items[:] = [item for item in items if "/system/" not in item.nodeid or "volumes" not in item.name]


def pytest_runtestloop(session: pytest.Session) -> bool:
    """Test all that is pending; exit codes by name go to ROOM.json, each at once."""
    reached, seconds = passed(session)
    codes_file, pending = WORK.with_suffix(".json"), WORK.with_suffix(".pending").read_text(encoding="utf-8").split()
    codes = json.loads(codes_file.read_text(encoding="utf-8"))
    gc.collect()
    gc.freeze()  # a fork neither copies this by looking through it for waste, nor ends what is not its own
    if forked(session, within(session.items, seconds, TIME), "no fault", 1e6) != 0:
        raise session.Failed("tests fail in a process of their own without a fault")
    items = {name: chosen(reached.get(name.partition("__mutmut_")[0], []), seconds, name) for name in pending}
    needed = {name: sum(seconds[item] for item in tests) for name, tests in items.items()}
    killers: dict[str, Counter[str]] = defaultdict(Counter)
    for name in pending:
        before = killers[name.partition("__mutmut_")[0]]
        tests = sorted(items[name], key=lambda item: -before[item.nodeid])
        codes[name] = forked(session, tests, name, MOST_SECONDS + 3 * needed[name]) if tests else 0
        if codes[name] == 1:
            before[KILLER.read_text(encoding="utf-8")] += 1
        codes_file.write_text(json.dumps(codes), encoding="utf-8")
    return True


def passed(session: pytest.Session) -> tuple[dict[str, list[pytest.Item]], dict[pytest.Item, float]]:
    """The tests that come by each function, and how long each takes; all must pass as long as no fault is awake."""
    reached: dict[str, list[pytest.Item]] = {}
    seconds = {}
    set_mutant_under_test("stats")
    for item, after in zip(session.items, [*session.items[1:], session.items[0]], strict=True):  # never the end
        forget()
        start = time.process_time()
        run(item, after)
        seconds[item] = time.process_time() - start
        for function in state()._stats:
            reached.setdefault(function, []).append(item)
        state()._stats.clear()
    if session.testsfailed:
        raise session.Failed("tests fail without a fault")
    return reached, seconds


def chosen(items: list[pytest.Item], seconds: dict[pytest.Item, float], name: str) -> list[pytest.Item]:
    """Those of a fault's own module, then others, laws last, always the quickest first, as long as there is time."""

    def order(item: pytest.Item) -> tuple[int, float]:
        own = f"/test_{name.split('.')[2]}.py" in item.nodeid
        return 0 if own else 2 if "/system/" in item.nodeid else 1, seconds[item]

    return within(sorted(items, key=order), seconds, TIME)


def within(items: list[pytest.Item], seconds: dict[pytest.Item, float], time_limit: float) -> list[pytest.Item]:
    """The first tests, one at least, that take no longer than that together."""
    until = itertools.accumulate(seconds[item] for item in items)
    return [item for item, so_far in zip(items, until, strict=True) if so_far <= time_limit or item is items[0]]


def forked(session: pytest.Session, items: list[pytest.Item], name: str, limit: float) -> int:
    """The exit code of a process in which the fault is awake: 1 where a test fails, or the signal that ended it."""
    process = os.fork()
    if process:
        return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    try:
        resource.setrlimit(resource.RLIMIT_CPU, (int(limit) + 1, int(limit) + 2))
        signal.alarm(int(20 * limit))  # one that waits for ever uses no processor
        set_mutant_under_test(name)
        forget()
        session._setupstate.teardown_exact(items[0])  # what the test before leaves for the one after it
        for item, after in zip(items, [*items[1:], None], strict=True):
            run(item, after)
            if session.testsfailed:
                KILLER.write_text(item.nodeid, encoding="utf-8")
                os._exit(1)
        os._exit(0)
    finally:  # never back into the loop of the process that has forked
        os._exit(3)


def forget() -> None:
    """Nothing that was kept from before hides what a fault does."""
    for module in [module for name, module in sys.modules.items() if name.startswith("patchcl.")]:
        for value in vars(module).values():
            if isinstance(getattr(value, "cache_clear", None), Callable):
                value.cache_clear()


def run(item: pytest.Item, after: pytest.Item | None) -> None:
    """Run a test; fixtures that the one `after` it needs stay."""
    item.config.hook.pytest_runtest_protocol(item=item, nextitem=after)
