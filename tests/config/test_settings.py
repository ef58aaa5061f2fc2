"""The tree is frozen, follows the plan, and is checked without torch."""

import subprocess
import sys

import pytest
from pydantic import ValidationError

from patchcl.config import load_settings, planned, read_settings
from patchcl.config.files import settings_yaml
from patchcl.core.errors import UserError
from patchcl.data.preprocessing.plan import BATCH

MIRRORS = ("augment.flip=true", "augment.rotate_90=true")


def test_the_patches_of_the_plan_are_those_of_the_method(plan):
    settings = load_settings(overrides=["method.contrast.weight=0.3", *MIRRORS])
    contrast = planned(settings, plan).method.contrast
    assert contrast == settings.method.contrast.model_copy(update={"patch_fraction": 0.2})
    assert planned(settings, plan.model_copy(update=dict.fromkeys(BATCH))).training == settings.training
    bare = plan.model_copy(update={"patch_fraction": None, **dict.fromkeys(BATCH)})
    assert planned(settings, bare) == settings
    plan = plan.model_copy(update=dict.fromkeys(BATCH))
    supervised = load_settings(overrides=["method=supervised", *MIRRORS])
    assert planned(supervised, plan) == supervised


def test_the_batch_of_a_plan_is_at_most_that_of_the_settings_and_what_is_set_is_known_to_the_plan(plan):
    training = planned(load_settings(), plan).training
    assert (training.labeled_per_batch, training.unlabeled_per_batch) == (3, 2)
    few = load_settings(overrides=["training.labeled_per_batch=1"])
    assert planned(few, plan).training.labeled_per_batch == 1
    assert (few.plan.labeled_per_batch, few.plan.unlabeled_per_batch) == (1, None)


def test_classes_that_differ_by_their_side_are_not_mirrored_unless_asked_for(plan):
    sides = plan.model_copy(update={"classes": ("background", "left kidney", "right kidney")})
    assert planned(load_settings(), plan).augment.flip
    augment = planned(load_settings(), sides).augment
    assert (augment.flip, augment.rotate_90, augment.scale) == (False, False, load_settings().augment.scale)
    assert planned(load_settings(overrides=["augment.flip=true"]), sides).augment.flip
    assert planned(load_settings(overrides=["augment.flip=false"]), plan).augment.flip is False


@pytest.mark.parametrize("chosen", [[], ["preset=matched"], ["preset=published"]])
def test_neither_a_preset_nor_a_file_that_spells_out_all_settings_asks_for_mirrors(plan, tmp_path, chosen):
    """As the spec of a comparison and the settings of folds do."""
    (tmp_path / "settings.yaml").write_text(settings_yaml(load_settings(overrides=chosen)))
    sides = plan.model_copy(update={"classes": ("background", "left kidney", "right kidney")})
    for settings in (load_settings(overrides=chosen), read_settings(tmp_path / "settings.yaml")):
        assert (planned(settings, sides).augment.flip, planned(settings, sides).augment.rotate_90) == (False, False)
        assert (planned(settings, plan).augment.flip, planned(settings, plan).augment.rotate_90) == (True, True)


def test_settings_do_not_change_once_made():
    with pytest.raises(ValidationError, match="frozen"):
        load_settings().training.steps = 3


def test_group_norm_is_refused_where_channels_do_not_make_groups():
    with pytest.raises(UserError, match="12"):
        load_settings(overrides=["network.norm=group", "network.features=[8, 12]"])


def test_the_tree_is_checked_without_torch():
    code = "import sys; from patchcl.config import load_settings; load_settings(None, ['network.norm=group']); "
    code += "print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"]


def test_a_method_knows_what_its_images_have_been_through(plan):
    """Which symmetries it may average over, and how strong a strong view is."""
    chosen = ["method.average_symmetries=true", "augment.strong_intensity=0.7", "network.features=[4, 8]"]
    method = load_settings(overrides=[*chosen, "augment.flip=false"]).build_method(plan)
    assert method.augment.strong_intensity == 0.7
    assert {symmetry.turns for symmetry in method.symmetries} == {1, 2, 3}
    flat = plan.model_copy(update={"fit": "crop", "spacing_mm": (1.0, 3.0)})
    stretched = load_settings(overrides=[*chosen, "augment.flip=false"]).build_method(flat)
    assert {symmetry.turns for symmetry in stretched.symmetries} == {2}
