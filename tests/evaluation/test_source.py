"""A run or two folders of masks, and never both."""

from pathlib import Path

import pytest

from patchcl.core.errors import UserError
from patchcl.evaluation.source import require_one_source


@pytest.mark.parametrize(
    "given", [(None, None, None), ("run", "a", "b"), ("run", "a", None), (None, "a", None), (None, None, Path("b"))]
)
def test_neither_and_both_are_refused(given):
    with pytest.raises(UserError, match="Give either a RUN, or both"):
        require_one_source(*given, several=False)


def test_processes_share_folders_of_masks_alone():
    require_one_source("run", None, None, several=False)
    require_one_source(None, "a", "b", several=True)
    with pytest.raises(UserError, match="--jobs and --cluster share a folder of masks"):
        require_one_source("run", None, None, several=True)
