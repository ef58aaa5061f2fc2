"""Named variants: any settings under any name, and what is wrong with a file is said by name."""

from pathlib import Path

import pytest

from patchcl.comparison.spec import build_spec, job_of
from patchcl.comparison.spec_file import add_spec, read_spec
from patchcl.comparison.variants import changes, named_settings, read_variants
from patchcl.core.errors import UserError

VARIANTS = Path(__file__).parents[2] / "experiments" / "variants"
PLAIN = """
masks alone: {method: supervised}
plain: &plain {method: patchcl, training.steps: 3}
no contrast: {<<: *plain, method.contrast.weight: 0}
nested: {method: {name: fixmatch, consistency_weight: 0.5}, augment: {flip: false}}
"""


@pytest.fixture
def written(tmp_path):
    """Writes a file of variants."""

    def write(text):
        path = tmp_path / "variants.yaml"
        path.write_text(text)
        return path

    return write


@pytest.fixture
def specified(cardiac, tiny, written):
    """The spec of a comparison of variants."""

    def make(text=PLAIN, methods=(), baseline=None):
        return build_spec(cardiac, methods, [2], [0], None, tiny, written(text), baseline)

    return make


def test_every_variant_is_a_run_with_its_own_settings(specified, tmp_path):
    spec = specified()
    assert [run.run_id for run in spec.runs][2] == "labeled_2/no contrast/seed_0"
    alone, plain, without, nested = (job_of(spec, run, tmp_path, 1).settings for run in spec.runs)
    assert [each.method.name for each in (alone, plain, without, nested)] == [
        "supervised",
        "patchcl",
        "patchcl",
        "fixmatch",
    ]
    assert [each.training.steps for each in (alone, plain, without, nested)] == [6, 3, 3, 6]
    assert (plain.method.contrast.weight > 0, without.method.contrast.weight) == (True, 0)
    assert (nested.augment.flip, nested.method.consistency_weight, plain.augment.flip) == (False, 0.5, None)
    assert {each.split for each in (plain, without, nested)} == {alone.split}


def test_variants_go_on_and_more_may_be_added(specified, tmp_path):
    out = tmp_path / "out"
    first = add_spec(specified(), out)
    assert read_spec(out) == first
    more = add_spec(specified("other: {training.steps: 2}", ("unimatch",)), out)
    assert list(more.methods) == [*first.methods, "unimatch", "other"]
    assert [more.settings_of(name).training.steps for name in ("plain", "other", "unimatch")] == [3, 2, 6]
    with pytest.raises(UserError, match=r"training\.steps was 3, now 4"):
        add_spec(specified("plain: {method: patchcl, training.steps: 4}"), out)
    with pytest.raises(UserError, match=r"augment.flip was False, now None"):
        add_spec(specified("nested: {method: {name: fixmatch, consistency_weight: 0.5}}"), out)


def test_the_first_variant_must_be_beaten_unless_supervised_or_another_is_named(specified):
    assert specified().baseline == "masks alone"
    assert specified(methods=("supervised",)).baseline == "supervised"
    assert specified(baseline="plain").baseline == "plain"
    with pytest.raises(UserError, match="--baseline is 'nobody', which is not compared; choose one of masks alone"):
        specified(baseline="nobody")


def test_a_comparison_without_variants_is_what_it_was(make_spec):
    spec = make_spec(("unimatch+contrast", "supervised"))
    assert (spec.own, spec.baseline) == ({}, "supervised")


def test_who_must_be_beaten_stays_until_another_is_named(specified, tmp_path, capsys):
    out = tmp_path / "out"
    add_spec(specified("plain: {method: supervised}"), out)
    assert add_spec(specified("newcomer: {method: mean_teacher}"), out).baseline == "plain"
    assert "compare with" not in capsys.readouterr().out
    named = specified("newcomer: {method: mean_teacher}", baseline="newcomer")
    assert add_spec(named, out) == read_spec(out)
    assert read_spec(out).baseline == "newcomer"
    assert "Its tables compare with newcomer now, not with plain." in capsys.readouterr().out


