"""What a run keeps of the scans that it learns from, so that prediction can tell others from them."""

from collections.abc import Sequence

import numpy as np

from patchcl.core.parallel import in_parallel
from patchcl.data.dataset import Case, Dataset
from patchcl.data.preprocessing.cache import PreparedCase
from patchcl.data.preprocessing.plan import load_plan
from patchcl.data.scan import read_grid
from patchcl.inference.familiarity import Familiarity, Look, lines_of, look_at, save_familiarity
from patchcl.runs.folder import RunFolder


def keep_familiarity(run: RunFolder, dataset: Dataset, learned_from: Sequence[PreparedCase]) -> None:
    """Keep how the scans look that a run learns from, with masks or without; once, also of a run from before."""
    if run.familiarity.is_file():
        return
    prepared = list({case.image: case for case in learned_from}.values())
    cases = {case.name: case for case in dataset.cases}
    orientation = load_plan(run.plan).orientation
    looks = in_parallel(prepared, lambda each: _look_at(each, cases[each.name], orientation))
    patients = len({case.patient for case in prepared})
    save_familiarity(run.familiarity, Familiarity(patients=patients, scans=tuple(looks)))


def _look_at(prepared: PreparedCase, case: Case, orientation: str | None) -> Look:
    return look_at(read_grid(case.images[0]), lines_of(np.load(prepared.image, mmap_mode="r")), orientation)
