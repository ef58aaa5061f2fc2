"""What version 0.1 saved is read as what it meant: its runs predict, score, report and go on."""

import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import patchcl
from patchcl.config import read_settings
from patchcl.core.renamed import RENAMED_SETTINGS
from patchcl.data.dataset import read_dataset
from patchcl.data.scan import read_mask
from patchcl.runs.checkpoint import CheckpointWriter

RUNS = Path(__file__).parents[3] / "shared" / "runs"


def as_version_0_1_wrote_it(run: Path) -> None:
    """Put a run's files back into the names of version 0.1."""
    settings = yaml.safe_load((run / "settings.yaml").read_text())
    plan = yaml.safe_load((run / "plan.yaml").read_text())
    tree = settings | {"saved_plan": plan}
    for old, new in RENAMED_SETTINGS.items():
        for root in (tree, {"plan": plan}):
            section = root
            for key in new.split(".")[:-1]:
                section = section.get(key) or {}
            if new.rpartition(".")[2] in section:
                section[old.rpartition(".")[2]] = section.pop(new.rpartition(".")[2])
    settings["training"].pop("loggers")
    contents = json.loads((run / "contents.json").read_text())
    settings["network"].pop("deep_supervision")
    contents["settings"].pop("network.deep_supervision")
    for stage in ("warm_up", "ramp"):
        settings["method"].pop(f"{stage}_max_steps")
        contents["settings"].pop(f"method.{stage}_max_steps")
    (run / "contents.json").write_text(json.dumps(contents))
    (run / "settings.yaml").write_text(yaml.safe_dump(settings))
    (run / "plan.yaml").write_text(yaml.safe_dump(plan))
    split = json.loads((run / "split.json").read_text())
    if "hash" in split:
        split["fingerprint"] = split.pop("hash")
        (run / "split.json").write_text(json.dumps(split))
    log = run / "log.jsonl"
    log.write_text(log.read_text().replace('"warnings"', '"alarms"'))


def weights(run: Path) -> dict[str, torch.Tensor]:
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["method"]


def test_a_run_goes_on_as_if_it_had_never_been_renamed(cardiac, tmp_path, tiny, monkeypatch):
    whole, stopped, save = tmp_path / "whole", tmp_path / "stopped", CheckpointWriter.save

    def save_and_keep(writer, content, *rest):
        save(writer, content, *rest)
        writer.finish()
        if content["step"] == 3:
            shutil.copy(writer.run.last, tmp_path / "early.ckpt")

    monkeypatch.setattr(CheckpointWriter, "save", save_and_keep)
    patchcl.train(cardiac, whole, settings=tiny)
    shutil.copytree(whole, stopped)
    shutil.copy(tmp_path / "early.ckpt", stopped / "checkpoints" / "last.ckpt")
    as_version_0_1_wrote_it(stopped)
    assert "mix_chance" in (stopped / "settings.yaml").read_text()
    assert "restore" in (stopped / "plan.yaml").read_text()
    assert patchcl.resume(stopped).steps_done == 6
    assert all(torch.equal(value, weights(stopped)[name]) for name, value in weights(whole).items())


def test_warm_up_and_ramp_are_as_long_as_they_were(trained, tmp_path):
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    assert read_settings(run / "settings.yaml").method.warm_up_max_steps == 660
    as_version_0_1_wrote_it(run)
    method = read_settings(run / "settings.yaml").method
    assert (method.warm_up_fraction, method.ramp_fraction) == (0.3, 0.2)
    assert method.warm_up_max_steps is method.ramp_max_steps is None


def test_a_run_is_scored_and_reported(trained, tmp_path):
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    before = patchcl.evaluate(run, device="cpu")
    as_version_0_1_wrote_it(run)
    assert patchcl.evaluate(run, device="cpu").scores == before.scores
    assert patchcl.report(run, tmp_path / "report.html").is_file()


def test_old_names_in_new_input_are_refused_with_the_new_ones(cardiac, tmp_path):
    for old, new in RENAMED_SETTINGS.items():
        with pytest.raises(patchcl.UserError, match=f"{old} is called {new} now"):
            patchcl.train(cardiac, tmp_path / "run", settings=[f"{old}=1"])
    (tmp_path / "old.yaml").write_text("method: {name: patchcl, contrast: {weight_left: 0}}\nplan: {restore: linear}")
    with pytest.raises(patchcl.UserError, match=r"final_weight_fraction(.|\n)*plan\.output_interpolation"):
        patchcl.check(cardiac, config=tmp_path / "old.yaml")


@pytest.mark.realdata
@pytest.mark.parametrize("name", ["acdc_p1_7_patchcl_tuned_without_contrast", "acdc_p1_7_supervised_matched"])
def test_a_network_that_version_0_1_trained_segments_a_heart(name, acdc, tmp_path):
    if not (RUNS / f"{name}.zip").is_file():
        pytest.skip("the trained networks are not here")
    with zipfile.ZipFile(RUNS / f"{name}.zip") as packed:
        packed.extractall(tmp_path)
    (settings,) = tmp_path.rglob("settings.yaml")
    trained = patchcl.load_run(settings.parent, device="cpu")
    dataset = read_dataset(acdc)
    case = next(case for case in dataset.cases if case.patient in _validation(settings.parent))
    mask = read_mask(case.mask, dataset.classes, None)
    predicted = trained.predict(list(case.images)).mask
    for value in (1, 2, 3):
        both = np.count_nonzero((predicted == value) & (mask == value))
        assert 2 * both / (np.count_nonzero(predicted == value) + np.count_nonzero(mask == value)) > 0.7


def _validation(run: Path) -> list[str]:
    return json.loads((run / "split.json").read_text())["validation"]
