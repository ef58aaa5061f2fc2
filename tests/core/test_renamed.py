"""Settings of version 0.1: which are known, what they are called now."""

from patchcl.core.renamed import RENAMED_SETTINGS, brought_up_to_date, old_settings


def test_what_was_saved_keeps_its_meaning():
    saved = {"method": {"name": "patchcl", "paste_chance": 0.25, "contrast": {"negatives": 3, "tau": 1}}, "seed": 1}
    renamed = brought_up_to_date(saved)
    assert renamed == {
        "method": {"name": "patchcl", "labeled_mix_probability": 0.25, "contrast": {"num_negatives": 3, "tau": 1}},
        "seed": 1,
    }
    assert saved["method"]["paste_chance"] == 0.25
    assert brought_up_to_date(renamed) == renamed


def test_what_was_not_done_stays_undone():
    old, own = {"network": {"norm": "batch"}, "plan": {}}, {"network": {"deep_supervision": True}}
    assert brought_up_to_date(old) == {"network": {"norm": "batch", "deep_supervision": False}, "plan": {}}
    assert old == {"network": {"norm": "batch"}, "plan": {}}
    assert brought_up_to_date(own) == own


def test_old_names_are_found_wherever_they_stand():
    tree = {"method": {"contrast": {"memory_least": 1}}, "plan": {"restore": "linear"}, "restore": 1}
    assert dict(old_settings(tree)) == {
        "method.contrast.memory_least": "method.contrast.memory_min_size",
        "plan.restore": "plan.output_interpolation",
    }


def test_what_is_no_section_holds_no_settings():
    assert list(old_settings({"method": "patchcl", "plan": None, "augment": [1]})) == []


def test_new_names_are_no_old_ones():
    assert not set(RENAMED_SETTINGS) & set(RENAMED_SETTINGS.values())
