"""What nobody annotated, on the way from the file to the loss."""

from pathlib import Path

import numpy as np
import pytest
import torch

from patchcl.core.batch import IGNORE
from patchcl.core.errors import UserError
from patchcl.data.scan import IGNORED, classes_of, require_annotated


def test_classes_keep_their_value_and_the_rest_is_ignored() -> None:
    found = classes_of(torch.tensor([[0, 1], [254, 255]], dtype=torch.uint8))
    assert found.dtype == torch.int64
    assert found.tolist() == [[0, 1], [254, IGNORE]]


def test_a_mask_that_says_nothing_is_refused() -> None:
    mask = np.full((3, 2), IGNORED, np.uint8)
    with pytest.raises(UserError, match=r"anna\.nii\.gz says of every voxel .* remove the file"):
        require_annotated(mask, Path("anna.nii.gz"))
    mask[1, 1] = 0
    require_annotated(mask, Path("anna.nii.gz"))
