"""One folder, one spec: what may be added to it, and what is refused; files of version 0.1."""

import json
import os
import shutil

import pytest

from patchcl.comparison.spec import build_spec, run_root, with_content
from patchcl.comparison.spec_file import add_spec, read_spec
from patchcl.core.errors import UserError


def test_methods_counts_and_seeds_may_be_added(make_spec, tmp_path):
    out = tmp_path / "new" / "out"
    first = make_spec(("supervised",), (2,), (0, 2))
    assert add_spec(first, out) == read_spec(out) == first
    both = add_spec(make_spec(("patchcl", "supervised"), (None, 1), (1,)), out)
    assert list(both.methods) == ["supervised", "patchcl"]
    assert both.labeled == (1, 2, None)
    assert both.seeds == (0, 1, 2)
    assert read_spec(out) == both
    assert len(both.runs) == 2 * 3 * 3
    assert {"labeled_2/seed_2", "labeled_1/seed_1"} <= both.splits.keys()
    assert add_spec(first, out).methods == both.methods


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("training.learning_rate=0.5",), "training.learning_rate was 0.001, now 0.5"),
        (("method.teacher_decay=0.5",), r"method.teacher_decay was 0.99, now 0.5"),
        (("plan.size=[64, 64]",), "plan.size"),
        (("split.validation_fraction=0.6",), "split.validation_fraction was 0.2, now 0.6, the patients on each side"),
    ],
)
def test_other_settings_are_refused_by_name(more, message, make_spec, tmp_path):
    add_spec(make_spec(), tmp_path / "out")
    before = (tmp_path / "out" / "compare.json").read_bytes()
    with pytest.raises(UserError, match=message):
        add_spec(make_spec(("supervised", "patchcl"), (2,), (0,), *more), tmp_path / "out")
    assert (tmp_path / "out" / "compare.json").read_bytes() == before


def test_mirrors_that_are_left_open_stay_what_they_were_in_a_comparison_of_before(make_spec, tmp_path):
    before = make_spec(("supervised",), (2,), (0,), "augment.flip=true", "augment.rotate_90=true")
    add_spec(before, tmp_path / "out")
    grown = add_spec(make_spec(("supervised", "patchcl"), (2,), (0, 1)), tmp_path / "out")
    assert grown.settings_of("patchcl").augment.flip is True
    with pytest.raises(UserError, match=r"augment\.flip was True, now False"):
        add_spec(make_spec(("supervised",), (2,), (0,), "augment.flip=false"), tmp_path / "out")


def test_where_runs_are_made_may_differ(make_spec, tmp_path):
    add_spec(make_spec(), tmp_path / "out")
    elsewhere = ("training.scratch=/somewhere", "training.memory_gib=3")
    add_spec(make_spec(("supervised", "patchcl"), (2,), (0,), *elsewhere), tmp_path / "out")


def test_other_distances_are_refused(make_spec, tmp_path):
    add_spec(make_spec(), tmp_path / "out")
    with pytest.raises(UserError, match="--voxels"):
        add_spec(make_spec(voxels=True), tmp_path / "out")


def test_scores_of_one_pass_and_of_averages_are_not_mixed(make_spec, tmp_path):
    add_spec(make_spec(), tmp_path / "out")
    with pytest.raises(UserError, match=r"other conditions: --fast\."):
        add_spec(make_spec(fast=True), tmp_path / "out")
    with pytest.raises(UserError, match=r"other conditions: --no-postprocessing\."):
        add_spec(make_spec(postprocessing=False), tmp_path / "out")


def test_another_number_of_folds_is_refused_and_what_was_made_before_there_were_folds_has_none(make_spec, tmp_path):
    known = add_spec(make_spec(labeled=(None,)), tmp_path / "out").model_dump(mode="json")
    old = {key: value for key, value in known.items() if key != "folds"}
    (tmp_path / "out" / "compare.json").write_text(json.dumps(old))
    with pytest.raises(UserError, match="--folds"):
        add_spec(make_spec(labeled=(None,), folds=2), tmp_path / "out")
    assert add_spec(make_spec(labeled=(None,)), tmp_path / "out").folds is None
    assert add_spec(make_spec(labeled=(None,), folds=2), tmp_path / "folds").folds == 2
    with pytest.raises(UserError, match="--folds"):
        add_spec(make_spec(labeled=(None,), folds=3), tmp_path / "folds")


def test_a_comparison_of_version_01_was_made_with_one_pass(make_spec, tmp_path):
    known = add_spec(make_spec(), tmp_path / "out").model_dump(mode="json")
    old = {key: value for key, value in known.items() if key not in ("fast", "postprocessing")}
    (tmp_path / "out" / "compare.json").write_text(json.dumps(old))
    with pytest.raises(UserError, match="--fast, --no-postprocessing"):
        add_spec(make_spec(), tmp_path / "out")
    assert add_spec(make_spec(fast=True, postprocessing=False), tmp_path / "out").fast


def test_other_data_are_refused_wherever_they_lie(make_spec, cardiac, tiny, tmp_path):
    add_spec(make_spec(), tmp_path / "out")
    moved = shutil.copytree(cardiac, tmp_path / "moved")
    add_spec(build_spec(moved, ["supervised"], [2], [0], None, tiny), tmp_path / "out")
    mask = next((moved / "labelsTr").iterdir())
    mask.write_bytes(mask.read_bytes() + b"\x00")
    with pytest.raises(UserError, match="the scans or masks of"):
        add_spec(build_spec(moved, ["supervised"], [2], [0], None, tiny), tmp_path / "out")


