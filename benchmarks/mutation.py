"""Which faults planted in methods, losses, contrast and evaluation do the tests miss? Mutation testing.

    python benchmarks/mutation.py                                # all four rooms, some hours on one core
    python benchmarks/mutation.py --sample 250                   # as many faults of each, drawn at random
    python benchmarks/mutation.py --rooms losses contrast        # some; what was found of the others stays
    python benchmarks/mutation.py --again                        # what was missed or not reached, with other tests
    python benchmarks/mutation.py --count                        # nothing; reasons are read anew

mutmut plants one fault at a time in a function, such as + for -, < for <=, None for an argument, or a number one
higher, and the tests of the same room must fail (for methods the laws of tests/system/test_laws.py, too).
Counts and survivors go to results/mutation.json, and from there to docs/reliability.md with benchmarks/document.py.
What no test can or should see stands in mutation.yaml with the reason. mutmut leaves out docstrings, annotations,
constants of modules and functions with decorators; pyproject.toml leaves out what is raised.

mutmut's own runner starts pytest anew for each fault, which takes longer than the tests; mutation_forks.py starts it
once for each room.
"""

import argparse
import difflib
import json
import os
import random
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml
from mutmut.mutation.file_mutation import MutatedFile, mutate_file_contents

from patchcl.core.files import write_json
from patchcl.runs.provenance import commit

ROOT = Path(__file__).parents[1]
WORK = ROOT / "mutants"
"""Ignored by git: for each room a copy of the package with all faults, what became of them, and the log of pytest."""
REASONS, RESULTS = ROOT / "benchmarks" / "mutation.yaml", ROOT / "benchmarks" / "results" / "mutation.json"
ROOMS = ("losses", "contrast", "methods", "evaluation")
LAWS = "tests/system/test_laws.py"
OUTCOMES = {0: "survived", 1: "killed"}
"""What exit codes say. Any other: the fault never came to an end, or brought pytest down."""


