"""What is asked, and that everything wrong with it is said before anything is trained."""

import json
import shutil
import sys

import pytest

from patchcl.comparison.spec import Cell, ask, data_fingerprint, job_of, join, read_question
from patchcl.core.errors import UserError
from patchcl.data.dataset import read_dataset
from patchcl.data.splits import load_split, make_split, save_split
from patchcl.methods import method_names


def test_cells_are_every_combination_and_a_seed_of_all_comes_first(question):
    asked = question(("supervised", "patchcl"), (3, 1, 3), (1, 0))
    assert asked.labeled == (1, 3)
    assert asked.cells == tuple(
        Cell(labeled, method, seed) for seed in (0, 1) for labeled in (1, 3) for method in ("supervised", "patchcl")
    )
    assert asked.cells[0].place == "labeled_1/supervised/seed_0"
    assert Cell(None, "patchcl", 2).place == "labeled_all/patchcl/seed_2"


def test_cells_of_one_seed_and_count_differ_in_the_method_alone(question, tmp_path):
    asked = question(("supervised", "mean_teacher", "mean_teacher+contrast"), (2,), (3,))
    settings = [job_of(asked, cell, tmp_path, 1).settings for cell in asked.cells]
    assert settings[0].model_copy(update={"method": None}) == settings[1].model_copy(update={"method": None})
    for each in settings:
        assert (each.training.seed, each.split.seed, each.split.labeled) == (3, 3, 2)
        assert each.training.steps == 6
        assert each.cache == tmp_path / "prepared"
    assert job_of(asked, asked.cells[0], tmp_path, 1).command == tuple(sys.argv)
    plain, contrast = (each.method.model_dump() for each in settings[1:])
    assert contrast.pop("contrast")["weight"] == 0.1
    assert plain.pop("contrast") is None
    assert plain == contrast


def test_a_cache_of_ones_own_is_kept(question, tmp_path):
    asked = question(("supervised",), (2,), (0,), f"cache={tmp_path / 'mine'}")
    assert job_of(asked, asked.cells[0], tmp_path / "out", 1).settings.cache == tmp_path / "mine"


def test_seeds_draw_other_splits_unless_a_file_divides(question, cardiac, tmp_path):
    drawn = question(("supervised",), (2,), (0, 1)).splits
    assert set(drawn) == {"labeled_2/seed_0", "labeled_2/seed_1"}
    assert drawn["labeled_2/seed_0"] != drawn["labeled_2/seed_1"]

    dataset = read_dataset(cardiac)
    job = job_of(question(), question().cells[0], tmp_path, 1)
    assert make_split(dataset, job.settings.split).fingerprint == drawn["labeled_2/seed_0"]

    file = tmp_path / "split.json"
    save_split(file, make_split(dataset, job.settings.split.model_copy(update={"labeled": None})))
    asked = question(("supervised",), (2,), (0, 1), f"split.file={file}")
    assert len(set(asked.splits.values())) == 1
    jobs = [job_of(asked, cell, tmp_path, 1) for cell in asked.cells]
    assert [(job.settings.training.seed, job.settings.split.seed) for job in jobs] == [(0, 0), (1, 0)]
    assert set(load_split(file).test) == {case.patient for case in dataset.cases if case.folder == "imagesTs"}


def test_without_counts_the_settings_say_how_many_masks(question):
    assert question(labeled=()).labeled == (None,)
    assert question(("supervised",), (), (0,), "split.labeled=2").labeled == (2,)


def test_the_test_side_is_scored_where_it_has_masks(question, cardiac, tmp_path, tiny):
    assert question().on == "test"
    assert question(on="validation").on == "validation"
    data = shutil.copytree(cardiac, tmp_path / "data", ignore=shutil.ignore_patterns("labelsTs"))
    assert ask(data, ["supervised"], [2], [0], None, tiny).on == "validation"
    with pytest.raises(UserError, match="--on validation"):
        ask(data, ["supervised"], [2], [0], None, tiny, on="test")


@pytest.mark.parametrize(
    ("methods", "labeled", "more", "message"),
    [
        (("supervised", "magic", "wand+contrast"), (2,), (), r"'magic', 'wand\+contrast'; choose from"),
        (("supervised+magic",), (2,), (), "supervised.magic"),
        ((), (2,), (), "names none"),
        (("supervised",), (50,), (), r"split\.labeled is 50"),
        (("supervised",), (2,), ("training.stepz=3",), "supervised: .*\n.*Did you mean steps"),
        (("patchcl", "supervised"), (2,), ("method.ramp_fraction=0.5",), "supervised: .*\n.*method.ramp_fraction"),
        (("supervised",), (), ("split.labeled=[a, b]",), "takes counts"),
    ],
)
def test_mistakes_are_found_before_anything_runs(methods, labeled, more, message, question):
    with pytest.raises(UserError, match=message):
        question(methods, labeled, (0,), *more)


def test_an_unknown_method_is_answered_with_all_that_are_known(question):
    with pytest.raises(UserError) as error:
        question(("magic",))
    assert all(name in str(error.value) for name in method_names())


