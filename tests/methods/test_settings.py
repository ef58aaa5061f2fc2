"""What can be set of each method: whose it is, and what a stage's length means."""

from typing import get_args

import pytest
from pydantic import ValidationError

from patchcl.methods import METHODS, method_class, method_names, settings_classes
from patchcl.methods.settings import PatchCLSettings


def test_a_name_in_the_register_is_the_one_that_its_settings_have():
    literals = [get_args(kind.model_fields["name"].annotation) for kind in settings_classes()]
    assert literals == [(name,) for name in method_names()]
    assert set(METHODS) >= {"supervised", "mean_teacher", "patchcl"}
    assert [method_class(name).settings_class for name in method_names()] == list(settings_classes())


def test_every_fraction_of_the_run_has_a_limit_in_steps():
    stages = {"warm_up_fraction", "ramp_fraction", "pretrain_fraction"}
    for kind in settings_classes():
        for name in stages & set(kind.model_fields):
            limit = name.replace("_fraction", "_max_steps")
            assert getattr(kind(**{name: 1.0}), limit) is None
            assert getattr(kind(**{name: 1.0, limit: 7}), limit) == 7


def test_an_unknown_setting_and_one_out_of_range_are_refused():
    for wrong in ({"teacher_decai": 0.9}, {"teacher_decay": 1.0}, {"ramp_max_steps": -1}):
        with pytest.raises(ValidationError, match=next(iter(wrong))):
            PatchCLSettings(**wrong)


def test_the_least_side_of_a_box_is_not_above_the_greatest():
    with pytest.raises(ValidationError, match=r"smallest_box 0\.7 must not be above largest_box 0\.6"):
        PatchCLSettings(smallest_box=0.7)
    assert PatchCLSettings(smallest_box=0.7, largest_box=0.7).smallest_box == 0.7
