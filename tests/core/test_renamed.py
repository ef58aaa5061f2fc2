"""Settings of version 0.1: which are known, what they are called now."""

from patchcl.core.renamed import RENAMED_SETTINGS, old_settings, with_new_names


def test_what_was_saved_keeps_its_meaning():
    saved = {"method": {"name": "patchcl", "paste_chance": 0.25, "contrast": {"negatives": 3, "tau": 1}}, "seed": 1}
    renamed = with_new_names(saved)
    assert renamed == {
        "method": {"name": "patchcl", "labeled_mix_probability": 0.25, "contrast": {"num_negatives": 3, "tau": 1}},
        "seed": 1,
    }
    assert saved["method"]["paste_chance"] == 0.25
    assert with_new_names(renamed) == renamed


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