def test_data_are_known_by_names_and_sizes_wherever_they_lie(cardiac, tmp_path):
    copy = shutil.copytree(cardiac, tmp_path / "copy")
    assert data_fingerprint(read_dataset(copy)) == data_fingerprint(read_dataset(cardiac))
    mask = next((copy / "labelsTr").iterdir())
    mask.write_bytes(mask.read_bytes() + b"\x00")
    changed = data_fingerprint(read_dataset(copy))
    assert changed != data_fingerprint(read_dataset(cardiac))
    mask.unlink()
    assert data_fingerprint(read_dataset(copy)) not in (changed, data_fingerprint(read_dataset(cardiac)))


def test_a_question_survives_its_file(question):
    asked = question(("supervised", "mean_teacher+contrast"), (2, None))
    assert type(asked).model_validate(json.loads(asked.model_dump_json())) == asked
    assert asked.settings_of("mean_teacher+contrast").method.contrast.weight == 0.1


def test_methods_counts_and_seeds_may_be_added(question, tmp_path):
    out = tmp_path / "new" / "out"
    first = question(("supervised",), (2,), (0, 2))
    assert join(first, out) == read_question(out) == first
    both = join(question(("patchcl", "supervised"), (None, 1), (1,)), out)
    assert list(both.methods) == ["supervised", "patchcl"]
    assert both.labeled == (1, 2, None)
    assert both.seeds == (0, 1, 2)
    assert read_question(out) == both
    assert len(both.cells) == 2 * 3 * 3
    assert {"labeled_2/seed_2", "labeled_1/seed_1"} <= both.splits.keys()
    assert join(first, out).methods == both.methods


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("training.learning_rate=0.5",), "training.learning_rate was 0.001, now 0.5"),
        (("method.teacher_decay=0.5",), r"method.teacher_decay was 0.99, now 0.5"),
        (("plan.size=[64, 64]",), "plan.size"),
        (("split.validation_fraction=0.6",), "split.validation_fraction was 0.2, now 0.6, the patients on each side"),
    ],
)
def test_other_settings_are_refused_by_name(more, message, question, tmp_path):
    join(question(), tmp_path / "out")
    before = (tmp_path / "out" / "compare.json").read_bytes()
    with pytest.raises(UserError, match=message):
        join(question(("supervised", "patchcl"), (2,), (0,), *more), tmp_path / "out")
    assert (tmp_path / "out" / "compare.json").read_bytes() == before


def test_other_distances_are_refused(question, tmp_path):
    join(question(), tmp_path / "out")
    with pytest.raises(UserError, match="--voxels"):
        join(question(voxels=True), tmp_path / "out")


def test_other_data_are_refused_wherever_they_lie(question, cardiac, tiny, tmp_path):
    join(question(), tmp_path / "out")
    moved = shutil.copytree(cardiac, tmp_path / "moved")
    join(ask(moved, ["supervised"], [2], [0], None, tiny), tmp_path / "out")
    mask = next((moved / "labelsTr").iterdir())
    mask.write_bytes(mask.read_bytes() + b"\x00")
    with pytest.raises(UserError, match="the scans or masks of"):
        join(ask(moved, ["supervised"], [2], [0], None, tiny), tmp_path / "out")


def test_another_split_is_refused(question, tmp_path, cardiac):
    join(question(), tmp_path / "out")
    known = json.loads((tmp_path / "out" / "compare.json").read_text())
    known["splits"]["labeled_2/seed_0"] = "of other patients"
    (tmp_path / "out" / "compare.json").write_text(json.dumps(known))
    with pytest.raises(UserError, match="the patients on each side of the split"):
        join(question(), tmp_path / "out")


def test_machine_and_side_may_differ(question, tmp_path):
    join(question(("supervised",)), tmp_path / "out")
    other = question(("supervised",), (2,), (0,), "training.memory_gib=1", "training.device=auto", on="validation")
    assert join(other, tmp_path / "out").on == "validation"


def test_a_setting_that_is_new_has_its_default(question, tmp_path):
    join(question(), tmp_path / "out")
    path = tmp_path / "out" / "compare.json"
    known = json.loads(path.read_text())
    del known["settings"]["training"]["weight_decay"]
    path.write_text(json.dumps(known))
    join(question(), tmp_path / "out")


def test_settings_of_another_version_are_refused(question, tmp_path):
    join(question(), tmp_path / "out")
    path = tmp_path / "out" / "compare.json"
    known = json.loads(path.read_text())
    known["settings"]["training"]["abandoned"] = 1
    path.write_text(json.dumps(known))
    with pytest.raises(UserError, match="made by patchcl"):
        join(question(), path.parent)


def test_a_folder_with_something_else_is_left_alone(question, tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="something else than a comparison"):
        join(question(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("content", [None, "{", "{}"])
def test_a_folder_without_a_question_is_explained(content, tmp_path):
    if content is not None:
        (tmp_path / "compare.json").write_text(content)
    with pytest.raises(UserError, match="holds no comparison" if content is None else "cannot be read"):
        read_question(tmp_path)