def test_another_split_is_refused(make_spec, tmp_path, cardiac):
    add_spec(make_spec(), tmp_path / "out")
    known = json.loads((tmp_path / "out" / "compare.json").read_text())
    known["splits"]["labeled_2/seed_0"] = "of other patients"
    (tmp_path / "out" / "compare.json").write_text(json.dumps(known))
    with pytest.raises(UserError, match="the patients on each side of the split"):
        add_spec(make_spec(), tmp_path / "out")


def test_machine_and_side_may_differ(make_spec, tmp_path):
    add_spec(make_spec(("supervised",)), tmp_path / "out")
    other = make_spec(("supervised",), (2,), (0,), "training.memory_gib=1", "training.device=auto", on="validation")
    assert add_spec(other, tmp_path / "out").on == "validation"


def forget(out, section, key):
    """Write the file of a comparison as a version that did not know a setting wrote it."""
    known = json.loads((out / "compare.json").read_text())
    del known["settings"][section][key]
    (out / "compare.json").write_text(json.dumps(known))


def test_a_setting_that_is_new_has_its_default(make_spec, tmp_path):
    add_spec(make_spec(), tmp_path / "out")
    forget(tmp_path / "out", "training", "weight_decay")
    add_spec(make_spec(), tmp_path / "out")


def test_a_comparison_of_networks_without_deep_supervision_gets_no_others(make_spec, tmp_path):
    add_spec(make_spec(), tmp_path / "out")
    forget(tmp_path / "out", "network", "deep_supervision")
    assert not read_spec(tmp_path / "out").settings_of("supervised").network.deep_supervision
    with pytest.raises(UserError, match=r"network\.deep_supervision was False, now True"):
        add_spec(make_spec(), tmp_path / "out")


def test_settings_of_another_version_are_refused(make_spec, tmp_path):
    add_spec(make_spec(), tmp_path / "out")
    path = tmp_path / "out" / "compare.json"
    known = json.loads(path.read_text())
    known["settings"]["training"]["abandoned"] = 1
    path.write_text(json.dumps(known))
    wrong = r"In compare\.json, the settings of supervised:\n  training\.abandoned is not a setting\.\n"
    with pytest.raises(UserError, match=f"{wrong}Restore that file"):
        add_spec(make_spec(), path.parent)
    path.write_text(json.dumps(known | {"patchcl": "0.1.7"}))
    with pytest.raises(UserError, match=f"{wrong}It was made by patchcl 0.1.7, and this is"):
        add_spec(make_spec(), path.parent)


def test_a_folder_with_something_else_is_left_alone(make_spec, tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="something else than a comparison"):
        add_spec(make_spec(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("content", [None, "{", "{}", "[]"])
def test_a_folder_without_a_spec_is_explained(content, tmp_path):
    if content is not None:
        (tmp_path / "compare.json").write_text(content)
    with pytest.raises(UserError, match="holds no comparison" if content is None else "cannot be read"):
        read_spec(tmp_path)


def test_a_comparison_of_version_01_goes_on(make_spec, tmp_path):
    """Its spec has another key for the hash of the data, its runs lie in another folder."""
    spec, out = make_spec(), tmp_path / "out"
    known = add_spec(spec, out).model_dump(mode="json")
    known["data_fingerprint"] = known.pop("data_hash")
    (out / "compare.json").write_text(json.dumps(known))
    assert read_spec(out) == spec
    assert run_root(out, spec.runs[0]) == out / "runs" / "labeled_2" / "supervised" / "seed_0"
    (out / "cells").mkdir()
    assert add_spec(make_spec(("mean_teacher",)), out).methods.keys() == {"supervised", "patchcl", "mean_teacher"}
    assert run_root(out, spec.runs[0]) == out / "cells" / "labeled_2" / "supervised" / "seed_0"
    (out / "compare.json").write_text(json.dumps(known | {"data_fingerprint": "of other scans"}))
    with pytest.raises(UserError, match="the scans or masks of"):
        add_spec(spec, out)


def test_a_replaced_mask_of_equal_size_does_not_join_an_old_comparison(make_spec, cardiac, tmp_path):
    """It is named, and as often as somebody asks: a refused call leaves what the comparison knows of its files."""
    data, out = shutil.copytree(cardiac, tmp_path / "data"), tmp_path / "out"
    spec = make_spec().model_copy(update={"data": data})
    first, files = with_content(spec, out)
    add_spec(first, out, files)
    assert with_content(spec, out) == (first, files)
    known = (out / "files.json").read_bytes()
    mask = next((data / "labelsTr").iterdir())
    content, stat = mask.read_bytes(), mask.stat()
    mask.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
    os.utime(mask, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    for _ in range(2):
        second, files = with_content(spec, out)
        assert second.data_hash == first.data_hash
        with pytest.raises(UserError, match=rf"the scans or masks of \S+ \(labelsTr/{mask.name} was replaced\)\. Runs"):
            add_spec(second, out, files)
        assert (out / "files.json").read_bytes() == known
    moved, files = with_content(spec.model_copy(update={"data": shutil.move(data, tmp_path / "moved")}), out)
    with pytest.raises(UserError, match=rf"\(labelsTr/{mask.name} was replaced\)"):
        add_spec(moved, out, files)


def test_a_comparison_of_version_0_1_without_that_hash_goes_on_and_gets_it(make_spec, tmp_path):
    out = tmp_path / "out"
    add_spec(make_spec(), out)
    assert read_spec(out).content_hash is None
    spec, files = with_content(make_spec(), out)
    add_spec(spec, out, files)
    assert read_spec(out).content_hash is not None


@pytest.mark.parametrize("text", ["", "[]", "{}", "[" * 100_000, "9" * 5000])
def test_a_damaged_spec_is_one_message(text, tmp_path):
    (tmp_path / "compare.json").write_text(text)
    with pytest.raises(UserError, match=r"compare\.json cannot be read"):
        read_spec(tmp_path)
