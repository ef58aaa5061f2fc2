"""A call for a run that has begun: the same goes on, wherever it is trained; what differs is named and refused."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

from patchcl.config import load_settings
from patchcl.core.errors import UserError
from patchcl.data.splits import load_split, save_split
from patchcl.runs.folder import RunFolder
from patchcl.training.begun import require_same


@pytest.fixture
def asks(cardiac, trained, tiny):
    """Asks for the run of the fixture `trained`, with more settings than it was begun with."""
    return lambda *more: require_same(RunFolder(trained), cardiac, load_settings(None, [*tiny, *more]))


@pytest.mark.parametrize(
    "more",
    [
        (),
        ("training.device=auto", "training.scratch=/somewhere", "training.memory_gib=3", "cache=/elsewhere"),
        ("training.devices=2", "training.nodes=2"),
        ("training.precision=auto", "training.compile=false", "training.seed=0", "split.labeled=null"),
    ],
)
def test_the_same_settings_go_on_wherever(more, asks):
    asks(*more)


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ("training.steps=7", r"begun otherwise than this call asks for:\n  training\.steps was 6, now 7\n"),
        ("training.seed=1", r"training\.seed was 0, now 1"),
        ("split.labeled=2", r"split\.labeled was None, now 2"),
        ("preset=matched", r"preset was None, now matched"),
        ("training.precision=bf16-mixed", r"training\.precision was 32-true, now bf16-mixed"),
        ("method.contrast.weight=0.5", r"method\.contrast\.weight was 0\.01, now 0\.5"),
        ("plan.size=[16, 16]", r"plan\.size was \[32, 32\], now \[16, 16\]"),
    ],
)
def test_what_differs_is_named(more, told, asks, trained):
    with pytest.raises(UserError, match=told) as error:
        asks(more)
    assert f"as it was begun with: patchcl resume {trained}" in str(error.value)
    assert ("--accept-changes" in str(error.value)) == ("steps" not in more)


def test_a_setting_that_is_left_out_differs_as_well(cardiac, trained, tiny):
    with pytest.raises(UserError, match=r"\n  training\.validate_every was 3, now \d+\n"):
        require_same(
            RunFolder(trained), cardiac, load_settings(None, [each for each in tiny if "validate" not in each])
        )


def test_a_split_file_is_known_by_who_is_where(asks, trained, tmp_path):
    file, split = tmp_path / "split.json", load_split(RunFolder(trained).split)
    save_split(file, split)
    content = json.loads(file.read_text())
    asks(f"split.file={file}")
    content["labeled"][0], content["validation"][0] = content["validation"][0], content["labeled"][0]
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"\n  the split: who is on which side\n"):
        asks(f"split.file={file}")


def test_a_saved_plan_is_known_by_what_it_holds(asks, trained, tmp_path):
    file = Path(shutil.copy(RunFolder(trained).plan, tmp_path / "plan.yaml"))
    asks(f"plan.file={file}")
    file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | {"normalise": "z_score"}))
    with pytest.raises(UserError, match=r"plan: normalise was .*, now z_score"):
        asks(f"plan.file={file}")
