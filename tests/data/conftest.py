"""Small data sets on disk, written with nibabel itself so that our own writer is not its own witness."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

OBLIQUE = np.array([[-1.2, 0.3, 1.1, 20.5], [0.2, -1.3, 2.0, -31.25], [0.4, 0.5, 7.6, 12.125], [0.0, 0.0, 0.0, 1.0]])


def _save(path: Path, voxels: np.ndarray, affine: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(voxels, affine), path)
    return path


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., Path]:
    """Save voxels as a file of that name, on an oblique grid unless told otherwise."""

    def save(name: str, voxels: np.ndarray, affine: np.ndarray = OBLIQUE) -> Path:
        return _save(tmp_path / name, voxels, affine)

    return save


@pytest.fixture
def make_dataset(tmp_path: Path) -> Callable[..., Path]:
    """Write a data set: `train` and `test` map scan names to whether there is a mask; classes are A and B."""

    def make(
        train: Mapping[str, bool],
        unlabeled: tuple[str, ...] = (),
        test: Mapping[str, bool] | None = None,
        shape: tuple[int, ...] = (12, 10, 4),
        spacing_mm: tuple[float, ...] = (1.5, 1.5, 8.0),
        channels: tuple[str, ...] = ("MRI",),
        root: Path = tmp_path / "data",
    ) -> Path:
        affine = np.diag([*spacing_mm, *[1.0] * (4 - len(spacing_mm))])
        kinds = [("imagesTr", "labelsTr", train), ("imagesUn", "", dict.fromkeys(unlabeled, False))]
        for images, masks, names in [*kinds, ("imagesTs", "labelsTs", test or {})]:
            for name, masked in names.items():
                random = np.random.default_rng(list(name.encode()))
                for channel in range(len(channels)):
                    voxels = random.integers(0, 1000, shape).astype(np.int16)
                    _save(root / images / f"{name}_{channel:04d}.nii.gz", voxels, affine)
                if masked:
                    _save(root / masks / f"{name}.nii.gz", random.integers(0, 3, shape).astype(np.uint8), affine)
        description = {
            "name": "Tiny",
            "channel_names": {str(index): name for index, name in enumerate(channels)},
            "labels": {"background": 0, "B": 2, "A": 1},
            "file_ending": ".nii.gz",
        }
        (root / "dataset.json").write_text(json.dumps(description), encoding="utf-8")
        return root

    return make


@pytest.fixture
def acdc() -> Path:
    """The ACDC data set; a test that asks for it is skipped where it is not."""
    root = Path(__file__).parents[3] / "shared" / "data" / "Dataset027_ACDC"
    if not root.is_dir():
        pytest.skip("ACDC is not here")
    return root
