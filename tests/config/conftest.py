"""A settings file and a plan."""

from pathlib import Path

import pytest

from patchcl.data.preprocessing.plan import Plan


@pytest.fixture
def written(tmp_path):
    def write(text: str) -> Path:
        file = tmp_path / "settings.yaml"
        file.write_text(text, encoding="utf-8")
        return file

    return write


@pytest.fixture
def plan(tmp_path):
    return Plan(
        dimensions=2,
        fit="resize",
        size=(32, 32),
        normalise="percentile",
        channels=("MRI",),
        classes=("0", "A"),
        patch_fraction=0.2,
        labeled_per_batch=3,
        unlabeled_per_batch=2,
    )
