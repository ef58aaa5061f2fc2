"""Headers that nibabel refuses or misplaces, against SimpleITK's reading."""

import gzip
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from patchcl.core.errors import UserError
from patchcl.data.formats.nifti import read_grid, read_values, write_like
from patchcl.data.formats.nifti_header import is_packed

VOXELS = np.random.default_rng(0).integers(-1000, 1000, (5, 4, 3)).astype(np.int16)
AFFINE = np.array([[-1.25, 0, 0, 20], [0, -1.5, 0, 30], [0, 0, 6, 5], [0, 0, 0, 1]])


def save(path: Path, change: Callable[[nib.Nifti1Header], None]) -> Path:
    """Voxels with a qform alone, under a header that `change` has touched and nibabel has not checked."""
    image = nib.Nifti1Image(VOXELS, None)
    image.set_qform(AFFINE, code=1)
    content = bytearray(image.to_bytes())
    header = nib.Nifti1Header(bytes(content[:348]), check=False)
    change(header)
    content[:348] = header.binaryblock
    path.write_bytes(bytes(content))
    return path


def too_long(header: nib.Nifti1Header) -> None:
    header["quatern_b"], header["quatern_c"], header["quatern_d"] = 0, 0, 1 + 5e-7


def zero_sform(header: nib.Nifti1Header) -> None:
    header["sform_code"] = 1


def negative(header: nib.Nifti1Header) -> None:
    """As old converters write, without any form."""
    header["pixdim"][1] *= -1
    header["qform_code"] = 0


@pytest.mark.parametrize("change", [too_long, zero_sform])
def test_what_itk_reads_is_read_alike(tmp_path: Path, change: Callable[[nib.Nifti1Header], None]) -> None:
    sitk = pytest.importorskip("SimpleITK")
    path = save(tmp_path / "a.nii", change)
    np.testing.assert_allclose(read_grid(path).affine, AFFINE, atol=1e-5)
    write_like(tmp_path / "out.nii", VOXELS.astype(np.uint8), path)
    scan, written = (sitk.ReadImage(str(file)) for file in (path, tmp_path / "out.nii"))
    np.testing.assert_allclose(read_grid(path).spacing_mm, scan.GetSpacing(), rtol=1e-6)
    np.testing.assert_allclose(read_grid(path).affine[:3, 3] * (-1, -1, 1), scan.GetOrigin(), atol=1e-5)
    assert (written.GetSpacing(), written.GetOrigin()) == (scan.GetSpacing(), scan.GetOrigin())
    assert written.GetDirection() == scan.GetDirection()


def test_a_negative_spacing_is_repaired_without_a_word(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    sitk = pytest.importorskip("SimpleITK")
    path = save(tmp_path / "a.nii", negative)
    assert read_grid(path).spacing_mm == (1.25, 1.5, 6)
    assert not read_grid(path).placed
    write_like(tmp_path / "out.nii", VOXELS.astype(np.uint8), path)
    assert [record for record in caplog.records if record.name == "nibabel.global"] == []
    scan, written = (sitk.ReadImage(str(file)) for file in (path, tmp_path / "out.nii"))
    for of in (sitk.Image.GetSpacing, sitk.Image.GetOrigin, sitk.Image.GetDirection):
        assert of(written) == of(scan)
    with pytest.raises(
        UserError, match=r"b\.nii cannot be read as a NIfTI image \(pixdim is negative, by which readers"
    ):
        read_grid(save(tmp_path / "b.nii", lambda header: header["pixdim"].__setitem__(1, -1.25)))


def test_a_quaternion_that_no_rounding_explains_is_refused(tmp_path: Path) -> None:
    def far_too_long(header: nib.Nifti1Header) -> None:
        header["quatern_d"] = 1.1

    with pytest.raises(UserError, match=r"a\.nii cannot be read as a NIfTI image \(w2 should be positive"):
        read_grid(save(tmp_path / "a.nii", far_too_long))


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
def test_names_do_not_tell_what_is_packed(tmp_path: Path, kind: type) -> None:
    nib.save(kind(VOXELS, AFFINE), tmp_path / "true.nii")
    content = (tmp_path / "true.nii").read_bytes()
    for name, stored in {"plain.nii.gz": content, "packed.nii": gzip.compress(content)}.items():
        (tmp_path / name).write_bytes(stored)
        assert is_packed(tmp_path / name) == (name == "packed.nii")
        np.testing.assert_array_equal(read_values(tmp_path / name)[0], VOXELS)
        np.testing.assert_array_equal(read_grid(tmp_path / name).affine, AFFINE)
        (tmp_path / f"cut_{name}").write_bytes(stored[:-10])
        with pytest.raises(UserError, match="cannot be read"):
            read_values(tmp_path / f"cut_{name}")
        write_like(tmp_path / "out.nii.gz", VOXELS, tmp_path / name)
        assert type(nib.load(tmp_path / "out.nii.gz")) is kind
