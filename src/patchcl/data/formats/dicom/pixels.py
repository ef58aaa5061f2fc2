"""The numbers in DICOM files: decompressed, brighter upwards, in units of the modality.

pydicom decodes, and the rest is done here, not by `highdicom.get_volume_from_series`: that needs a frame of reference,
and so refuses radiographs and what was anonymised; it applies lookup tables unasked, makes float64 of whole numbers,
and names no file in what it says of damage.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from patchcl.core.errors import UserError
from patchcl.data.formats.base import reading
from patchcl.data.formats.dicom.frames import KIND, Dataset, Frame, read_content
from patchcl.data.formats.dicom.stack import Stack

COLOURS = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")


def values_of(stack: Stack) -> np.ndarray:
    """The voxels (C, *shape) of `stack` after rescaling, frame by frame; C is 3 for colour, else 1.

    MONOCHROME1, in which small numbers are bright, is turned round, so that large ones are bright in every image.

    Raises:
        UserError: A file holds no pixels, is truncated, or is compressed in an unknown way.
    """
    planes = np.stack(_planes(stack.frames))  # (slices, rows, columns) and, of colour, components
    if planes.ndim == 3:
        planes = planes[..., None]
    return planes.transpose(3, 2, 1, 0).reshape(-1, *stack.grid.shape)


def read_pixels(path: Path) -> tuple[Dataset, np.ndarray]:
    """The whole content of a DICOM file, and its pixels (frames, rows, columns) or (frames, rows, columns, 3).

    Raises:
        UserError: It holds none, is truncated, or is compressed in a way that nothing installed can read.
    """
    content = read_content(path)
    with reading(path, KIND):
        from pydicom.pixels import pixel_array

        if not any(key in content for key in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
            raise UserError(f"{path} holds no pixels, only a header. Copy or export it again.")
        _require_decoder(content, path)
        pixels = pixel_array(content, allow_excess_frames=False)  # few bits are padded to what looks like frames
        colour = pixels.shape[-1:] if content.get("SamplesPerPixel", 1) > 1 else ()
        return content, pixels.reshape(-1, content.Rows, content.Columns, *colour)


def _planes(frames: Sequence[Frame]) -> list[np.ndarray]:
    """The rescaled pixels of every frame; each file is opened once."""
    planes: dict[tuple[Path, int], np.ndarray] = {}
    for path in dict.fromkeys(frame.path for frame in frames):
        content, pixels = read_pixels(path)
        planes |= {(path, place): plane for place, plane in enumerate(_brighter_upwards(content, pixels, path))}
    return [_rescaled(planes[frame.path, frame.place], frame) for frame in frames]


def _brighter_upwards(content: Dataset, pixels: np.ndarray, path: Path) -> np.ndarray:
    kind = str(content.get("PhotometricInterpretation", ""))
    if "ModalityLUTSequence" in content:
        raise UserError(f"{path} holds values behind a lookup table (Modality LUT). Export it with plain values.")
    if kind == "MONOCHROME1":
        lowest_and_highest = -1 if content.PixelRepresentation else (1 << content.BitsStored) - 1
        return (lowest_and_highest - pixels.astype(np.int64)).astype(pixels.dtype)
    if kind not in ("MONOCHROME2", *COLOURS):
        raise UserError(f"{path} holds pixels as {kind or 'nothing known'}. Export it in grey or in RGB.")
    return pixels


def _rescaled(plane: np.ndarray, frame: Frame) -> np.ndarray:
    """In units of the modality, such as Hounsfield's; whole numbers stay whole where only an offset is added."""
    if frame.slope == 1 and frame.intercept == 0:
        return plane
    if frame.slope == 1 and frame.intercept.is_integer() and plane.dtype.kind in "iu":
        return plane.astype(np.int32 if plane.itemsize < 4 else np.int64) + int(frame.intercept)
    return (plane * frame.slope + frame.intercept).astype(np.float32)


def _require_decoder(content: Dataset, path: Path) -> None:
    """Refuse pixels that nothing installed can decompress, and name what can."""
    from pydicom.pixels import get_decoder

    syntax = content.file_meta.TransferSyntaxUID
    try:
        if get_decoder(syntax).is_available:
            return
    except NotImplementedError:
        raise UserError(f"{path} is compressed as {syntax.name}, which is not read. Export it uncompressed.") from None
    plugin = "pyjpegls" if "JPEG-LS" in syntax.name else "pylibjpeg pylibjpeg-libjpeg"
    plugin = "pylibjpeg pylibjpeg-openjpeg" if "2000" in syntax.name else plugin
    raise UserError(
        f"{path} is compressed as {syntax.name}, and nothing that reads it is installed: pip install {plugin}"
    )
