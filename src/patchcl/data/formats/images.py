"""PNG, JPEG, BMP, GIF and WebP, read with Pillow, and TIFF, which `tiff` reads; content tells which, not the name.

Axes are (rows, columns), and (rows, columns, pages) where a TIFF has several pages. Pictures do not say where they lie
in a patient, and what they call resolution is that of a printer more often than not: it is ignored, the affine is the
identity and a pixel counts as 1 mm. A GIF has a colour map in any case, so one of greys alone is a grey picture; a WebP
is in colour in any case, and as a mask its grey counts.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from patchcl.core.errors import UserError
from patchcl.core.files import atomic_write
from patchcl.data.formats import tiff
from patchcl.data.formats.base import (
    DEFLATE_RATIO,
    Format,
    RowBlocks,
    reading,
    require_content,
    require_eight_bits,
    require_grey,
    require_opaque,
    require_upright,
)
from patchcl.data.formats.tiff import KIND, open_tiff
from patchcl.data.geometry import Grid, grid_of

GREY = ("1", "L", "I", "F", "I;16", "I;16L", "I;16B", "I;16N")
COLOUR = {"RGB": "RGB", "P": "RGB", "RGBA": "RGB", "PA": "RGB", "LA": "L"}
"""Other modes that Pillow finds, and what we make of them."""
SPREAD = {"L;2": 85, "L;4": 17}
"""Grey values of so few bits are multiplied by Pillow, so that the largest is 255."""
ORIENTATION = 274  # a tag of EXIF
KNOWN = ("PNG", "JPEG", "BMP", "GIF", "WEBP")
RATIOS = {"GIF": 2800, "WEBP": math.inf}
"""How many bytes one byte of a file can stand for, where that is not as for PNG; WebP has no bound."""


def read_grid(path: Path) -> Grid:
    """The grid of the picture at `path`, from its header alone.

    Raises:
        UserError: The file is missing, or is no picture that can be read as it is meant.
    """
    if stored := open_tiff(path):
        return grid_of(path, stored.shape, np.eye(4))._replace(placed=False)
    with _open(path) as picture:
        return grid_of(path, (picture.height, picture.width), np.eye(4))._replace(placed=False)


def count_channels(path: Path) -> int:
    """3 for colour and 1 for grey, from the header alone.

    Raises:
        UserError: As for `read_grid`.
    """
    if stored := open_tiff(path):
        return stored.channels
    with _open(path) as picture:
        return len(_made_into(picture))


def is_lossless_rgb(path: Path) -> bool:
    """Whether pixels are colours, without a map, in a format that keeps them as they are; from the header alone.

    Raises:
        UserError: As for `read_grid`.
    """
    if stored := open_tiff(path):
        return stored.rgb
    with _open(path) as picture:
        kept = picture.format in ("PNG", "BMP") or (picture.format == "WEBP" and not _is_lossy(picture))
        return kept and picture.mode in ("RGB", "RGBA")


def read_values(path: Path) -> np.ndarray:
    """The pixels (C, *shape); red, green and blue for colour, also where the file has a colour map.

    Raises:
        UserError: The file cannot be read, pixels are transparent, or pages differ.
    """
    if stored := open_tiff(path):
        return stored.values()
    with _open(path) as picture:
        _require_intact(picture)
        _require_opaque(picture, path)
        values = np.asarray(picture.convert(_made_into(picture)) if picture.mode in COLOUR else picture)
        return values[None] if values.ndim == 2 else np.moveaxis(values, 2, 0)


def value_row_blocks(path: Path) -> RowBlocks | None:
    """What `read_values` gives, some rows at a time, of a TIFF of one page with so many pixels; else None.

    Raises:
        UserError: As for `read_values`.
    """
    stored = open_tiff(path)
    return stored and stored.value_row_blocks()


def class_row_blocks(path: Path) -> RowBlocks | None:
    """What `read_classes` gives, (1, rows, columns), some rows at a time; see `value_row_blocks`.

    Raises:
        UserError: As for `read_classes`.
    """
    stored = open_tiff(path)
    return stored and stored.class_row_blocks()


def read_classes(path: Path) -> np.ndarray:
    """The classes (*shape) of a mask: grey values as they are stored, or the indices of a colour map.

    Raises:
        UserError: The file cannot be read, is a JPEG or a lossy WebP, or holds colours without a map.
    """
    if stored := open_tiff(path):
        return stored.classes()
    with _open(path) as picture:
        _require_intact(picture)
        lossy = "a JPEG" if picture.format in ("JPEG", "MPO") else "a lossy WebP" if _is_lossy(picture) else ""
        if lossy:
            raise UserError(
                f"{path} is {lossy}, which changes values when it is saved. Save the mask as PNG or TIFF, or import "
                "it with --threshold VALUE if it shows one structure."
            )
        if picture.format == "WEBP" or _is_grey_gif(picture):
            return _grey_of(picture, path)
        require_grey(path, "" if picture.mode in (*GREY, "P") else picture.mode)
        factor = SPREAD.get(_stored_as(picture), 1)
        return np.asarray(picture) // factor if factor > 1 else np.asarray(picture)


def colour_map(path: Path) -> np.ndarray | None:
    """The colours (indices, 3) uint8 of a picture whose pixels are indices; None of any other; from the header alone.

    Raises:
        UserError: As for `read_grid`.
    """
    if stored := open_tiff(path):
        colours = stored.pages[0].colours
        return None if colours is None else np.ascontiguousarray(colours.T)
    with _open(path) as picture:
        if picture.mode != "P" or _is_grey_gif(picture):
            return None
        colours = np.array(picture.getpalette("RGB"), np.uint8).reshape(-1, 3)
        return np.pad(colours, ((0, 256 - len(colours)), (0, 0)))  # as others are that say of all indices


def write_like(path: Path, values: np.ndarray, like: Path) -> None:
    """Write `values` (*shape), uint8 as PNG or TIFF in grey, float32 as TIFF; a page for each slice.

    Raises:
        UserError: `like` cannot be read.
    """
    shape = read_grid(like).shape
    if values.shape != shape:
        raise ValueError(f"values of shape {values.shape} do not fit {like} of shape {shape}")
    if path.suffix.lower() in (".tif", ".tiff"):
        tiff.write(path, np.moveaxis(values, 2, 0) if len(shape) == 3 else values[None])
    else:
        atomic_write(path, Image.fromarray(np.ascontiguousarray(values)).save)


@contextmanager
def _open(path: Path) -> Iterator[Any]:
    """The picture at `path`, its pixels still on disk, after a look at whether they can be read as they are meant."""
    with reading(path, KIND):
        try:
            picture = Image.open(path, formats=KNOWN)
        except Image.DecompressionBombError as error:
            raise UserError(f"{path} is too large to be read at once ({error}). {tiff.SMALLER}") from error
        with picture:
            _require_meant(picture, path)
            yield picture


def _require_meant(picture: Any, path: Path) -> None:  # noqa: ANN401 - plug-ins of Pillow have attributes of their own
    """Refuse what Pillow would read without a word but not as it is meant."""
    if picture.mode not in (*GREY, *COLOUR):
        raise UserError(f"{path} has colours of kind {picture.mode}; expected grey or RGB. Convert it.")
    if picture.mode in COLOUR:
        require_eight_bits(path, 16 if ";16" in _stored_as(picture) else 8)
    if picture.format in ("GIF", "WEBP") and picture.is_animated:
        raise UserError(
            f"{path} is animated: it holds {picture.n_frames} pictures; expected one. Save each in a file of its own, "
            "or slices as the pages of a TIFF."
        )
    if picture.format in ("JPEG", "MPO", "WEBP"):
        require_upright(path, picture.getexif().get(ORIENTATION, 1))
    require_content(path, math.prod(picture.size) * len(picture.getbands()), RATIOS.get(picture.format, DEFLATE_RATIO))


def _require_opaque(picture: Any, path: Path) -> None:  # noqa: ANN401
    """Refuse a picture of which pixels are transparent, by a channel or by an index of its colour map."""
    if picture.mode in ("RGBA", "LA", "PA") or (picture.mode == "P" and "transparency" in picture.info):
        require_opaque(path, picture.convert("RGBA").getchannel("A").getextrema()[0] == 255)


def _made_into(picture: Any) -> str:  # noqa: ANN401
    """What becomes of a picture: grey ("L") or colours ("RGB")."""
    return "L" if _is_grey_gif(picture) else COLOUR.get(picture.mode, "L")


def _is_grey_gif(picture: Any) -> bool:  # noqa: ANN401
    """Whether this is a GIF whose colour map holds greys alone; only until it is converted."""
    if picture.format != "GIF" or picture.mode != "P":
        return False
    colours = np.array(picture.getpalette("RGB"), np.uint8).reshape(-1, 3)
    return bool((colours == colours[:, :1]).all())


def _is_lossy(picture: Any) -> bool:  # noqa: ANN401
    """Whether this is a WebP whose pixels are packed with loss, which its parts tell."""
    if picture.format != "WEBP":
        return False
    with Path(picture.filename).open("rb") as file:
        file.seek(12)
        while len(head := file.read(8)) == 8:
            if head[:4] in (b"VP8 ", b"VP8L"):
                return head[:4] == b"VP8 "
            size = int.from_bytes(head[4:], "little")
            file.seek(size + size % 2, 1)
    return True


def _grey_of(picture: Any, path: Path) -> np.ndarray:  # noqa: ANN401
    """The grey values of a mask in a format that has colours in any case."""
    if picture.format == "WEBP":
        _require_opaque(picture, path)
    values = np.asarray(picture.convert("RGB"))
    require_grey(path, "" if (values == values[..., :1]).all() else "RGB")
    return np.ascontiguousarray(values[..., 0])


def _require_intact(picture: Any) -> None:  # noqa: ANN401
    """Check the sums of a PNG, which Pillow passes over when it reads pixels."""
    if picture.format == "PNG":
        with Image.open(picture.filename, formats=("PNG",)) as again:
            again.verify()


def _stored_as(picture: Any) -> str:  # noqa: ANN401
    """How pixels lie in the file, as Pillow calls it: "RGB;16B". Known until they are read, and not of a WebP."""
    stored = picture.tile[0][3] if picture.tile else ""
    return stored if isinstance(stored, str) else str(stored[0])


FORMAT = Format(
    "picture",
    (".tiff", ".jpeg", ".webp", ".tif", ".jpg", ".png", ".bmp", ".gif"),
    read_grid,
    read_values,
    write_like,
    read_classes=read_classes,
    count_channels=count_channels,
    value_row_blocks=value_row_blocks,
    class_row_blocks=class_row_blocks,
    masks_as=dict.fromkeys((".jpeg", ".webp", ".jpg", ".bmp", ".gif"), ".png"),
    maps_as=dict.fromkeys((".jpeg", ".webp", ".jpg", ".png", ".bmp", ".gif"), ".tif"),
)