def main() -> None:
    """Plant faults, test each, and write what came of them."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--rooms", nargs="+", choices=ROOMS, default=ROOMS)
    arguments.add_argument(
        "--again", action="store_true", help="only what was missed or not tested yet; sources must be the same"
    )
    arguments.add_argument("--count", action="store_true", help="test nothing, only write what is there")
    arguments.add_argument("--sample", type=int, help="as many faults of each room, drawn at random; all without")
    given = arguments.parse_args()
    for room in () if given.count else given.rooms:
        test(room, given.again, given.sample)
    write_results()


def test(room: str, again: bool, sample: int | None) -> None:
    """Plant all faults of a room and test them or a `sample`, or `again` those that were missed or not tested yet.

    Their order is drawn once and for all, so that what was tested is a random sample wherever it ends.
    """
    planted, codes = (read(room, "changes"), read(room)) if again else (plant(room), {})
    drawn = random.Random(0).sample(sorted(planted), len(planted))[:sample]
    pending = [name for name in drawn if codes.get(name, 0) == 0]
    (WORK / f"{room}.pending").write_text("\n".join(pending), encoding="utf-8")
    write_json(WORK / f"{room}.json", codes)
    paths = os.pathsep.join([str(WORK / room), str(ROOT / "benchmarks")])
    tests = [f"tests/{room}", *([LAWS] if room == "methods" else [])]
    settings = ["addopts=--import-mode=importlib --strict-markers", "tmp_path_retention_policy=none"]
    options = ["-qq", "--tb=native", "--no-summary", *(part for each in settings for part in ("-o", each))]
    without = ("cacheprovider", "unraisableexception", "threadexception")  # a fork ends what belongs to another process
    plugins = ["-p", "mutation_forks", *(part for each in without for part in ("-p", f"no:{each}"))]
    environment = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "MUTANTS": str(WORK / room)}
    with (WORK / f"{room}.log").open("w", encoding="utf-8") as log:
        command = [sys.executable, "-m", "pytest", *options, *plugins, *tests]
        subprocess.run(command, cwd=ROOT, env=environment, stdout=log, stderr=log, check=True)


def plant(room: str) -> dict[str, tuple[str, str]]:
    """Make a copy of the package with all faults of a room, each asleep; keeps lines as they were and are, by name."""
    shutil.rmtree(WORK / room, ignore_errors=True)
    shutil.copytree(ROOT / "src", WORK / room, ignore=shutil.ignore_patterns("__pycache__"))
    planted = {}
    for path in sorted((WORK / room / "patchcl" / room).glob("*.py")):
        mutated = mutate_file_contents(str(path), path.read_text(encoding="utf-8"))
        path.write_text(mutated.code, encoding="utf-8")
        module = f"patchcl.{room}" + ("" if path.stem == "__init__" else f".{path.stem}")
        planted |= {f"{module}.{name}": change(mutated, name) for name in mutated.mutant_names}
    write_json(WORK / f"{room}.changes.json", planted)
    return planted


def change(mutated: MutatedFile, name: str) -> tuple[str, str]:
    """The lines of a function that a fault changes, and what it makes of them."""
    lines, original = mutated.code.splitlines(), f"{name.partition('__mutmut_')[0]}__mutmut_orig"
    spans = [mutated.line_span_by_function_name[each] for each in (original, name)]
    was, now = ([line.strip() for line in lines[span.start - 1 : span.end]] for span in spans)
    now = [line.replace(f"{name}(", f"{original}(") for line in now]
    blocks = difflib.SequenceMatcher(None, was, now, autojunk=False).get_opcodes()
    changed = [block for block in blocks if block[0] != "equal"]
    return (
        " ".join(" ".join(was[start:end]) for _, start, end, _, _ in changed),
        " ".join(" ".join(now[start:end]) for _, _, _, start, end in changed),
    )


def write_results() -> None:
    """Counts of every room, and what survived with the reason; rooms without results here stay as they are."""
    results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {"rooms": {}, "survivors": []}
    reasons = known_reasons()
    for room in ROOMS:
        if codes := read(room):
            changes = read(room, "changes")
            results["rooms"][room] = counted(codes, len(changes))
            results["survivors"] = [each for each in results["survivors"] if not each["function"].startswith(room)]
            results["survivors"] += [survivor(name, changes[name], reasons) for name in changes if codes.get(name) == 0]
    write_json(RESULTS, results)
    for each in results["survivors"]:
        if not each["reason"]:
            print(f"{each['function']}\n  - {each['was']}\n  + {each['now']}")
    print(results["rooms"])


def counted(codes: dict[str, int], planted: int) -> dict[str, Any]:
    """What became of the faults of a room, and what they were planted in."""
    outcomes = Counter(OUTCOMES.get(code, "never ended") for code in codes.values())
    versions = {"commit": commit(), "mutmut": metadata.version("mutmut"), "torch": metadata.version("torch")}
    return {"planted": planted, "tested": len(codes), **dict(sorted(outcomes.items())), **versions}


def survivor(name: str, lines: tuple[str, str], reasons: Sequence[tuple[str, str, str]]) -> dict[str, str]:
    """A fault that no test has seen, and why none has; "" where nobody has said."""
    function, (was, now) = readable(name), lines
    known = (reason for place, part, reason in reasons if place in ("*", function) and part in now)
    return {"function": function, "was": was, "now": now, "reason": next(known, "")}


def readable(name: str) -> str:
    """The function that a fault is in, such as losses.supervised.one_hot."""
    module, _, function = name.removeprefix("patchcl.").partition("__mutmut_")[0].rpartition(".")
    return f"{module}.{function.removeprefix('xǁ').removeprefix('x_').replace('ǁ', '.')}"


def known_reasons() -> list[tuple[str, str, str]]:
    """From mutation.yaml, reason -> function, or * for all -> what the changed lines hold: function, that, reason."""
    content = yaml.safe_load(REASONS.read_text(encoding="utf-8"))
    return [
        (function, part, reason)
        for reason, functions in content.items()
        for function, parts in functions.items()
        for part in parts
    ]


def read(room: str, what: str = "") -> dict[str, Any]:
    """Exit codes of the faults of a room that were tested, or what the faults change; empty before the first time."""
    path = WORK / (f"{room}.{what}.json" if what else f"{room}.json")
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return content


if __name__ == "__main__":
    os.chdir(ROOT)  # where mutmut looks for its settings
    main()
