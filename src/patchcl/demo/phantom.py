"""Phantom data set: generated short-axis heart scans, so that every step can be tried without anybody's data.

Position, turn, shape, phase and the scanner's contrast differ from patient to patient by more than a handful of
annotated scans can show.
"""

from pathlib import Path

import nibabel as nib
import numpy as np

from patchcl.core.files import atomic_write, write_json
from patchcl.demo.anatomy import (
    CLASSES,
    LAYERS,
    Plane,
    Random,
    class_mask,
    distances_to,
    draw_heart,
    draw_tissues,
    paint_anatomy,
)


def write_cardiac(
    root: Path, labeled: int = 4, unlabeled: int = 24, test: int = 8, side: int = 96, seed: int = 0
) -> Path:
    """Write a data set in nnU-Net raw layout to `root` and return `root`.

    `labeled` patients have masks, `unlabeled` ones lie in imagesUn, `test` ones are held out in imagesTs with their
    masks in labelsTs. Pictures are about `side` pixels wide. The same `seed` writes the same files, and patients do
    not change when there are more of another kind.
    """
    kinds = [("imagesTr", "labelsTr", labeled), ("imagesUn", None, unlabeled), ("imagesTs", "labelsTs", test)]
    number = 0
    for kind, (images, masks, count) in enumerate(kinds):
        for index in range(count):
            number += 1
            name = f"patient{number:03d}_frame01"
            picture, mask, affine = _patient(np.random.default_rng([seed, 1000 * kind + index]), side)
            _write(root / images / f"{name}_0000.nii.gz", picture, affine)
            if masks is not None:
                _write(root / masks / f"{name}.nii.gz", mask, affine)
    write_json(root / "dataset.json", _description(labeled, seed))
    return root


def _description(labeled: int, seed: int) -> dict[str, object]:
    return {
        "name": "SyntheticCardiac",
        "description": f"Made-up short-axis heart scans written by patchcl, seed {seed}",
        "channel_names": {"0": "cine-MRI"},
        "labels": {name: value for value, name in enumerate(CLASSES)},
        "numTraining": labeled,
        "file_ending": ".nii.gz",
        "licence": "CC0-1.0",
    }


def _write(path: Path, voxels: np.ndarray, affine: np.ndarray) -> None:
    image = nib.Nifti1Image(voxels, affine)
    image.header.set_xyzt_units("mm")
    atomic_write(path, lambda unfinished: nib.save(image, unfinished))


def _patient(random: Random, side: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One scan (X, Y, Z) int16, its mask (X, Y, Z) uint8, and the affine of both."""
    slices = int(random.integers(6, 11))
    shape = tuple(round(side * random.uniform(0.85, 1.15)) for _ in range(2))
    pixel_mm, thickness_mm = random.uniform(1.2, 1.8), random.uniform(8, 10)
    heart, tissues = draw_heart(random), draw_tissues(random)
    plane = Plane(random, shape, slices, pixel_mm)
    distances = distances_to(plane, heart)
    picture = paint_anatomy(random, plane, heart, distances, tissues).reshape(slices, LAYERS, *shape).mean(axis=1)
    mask = class_mask(distances)[LAYERS // 2 :: LAYERS]
    scan = np.round(1000 * _scanned(random, picture, plane)).astype(np.int16)
    affine = _affine(random, (pixel_mm, pixel_mm, thickness_mm), (*shape, slices))
    return np.moveaxis(scan, 0, -1), np.moveaxis(mask, 0, -1), affine


def _scanned(random: Random, slices: np.ndarray, plane: Plane) -> np.ndarray:
    """What a scanner makes of `slices` (Z, X, Y): blur, an uneven coil, its own grey scale, and noise."""
    coil = np.exp(plane.waves(random, 3, (150, 350), 0.25, tilt=0)[:1])
    blurred = _blurred(slices, random.uniform(0.45, 0.95)) * random.normal(1, 0.04, (len(slices), 1, 1))
    signal = np.clip(blurred * coil, 0, None) ** random.uniform(0.75, 1.35)
    noise = random.uniform(0.02, 0.055) * random.normal(size=(2, *signal.shape))
    return np.asarray(random.uniform(0.4, 1.0) * np.hypot(signal + noise[0], noise[1]))


def _blurred(slices: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian blur of every slice, `sigma` in pixels."""
    rates = np.meshgrid(*(np.fft.fftfreq(length) for length in slices.shape[1:]), indexing="ij")
    passed = np.exp(-2 * (np.pi * sigma) ** 2 * (rates[0] ** 2 + rates[1] ** 2))
    return np.asarray(np.fft.ifft2(np.fft.fft2(slices) * passed).real)


def _affine(random: Random, spacing_mm: tuple[float, ...], shape: tuple[int, ...]) -> np.ndarray:
    """An oblique view of the chest, as short-axis scans are: (4, 4), the middle of the scan near the origin."""
    rotation, _ = np.linalg.qr(np.diag([-1.0, -1.0, 1.0]) + random.normal(0, 0.25, (3, 3)))
    affine = np.eye(4)
    affine[:3, :3] = rotation * np.array(spacing_mm)
    affine[:3, 3] = random.normal(0, 20, 3) - affine[:3, :3] @ (np.array(shape) / 2)
    return affine
