"""What was freed goes back to the system when asked for, and no sooner where Dask wishes that."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from patchcl.core.memory import release_memory, without_dasks_wish

LINUX = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="only Linux tells what a process holds, by kind"
)
PAGES = """
import resource, numpy as np
from patchcl.core.memory import keep_freed_memory
if {keep}:
    keep_freed_memory()
for size in (50_000, 500_000, 3_000_000):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(50):
        array = np.ones(size // 8)
        del array
    print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / 50 * resource.getpagesize() / size)
"""
"""Says for arrays of some sizes, made and freed again and again, which share of each is made of new pages."""


@LINUX
@pytest.mark.usefixtures("still_memory")
def test_freed_memory_goes_back_to_the_system() -> None:
    """Small arrays below one that stays: without asking, glibc would keep the room of all of them."""

    def own_mib() -> float:
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        return int(status.split("RssAnon:")[1].split()[0]) / 2**10

    before = own_mib()
    many = [np.ones(2000) for _ in range(20_000)]  # 16 kB each, 300 MiB in all
    stays = np.ones(2000)
    held = own_mib()
    del many
    kept = own_mib()
    release_memory()
    assert held - before > 250
    assert own_mib() - before < 0.5 * max(kept - before, 60)
    assert stays.sum() == 2000


def shares_of_new_pages(keep: bool, wish: str | None = None) -> list[float]:
    script, environment = PAGES.format(keep=keep), {} if wish is None else {"MALLOC_TRIM_THRESHOLD_": wish}
    told = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    return [float(line) for line in told.stdout.splitlines()]


@LINUX
def test_what_dask_has_given_back_at_once_is_kept_for_the_next_array() -> None:
    assert max(shares_of_new_pages(keep=False, wish="65536")) > 0.9
    assert max(shares_of_new_pages(keep=True, wish="65536")) < 0.2


@LINUX
def test_what_a_user_has_given_back_at_once_still_is() -> None:
    assert max(shares_of_new_pages(keep=True, wish="65537")) > 0.9


def test_a_process_for_our_work_does_not_inherit_what_dask_wishes_and_all_else() -> None:
    assert without_dasks_wish({"MALLOC_TRIM_THRESHOLD_": "65536", "A": "65536"}) == {"A": "65536"}
    assert without_dasks_wish({"MALLOC_TRIM_THRESHOLD_": "0"}) == {"MALLOC_TRIM_THRESHOLD_": "0"}
