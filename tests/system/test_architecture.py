"""The rules of the design that a machine can check. Each is also shown a source that breaks it."""

import ast
from collections.abc import Iterator
from pathlib import Path
from statistics import median

ROOT = Path(__file__).parents[2]
Sources = dict[str, str]  # dotted name of a module -> its text

GROUND = {"batch", "errors", "section", "seeds", "run_folder"}
INGREDIENTS = {"losses", "patches", "samplers", "memory", "hard_negatives", "patch_contrast"}
INGREDIENTS |= {"teacher", "pseudo_labels", "augment", "networks"}
RECORDS = {"metrics", "statistics", "pictures", "progress", "provenance", "run_log", "stopping"}
RECORDS |= {"calibration", "health", "object_metrics", "page"}
JOBS = {"experiment", "validation", "predict", "evaluate", "comparison", "report", "report_health", "demo"}
JOBS |= {"grid", "instances", "outlook", "telling_slice"}
MAY_IMPORT = {
    **dict.fromkeys(GROUND, GROUND),
    **dict.fromkeys(INGREDIENTS, INGREDIENTS | {"batch", "section"}),
    **dict.fromkeys(RECORDS, RECORDS | GROUND),
    "methods": INGREDIENTS | {"batch", "errors", "section"},
    "data": {"augment"} | GROUND,
    "config": {"methods", "data", "augment", "networks", "patch_contrast"} | GROUND,
    "engine": {"methods", "config"} | RECORDS | GROUND,
    **dict.fromkeys(JOBS, JOBS | {"engine", "config", "methods", "data"} | INGREDIENTS | RECORDS | GROUND),
    "cli": JOBS | {"engine", "config", "methods", "data"} | RECORDS | GROUND,
}
"""What each part of the package may import beside itself. A new part needs a place here."""

DECLARATIVE = {"batch", "errors", "section"}  # nothing in them can go wrong
HEAVY = {"torch", "monai", "lightning", "scipy", "matplotlib"}
LONGEST, MEDIAN = 45, 8  # lines of code in a function


def project() -> Sources:
    files = (ROOT / "src").rglob("*.py")
    parts = {file: file.relative_to(ROOT / "src").with_suffix("").parts for file in files}
    return {".".join(parts[file]).removesuffix(".__init__"): file.read_text(encoding="utf-8") for file in parts}


def room(module: str) -> str:
    """patchcl.contrast.loss -> losses."""
    return [*module.split("."), ""][1]


def imports(nodes: Iterator[ast.AST], sources: Sources) -> Iterator[str]:
    """Every module that is named in an import; a relative one by its dots, so that no rule knows it."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            names = [f"{module}.{alias.name}" for alias in node.names]
            yield from (name if name in sources else module for name in names)


def wrong_ways(sources: Sources) -> list[str]:
    return [
        f"{name} imports {target}"
        for name, text in sources.items()
        for target in imports(ast.walk(ast.parse(text)), sources)
        if target.startswith(("patchcl.", ".")) and room(target) not in MAY_IMPORT.get(room(name), set()) | {room(name)}
    ]


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


def without_test(sources: Sources, tests: set[str]) -> list[str]:
    packages = {name.rpartition(".")[0] for name in sources} | {"patchcl"}
    modules = {name: name.split(".")[-1] for name in sources if name not in packages}
    return [name for name, stem in modules.items() if stem not in DECLARATIVE and f"test_{stem}" not in tests]


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


def test_imports_go_one_way() -> None:
    assert wrong_ways(project()) == []
    for name, line in {
        "patchcl.methods.bad": "from patchcl.data.preprocessing.plan import Plan",
        "patchcl.data.bad": "from patchcl import methods",
        "patchcl.losses.bad": "import patchcl.training.loop",
        "patchcl.training.loop": "def late():\n    from patchcl.data.loading.image_store import Bank",
        "patchcl.inference.predict": "from patchcl.cli import app",
        "patchcl.networks.ema": "from .data import plan",
        "patchcl.new": "from patchcl.core.batch import IGNORE",
    }.items():
        assert len(wrong_ways(project() | {name: line})) == 1, name


def test_the_command_line_starts_without_heavy_libraries() -> None:
    assert heavy_imports("patchcl.cli", project()) == []
    bad = {
        "patchcl": "",
        "patchcl.cli": "import patchcl.a.b\ndef verb():\n    import torch",
        "patchcl.a": "if TYPE_CHECKING:\n    import monai\nelse:\n    from patchcl import c",
        "patchcl.a.b": "",
        "patchcl.c": "try:\n    from torch.nn import Module\nexcept ImportError:\n    pass",
    }
    assert heavy_imports("patchcl.cli", bad) == ["patchcl.cli -> patchcl.a -> patchcl.c -> torch.nn"]


def test_every_module_has_a_test_of_its_name() -> None:
    tests = {file.stem for file in (ROOT / "tests").rglob("test_*.py")}
    assert without_test(project(), tests) == []
    assert without_test({"patchcl.data": "", "patchcl.data.new": ""}, tests) == ["patchcl.data.new"]


def test_functions_are_small() -> None:
    assert too_large(project()) == []
    assert too_large({"m": "def f():\n" + "    a = 1\n" * (LONGEST + 1)}) == ["m.f:1 has 46", "half have over 46"]
    text = 'def f():\n    """Two\n    lines."""\n    # why\n    a = (\n        1\n    )\n\n    return a\n'
    assert function_sizes({"m": text}) == {"m.f:1": 4}
