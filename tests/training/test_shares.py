"""A batch in shares, as a run takes it; that it learns what processes do is in test_ranks.py."""

import pytest
import torch
from rich.console import Console

from patchcl.config import load_settings
from patchcl.core.errors import UserError
from patchcl.runs.folder import RunFolder
from patchcl.training.experiment import start

QUIET = Console(quiet=True)


def run(data, root, tiny, *more):
    return start(data, root, load_settings(None, [*tiny, *more]), QUIET).run


def weights(run: RunFolder):
    return torch.load(run.last)["method"]


def test_shares_of_a_run_see_the_images_of_the_whole_batch_and_average(cardiac, tmp_path, tiny):
    """Without augmentation, and with a norm and losses that look at each image alone, the mean is the whole.

    Cross-entropy is a mean over pixels; images of equal size make that of the batch the mean of the shares'.
    """
    alone = ["method=patchcl", "method.segmentation_loss=cross_entropy", "method.consistency_weight=0"]
    alone += ["method.contrast.weight=0", "network.norm=instance", "training.optimizer=sgd"]
    still = [f"augment.{name}=0" for name in ("rotate_degrees", "scale", "shift", "labeled_intensity")]
    still += [f"augment.{name}=false" for name in ("flip", "rotate_90")]
    whole, shares = (
        weights(
            run(
                cardiac,
                tmp_path / str(count),
                tiny,
                *alone,
                *still,
                f"training.batch_shares={count}",
                "training.steps=4",
            )
        )
        for count in (1, 2)
    )
    for name, weight in whole.items():
        torch.testing.assert_close(shares[name], weight, rtol=1e-4, atol=1e-5, msg=lambda text, name=name: name + text)


def test_a_batch_that_shares_do_not_divide_begins_no_run(cardiac, tmp_path, tiny):
    with pytest.raises(UserError, match=r"labeled_per_batch is \d, .* 7 shares cannot share evenly"):
        run(cardiac, tmp_path / "run", tiny, "training.batch_shares=7")
    assert not (tmp_path / "run").exists()
