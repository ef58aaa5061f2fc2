"""The runs of a comparison, and that everything wrong with it is said before anything is trained."""

import json
import shutil
import sys

import pytest

from patchcl.comparison.spec import CompareRun, build_spec, data_hash, job_of
from patchcl.core.errors import UserError
from patchcl.data.dataset import read_dataset
from patchcl.data.splits import load_split, make_split, save_split
from patchcl.methods import method_names


def test_runs_are_every_combination_and_a_seed_of_all_comes_first(make_spec):
    spec = make_spec(("supervised", "patchcl"), (3, 1, 3), (1, 0))
    assert spec.labeled == (1, 3)
    assert spec.runs == tuple(
        CompareRun(labeled, method, seed)
        for seed in (0, 1)
        for labeled in (1, 3)
        for method in ("supervised", "patchcl")
    )
    assert spec.runs[0].run_id == "labeled_1/supervised/seed_0"
    assert CompareRun(None, "patchcl", 2).run_id == "labeled_all/patchcl/seed_2"


def test_runs_of_one_seed_and_count_differ_in_the_method_alone(make_spec, tmp_path):
    spec = make_spec(("supervised", "mean_teacher", "mean_teacher+contrast"), (2,), (3,))
    settings = [job_of(spec, compare_run, tmp_path, 1).settings for compare_run in spec.runs]
    assert settings[0].model_copy(update={"method": None}) == settings[1].model_copy(update={"method": None})
    for each in settings:
        assert (each.training.seed, each.split.seed, each.split.labeled) == (3, 3, 2)
        assert each.training.steps == 6
        assert each.cache == tmp_path / "prepared"
    assert job_of(spec, spec.runs[0], tmp_path, 1).command == tuple(sys.argv)
    plain, contrast = (each.method.model_dump() for each in settings[1:])
    assert contrast.pop("contrast")["weight"] == 0.1
    assert plain.pop("contrast") is None
    assert plain == contrast


def test_a_cache_of_ones_own_is_kept(make_spec, tmp_path):
    spec = make_spec(("supervised",), (2,), (0,), f"cache={tmp_path / 'mine'}")
    assert job_of(spec, spec.runs[0], tmp_path / "out", 1).settings.cache == tmp_path / "mine"


def test_seeds_draw_other_splits_unless_a_file_divides(make_spec, cardiac, tmp_path):
    drawn = make_spec(("supervised",), (2,), (0, 1)).splits
    assert set(drawn) == {"labeled_2/seed_0", "labeled_2/seed_1"}
    assert drawn["labeled_2/seed_0"] != drawn["labeled_2/seed_1"]

    dataset = read_dataset(cardiac)
    job = job_of(make_spec(), make_spec().runs[0], tmp_path, 1)
    assert make_split(dataset, job.settings.split).hash == drawn["labeled_2/seed_0"]

    file = tmp_path / "split.json"
    save_split(file, make_split(dataset, job.settings.split.model_copy(update={"labeled": None})))
    spec = make_spec(("supervised",), (2,), (0, 1), f"split.file={file}")
    assert len(set(spec.splits.values())) == 1
    jobs = [job_of(spec, compare_run, tmp_path, 1) for compare_run in spec.runs]
    assert [(job.settings.training.seed, job.settings.split.seed) for job in jobs] == [(0, 0), (1, 0)]
    assert set(load_split(file).test) == {case.patient for case in dataset.cases if case.folder == "imagesTs"}


def test_without_counts_the_settings_say_how_many_masks(make_spec):
    assert make_spec(labeled=()).labeled == (None,)
    assert make_spec(("supervised",), (), (0,), "split.labeled=2").labeled == (2,)


def test_the_test_side_is_scored_where_it_has_masks(make_spec, cardiac, tmp_path, tiny):
    assert make_spec().on == "test"
    assert make_spec(on="validation").on == "validation"
    data = shutil.copytree(cardiac, tmp_path / "data", ignore=shutil.ignore_patterns("labelsTs"))
    assert build_spec(data, ["supervised"], [2], [0], None, tiny).on == "validation"
    with pytest.raises(UserError, match="--on validation"):
        build_spec(data, ["supervised"], [2], [0], None, tiny, on="test")


def test_with_folds_all_labeled_patients_are_scored_and_none_of_the_test(make_spec):
    spec = make_spec(labeled=(None,), folds=2)
    assert (spec.folds, spec.on) == (2, "validation")
    assert spec.splits != make_spec(labeled=(None,)).splits
    with pytest.raises(UserError, match="--on asks for test patients"):
        make_spec(labeled=(None,), folds=2, on="test")
    with pytest.raises(UserError, match=r"--folds is 3, but .* has 2 patients with masks"):
        make_spec(labeled=(2,), folds=3)


def test_folds_are_suggested_once_where_methods_cannot_be_told_apart_without(make_dataset, tiny, capsys):
    data = make_dataset(dict.fromkeys((f"p{number}" for number in range(6)), True))
    build_spec(data, ["supervised", "patchcl"], [], [0], None, tiny)
    assert capsys.readouterr().out == (
        "1 validation patient cannot show which run is to be used: that takes 6. With --folds 5 all 6 labeled patients "
        "judge, each the run that has not seen it.\n"
    )
    build_spec(data, ["supervised"], [], [0], None, tiny)
    build_spec(data, ["supervised", "patchcl"], [], [0], None, tiny, folds=2)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("methods", "labeled", "more", "message"),
    [
        (("supervised", "magic", "wand+contrast"), (2,), (), r"'magic', 'wand\+contrast'; choose from"),
        (("supervised+magic",), (2,), (), "supervised.magic"),
        ((), (2,), (), "names none"),
        (("supervised",), (50,), (), r"split\.labeled is 50"),
        (("supervised",), (2,), ("training.stepz=3",), "supervised: .*\n.*Did you mean training.steps"),
        (("patchcl", "supervised"), (2,), ("method.ramp_fraction=0.5",), "supervised: .*\n.*method.ramp_fraction"),
        (("supervised",), (), ("split.labeled=[a, b]",), "takes counts"),
        (("supervised",), (2,), ("training.devices=2",), "every run on one device"),
    ],
)
def test_mistakes_are_found_before_anything_runs(methods, labeled, more, message, make_spec):
    with pytest.raises(UserError, match=message):
        make_spec(methods, labeled, (0,), *more)


def test_an_unknown_method_is_answered_with_all_that_are_known(make_spec):
    with pytest.raises(UserError) as error:
        make_spec(("magic",))
    assert all(name in str(error.value) for name in method_names())


def test_data_are_known_by_names_and_sizes_wherever_they_lie(cardiac, tmp_path):
    copy = shutil.copytree(cardiac, tmp_path / "copy")
    assert data_hash(read_dataset(copy)) == data_hash(read_dataset(cardiac))
    mask = next((copy / "labelsTr").iterdir())
    mask.write_bytes(mask.read_bytes() + b"\x00")
    changed = data_hash(read_dataset(copy))
    assert changed != data_hash(read_dataset(cardiac))
    mask.unlink()
    assert data_hash(read_dataset(copy)) not in (changed, data_hash(read_dataset(cardiac)))


def test_a_spec_survives_its_file(make_spec):
    spec = make_spec(("supervised", "mean_teacher+contrast"), (2, None))
    assert type(spec).model_validate(json.loads(spec.model_dump_json())) == spec
    assert spec.settings_of("mean_teacher+contrast").method.contrast.weight == 0.1