def test_a_name_of_before_in_another_case_is_refused(specified, tmp_path):
    add_spec(specified("Plain: {method: supervised}"), tmp_path / "out")
    with pytest.raises(UserError, match="other conditions: plain, called Plain there"):
        add_spec(specified("plain: {method: supervised}"), tmp_path / "out")
    with pytest.raises(UserError, match="'Straße' are one folder where case"):
        specified("Straße: {method: bcp}\nSTRASSE: {method: bcp}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("plain: {training.stepps: 3}", r"variant plain: .*stepps is not a setting. Did you mean training.steps\?"),
        ("a: {method: patchcl}\nb: {method: nothing}", "variant b: .*method.name is 'nothing'"),
        ("a: {split.labeled: 3}", "variant a sets split.labeled, which all must have in common"),
        ("a: {training: {seed: 3}, data: x}", "variant a sets training.seed, data"),
        ("a: {split: {file: x}}", "variant a sets split.file"),
        ("../a: {method: patchcl}", "variant '../a' cannot be the name of a folder"),
        ("supervised: {method: patchcl}", "variant 'supervised' is taken by --methods"),
        ("3: {method: patchcl}", "variant 3 cannot be"),
        ("Plain: {method: bcp}\nplain: {method: bcp}", "variant 'plain' and 'Plain' are one folder where case"),
        ("Supervised: {method: bcp}", "variant 'Supervised' and 'supervised' are one folder"),
        ("a: patchcl", "holds no variants; expected names with settings"),
        ("[a, b]", "holds no variants"),
        ("", "holds no variants"),
        ("a: {", "is not valid YAML"),
    ],
)
def test_what_is_wrong_is_said_before_anything_starts(text, message, written):
    with pytest.raises(UserError, match=f"(?s){message}"):
        named_settings(("supervised",), written(text), None, ())


@pytest.mark.parametrize(("name", "rows"), [("parts", 24), ("recipe", 27), ("contrast", 10), ("contrast_longer", 4)])
def test_the_variants_of_the_repository_are_read(name, rows):
    """With YAML's merge keys, which keep them short."""
    settings, common = named_settings((), VARIANTS / f"{name}.yaml", VARIANTS / "small.yaml", ())
    assert len(settings) == rows
    reference = next(iter(settings.values()))
    different = [row for row in settings.values() if row != reference]
    assert len(different) == rows - 1
    assert {row.training.model_copy(update={"foreground_fraction": 0.0}) for row in different} == {common.training}


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UserError, match=r"Cannot read the variants .*none\.yaml: No such file"):
        read_variants(tmp_path / "none.yaml")


def test_what_a_variant_changes_is_told(specified):
    spec = specified()
    told = {name: changes(spec.settings_of(name), spec.settings) for name in spec.methods}
    assert told["masks alone"] == {}
    assert told["plain"] == {"training.steps": 3}
    assert told["no contrast"] == {"method.contrast.weight": 0, "training.steps": 3}


def test_a_preset_is_a_variant_too_and_single_settings_of_all_have_the_last_word(written):
    text = "own: {method: supervised}\npublished: {method: supervised, preset: published}\n"
    settings, common = named_settings((), written(text), None, ["preset=matched", "augment.scale=0.3"])
    assert (common.preset, settings["published"].preset) == ("matched", "published")
    assert (settings["own"].augment.scale, settings["published"].augment.scale) == (0.3, 0.3)
    assert (settings["own"].augment.labeled_intensity, settings["published"].augment.labeled_intensity) == (0.5, 0)
    assert settings["published"].inference.symmetries is False


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: {method: patchcl}\na: {method: supervised}\n", "a is there twice, in line 1 and in line 2"),
        ("a: {method: patchcl, method.name: supervised}\n", "variant a gives method.name twice"),
        ("a: {training.steps: 5, training: {steps: 7}}\n", "variant a gives training.steps twice"),
    ],
)
def test_what_is_there_twice_is_refused(tmp_path, text, said):
    """One of two would be forgotten without a word."""
    path = tmp_path / "variants.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=said) as error:
        read_variants(path)
    assert str(path) in str(error.value)


def test_a_mistake_in_a_variant_names_its_file_and_whose_setting_it_is(tmp_path):
    path, config = tmp_path / "variants.yaml", tmp_path / "tiny.yaml"
    path.write_text("a: {method: supervised, method.mix_probability: 0.3}\n")
    config.write_text("training: {steps: 3}\n")
    with pytest.raises(UserError) as error:
        named_settings([], path, config, [])
    assert str(error.value).startswith(f"{path}, variant a: In {config} and the settings given beside it:")
    assert "method.mix_probability is not a setting of supervised, but of " in str(error.value)
    assert "patchcl" in str(error.value)
