"""What the documents name is there: files, tests, links and settings; and the example of the README runs."""

import ast
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import get_args

import pytest
from pydantic import BaseModel

import patchcl
from patchcl.config import Settings
from patchcl.data.dataset import read_dataset

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "patchcl"
DOCUMENTS = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md")))
MADE_UP = {"src/patchcl/methods/self_training.py", "tests/methods/test_self_training.py"}
"""The example of CONTRIBUTING.md, for the reader to write."""
FILE_SUFFIXES = ("yaml", "json")  # `plan.yaml` is a file and no setting

EVERY_DOCUMENT = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)


def missing_files(text: str) -> list[str]:
    """Paths from the top of the repository and modules, also as docs/method.md names them from src/patchcl, that are
    not there; capitals, as in NAME.json, and * stand for any name.
    """
    paths = re.findall(r"(?<![\w/.])(?:src|tests|benchmarks|experiments|docs)/[\w./*-]*[\w/*]", text)
    modules = re.findall(r"(?<![\w/.])[\w/]+\.py\b", text)
    patterns = {path: re.sub(r"\b[A-Z]+\b", "*", path) for path in dict.fromkeys([*paths, *modules])}
    return [
        path
        for path, pattern in patterns.items()
        if path not in MADE_UP and not any(next(folder.glob(pattern), None) for folder in (ROOT, SOURCE))
    ]


def missing_links(text: str, folder: Path) -> list[str]:
    """Links to files, from `folder`, or to headings of a document, that lead nowhere."""
    targets = [target for target in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in target]
    parts = {target: target.partition("#") for target in targets}
    files = {target: folder / file if file else None for target, (file, _, _) in parts.items()}
    return [
        target
        for target, (_, _, heading) in parts.items()
        if not ((files[target] or ROOT).exists() and (not heading or heading in anchors(files[target], text)))
    ]


def anchors(file: Path | None, text: str) -> set[str]:
    """What links call the headings of `file`, or of this `text`."""
    lines = (text if file is None else file.read_text(encoding="utf-8")).splitlines()
    titles = [line.lstrip("#").strip().lower() for line in lines if line.startswith("#")]
    return {re.sub(r"[^\w\- ]", "", title).replace(" ", "-") for title in titles}


def missing_tests(text: str) -> list[str]:
    """Tests, as FILE::NAME or, in the file that was named before, ::NAME, that are not there."""
    missing, file = [], ""
    for named, test in re.findall(r"([\w/]+\.py)?::(\w+)", text):
        file = named or file
        path = ROOT / file
        if not path.is_file() or test not in functions(path):
            missing.append(f"{file}::{test}")
    return missing


def functions(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def unknown_settings(text: str) -> list[str]:
    """Settings in backticks, or after --set, that the tree does not have; `section.*` stands for all below."""
    spans = [*re.findall(r"`([^`\n]+)`", text), *re.findall(r"--set (\S+)", text)]
    sections = "|".join(["plan", "split", "augment", "training", "network", "method"])
    named = [key for span in spans for key in re.findall(rf"(?<![\w./])(?:{sections})\.[a-z_0-9.]+", span)]
    known = set(keys(Settings))
    return [key for key in named if key.rstrip(".") not in known and not key.endswith(FILE_SUFFIXES)]


def keys(kind: type[BaseModel], above: str = "") -> Iterator[str]:
    """Every dotted key of a settings tree, of all methods."""
    for name, field in kind.model_fields.items():
        yield f"{above}{name}"
        for below in models([field.annotation]):
            yield from keys(below, f"{above}{name}.")


def models(annotations: Iterable[object]) -> Iterator[type[BaseModel]]:
    for annotation in annotations:
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            yield annotation
        else:
            yield from models(get_args(annotation))


@EVERY_DOCUMENT
def test_every_file_that_is_named_is_there(document):
    text = document.read_text(encoding="utf-8")
    assert missing_files(text) == []
    assert missing_links(text, document.parent) == []


@EVERY_DOCUMENT
def test_every_test_that_is_named_is_there(document):
    assert missing_tests(document.read_text(encoding="utf-8")) == []


@EVERY_DOCUMENT
def test_every_setting_that_is_named_is_one(document):
    assert unknown_settings(document.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("file", sorted((ROOT / "experiments").glob("*.yaml")), ids=lambda path: path.stem)
def test_an_experiment_names_files_and_settings_that_are_there(file):
    text = file.read_text(encoding="utf-8")
    assert missing_files(text) == []
    assert unknown_settings(text) == []


def test_what_is_not_there_is_found():
    good = "`losses/schedules.py`, `cli/verbs.py`, src/patchcl/cli/verbs.py, docs/*.md, tests/system."
    assert missing_files(good) == []
    assert missing_files("`losses/none.py` none.py `experiments/none.yaml`, src/patchcl/none, docs/none.md.") == [
        *("experiments/none.yaml", "src/patchcl/none", "docs/none.md", "losses/none.py", "none.py"),
    ]
    text = "# Two words\n[a](docs/data.md) [b](#two-words) [c](https://none.org) [d](docs/method.md#notation)"
    assert missing_links(text, ROOT) == []
    assert missing_links("[a](data.md) [b](#one) [c](docs/method.md#none)", ROOT) == [
        *("data.md", "#one", "docs/method.md#none"),
    ]
    good = "`tests/losses/test_schedules.py::test_ramps`"
    assert missing_tests(f"{good}, `::test_ramps`") == []
    assert missing_tests(f"{good} `::test_no` `losses/test_schedules.py::test_ramps`") == [
        *("tests/losses/test_schedules.py::test_no", "losses/test_schedules.py::test_ramps"),
    ]
    good = "`plan.size: [2, 2]` `method.contrast.*` `plan.yaml` --set method.box_fraction=1 `a.plan.none` plan.none"
    assert unknown_settings(good) == []
    bad = "`plan.sise`, `training.steps.none`, `train --set network.nrm=a` and --set method.contrast.none=1"
    assert unknown_settings(bad) == [
        *("plan.sise", "training.steps.none", "network.nrm", "network.nrm", "method.contrast.none"),
    ]


def test_the_readme_shows_every_room():
    (tree,) = re.findall(r"\n    src/patchcl/.*?\n\n", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    rooms = {file.parent.name for file in SOURCE.glob("*/__init__.py")}
    assert {name.removesuffix("/") for name in re.findall(r"\b\w+/", tree)} - {"src", "patchcl"} == rooms
    assert len(tree.splitlines()) <= 14


def test_the_python_example_of_the_readme_runs(cardiac, tmp_path, monkeypatch):
    (example,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert "steps=6000" in example
    (tmp_path / "my_data").symlink_to(cardiac)
    scan = next(case.images[0] for case in read_dataset(cardiac).cases)
    (tmp_path / "new_scans").mkdir()
    (tmp_path / "new_scans" / "anna_0000.nii.gz").symlink_to(scan)
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(example.replace("steps=6000", "steps=1, device='cpu'"), names)
    assert names["report"].problems == ()
    assert names["mask"].shape == patchcl.load_run("runs/all").predict(scan).mask.shape == names["uncertainty"].shape
