"""The rules of the design that a machine can check. Each is also shown a source that breaks it."""

import ast
from collections.abc import Iterator
from pathlib import Path
from statistics import median

ROOT = Path(__file__).parents[2]
Sources = dict[str, str]  # dotted name of a module -> its text

ROOMS = (
    *(
        "cli __init__ api __main__",
        "demo",
        "comparison",
        "reports",
        "training",
        "figures",
        "evaluation",
        "inference",
    ),
    *("runs", "config", "methods", "contrast", "data", "augment", "losses", "networks", "core"),
)
"""What stands in src/patchcl, from the top to the ground: each may import itself and what is below it."""
LEVELS = {name: level for level, names in enumerate(ROOMS) for name in names.split()}
STRANGERS = {"methods", "data"}
"""They meet in the tuples of `core.batch` alone."""

NO_LOGIC = {
    "patchcl.core.batch": "tuples of tensors",
    "patchcl.core.choices": "lists of names",
    "patchcl.core.errors": "one exception, and the exit code it stands for",
    "patchcl.core.version": "one string",
    "patchcl.__main__": "calls the command line, whose tests start it",
}
"""Modules in which nothing can go wrong, and why."""
PARSERS = {"json.load", "json.loads", "yaml.load", "yaml.safe_load"}
HEAVY = {"torch", "monai", "lightning", "scipy", "matplotlib"}
LONGEST, MEDIAN = 45, 8  # lines of code in a function
LONGEST_MODULE = 300  # lines, with all that stands in it
MOST_ENTRIES = 20  # modules and folders at the top of src/patchcl


def project() -> Sources:
    files = (ROOT / "src").rglob("*.py")
    parts = {file: file.relative_to(ROOT / "src").with_suffix("").parts for file in files}
    return {".".join(parts[file]).removesuffix(".__init__"): file.read_text(encoding="utf-8") for file in parts}


def room(module: str) -> str:
    """patchcl.contrast.loss -> contrast; the package itself -> __init__."""
    return [*module.split("."), "__init__"][1]


def imports(nodes: Iterator[ast.AST], sources: Sources) -> Iterator[str]:
    """Every module that is named in an import; a relative one by its dots, so that no rule knows it."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            names = [f"{module}.{alias.name}" for alias in node.names]
            yield from (name if name in sources else module for name in names)


def wrong_ways(sources: Sources, known: Sources | None = None) -> list[str]:
    return [
        f"{name} imports {target}"
        for name, text in sources.items()
        for target in imports(ast.walk(ast.parse(text)), known or sources)
        if target.startswith(".") or (target.split(".")[0] == "patchcl" and not leads_down(room(name), room(target)))
    ]


def leads_down(start: str, end: str) -> bool:
    if start not in LEVELS or end not in LEVELS or {start, end} == STRANGERS:
        return False
    return start == end or LEVELS[start] < LEVELS[end] or LEVELS[start] == LEVELS[end] == 0


def run_at_import(tree: ast.Module) -> Iterator[ast.AST]:
    """What happens when a module is imported: all but the bodies of functions and what only type checkers see."""
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            waiting += node.orelse
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield node
            waiting += ast.iter_child_nodes(node)


def heavy_imports(start: str, sources: Sources) -> list[str]:
    """Chains of imports that load something heavy as soon as `start` is imported."""
    found, waiting, seen = [], [[start]], {start}
    while waiting:
        chain = waiting.pop()
        for target in imports(run_at_import(ast.parse(sources[chain[-1]])), sources):
            if target.split(".")[0] in HEAVY:
                found.append(" -> ".join([*chain, target]))
            parts = target.split(".")
            parents = {".".join(parts[:length]) for length in range(1, len(parts) + 1)}  # they are run as well
            waiting += [[*chain, parent] for parent in parents & set(sources) - seen]
            seen |= parents
    return found


def mirror(module: str) -> str:
    """patchcl.contrast.loss -> contrast/test_loss.py."""
    *folders, name = module.split(".")[1:]
    return "/".join([*folders, f"test_{name}.py"])


def without_test(sources: Sources, tests: set[str]) -> list[str]:
    """Modules with logic that have no test at the same path; an __init__ is run by the tests of its folder."""
    packages = {name.rpartition(".")[0] for name in sources} | {"patchcl"}
    modules = [name for name in sources if name not in packages and name not in NO_LOGIC]
    return [name for name in modules if mirror(name) not in tests]


def without_source(sources: Sources, tests: set[str]) -> list[str]:
    """Tests whose path is that of no module; tests/system is for what crosses rooms."""
    known = {mirror(name) for name in sources if name != "patchcl"}
    return sorted(test for test in tests - known if not test.startswith("system/"))


def unguarded(sources: Sources) -> list[str]:
    """Calls that read JSON or YAML without the care of `core.documents`, such as that nothing is nested too deep."""
    return [
        f"{name}:{node.lineno}"
        for name, text in sources.items()
        for node in ast.walk(ast.parse(text))
        if name != "patchcl.core.documents" and isinstance(node, ast.Attribute) and ast.unparse(node) in PARSERS
    ]


def too_long(sources: Sources) -> list[str]:
    lines = {name: len(text.splitlines()) for name, text in sources.items()}
    return [f"{name} has {count} lines" for name, count in lines.items() if count > LONGEST_MODULE]


def entries(sources: Sources) -> set[str]:
    """What stands at the top of src/patchcl; `__init__` and `__main__` have to be there and do not count."""
    return {room(name) for name in sources} - {"__init__", "__main__"}


def function_sizes(sources: Sources) -> dict[str, int]:
    """Lines of code in the body of every function; docstrings, comments and blank lines are free."""
    sizes = {}
    for name, text in sources.items():
        lines = text.splitlines()
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                body = node.body[1:] if ast.get_docstring(node) is not None else node.body
                code = lines[body[0].lineno - 1 : node.end_lineno] if body else []
                sizes[f"{name}.{node.name}:{node.lineno}"] = sum(line.strip()[:1] not in ("", "#") for line in code)
    return sizes


def too_large(sources: Sources) -> list[str]:
    sizes = function_sizes(sources)
    middle = median(sizes.values())
    long = [f"{name} has {size}" for name, size in sizes.items() if size > LONGEST]
    return long + [f"half have over {middle:g}"] * (middle > MEDIAN)


def test_imports_only_go_down() -> None:
    known = project()
    assert wrong_ways(known) == []
    for name, line in {
        "patchcl.methods.bad": "from patchcl.data.preprocessing.plan import Plan",
        "patchcl.data.bad": "from patchcl import methods",
        "patchcl.losses.bad": "import patchcl.training.loop",
        "patchcl.training.bad": "def late():\n    from patchcl.reports import page",
        "patchcl.inference.bad": "from patchcl.cli import app",
        "patchcl.networks.bad": "from .data import plan",
        "patchcl.core.bad": "from patchcl import __version__",
        "patchcl.config": "import patchcl",
        "patchcl.new": "from patchcl.core.batch import IGNORE",
    }.items():
        assert len(wrong_ways({name: line}, known)) == 1, name


def test_every_room_has_its_level() -> None:
    assert entries(project()) <= LEVELS.keys()
    assert {name for name in LEVELS if (ROOT / "src" / "patchcl" / name).is_dir()} == {
        path.parent.name for path in (ROOT / "src" / "patchcl").glob("*/__init__.py")
    }


def test_the_top_is_seen_at_a_glance() -> None:
    assert len(entries(project())) <= MOST_ENTRIES
    assert len(entries({f"patchcl.room{number}.part": "" for number in range(21)})) > MOST_ENTRIES


def test_the_command_line_starts_without_heavy_libraries() -> None:
    for light in ("patchcl.cli", "patchcl.config", "patchcl.comparison.cell"):
        assert heavy_imports(light, project()) == []
    bad = {
        "patchcl": "",
        "patchcl.cli": "import patchcl.a.b\ndef verb():\n    import torch",
        "patchcl.a": "if TYPE_CHECKING:\n    import monai\nelse:\n    from patchcl import c",
        "patchcl.a.b": "",
        "patchcl.c": "try:\n    from torch.nn import Module\nexcept ImportError:\n    pass",
    }
    assert heavy_imports("patchcl.cli", bad) == ["patchcl.cli -> patchcl.a -> patchcl.c -> torch.nn"]


def test_tests_mirror_the_source() -> None:
    tests = {file.relative_to(ROOT / "tests").as_posix() for file in (ROOT / "tests").rglob("test_*.py")}
    assert without_test(project(), tests) == []
    assert without_source(project(), tests) == []
    made = {"patchcl": "", "patchcl.data": "", "patchcl.data.new": "", "patchcl.core.batch": "", "patchcl.top": ""}
    assert without_test(made, {"test_new.py", "test_top.py"}) == ["patchcl.data.new"]
    assert without_source(made, {"data/test_new.py", "test_new.py", "system/test_laws.py"}) == ["test_new.py"]


def test_what_somebody_may_have_edited_is_read_in_one_place() -> None:
    assert unguarded(project()) == []
    text = "import json, yaml\njson.dumps(1)\njson.loads(a)\nyaml.safe_load(b)\njson.load(c)"
    assert unguarded({"patchcl.core.documents": text, "m": text}) == ["m:3", "m:4", "m:5"]


def test_what_is_excepted_is_there() -> None:
    assert NO_LOGIC.keys() - {"patchcl.__main__"} <= project().keys()


def test_modules_are_short() -> None:
    assert too_long(project()) == []
    assert too_long({"m": "a = 1\n" * 301, "n": "a = 1\n" * 300}) == ["m has 301 lines"]


def test_functions_are_small() -> None:
    assert too_large(project()) == []
    assert too_large({"m": "def f():\n" + "    a = 1\n" * (LONGEST + 1)}) == ["m.f:1 has 46", "half have over 46"]
    text = 'def f():\n    """Two\n    lines."""\n    # why\n    a = (\n        1\n    )\n\n    return a\n'
    assert function_sizes({"m": text}) == {"m.f:1": 4}
