"""Overlays: masks over images, and the pseudo-masks of a teacher over training, as figures and PNG files.

Arrays come in file order, x first, and are shown with x to the right and y downwards. The colour of a class is the
same in every picture. Nothing here touches matplotlib's global state, so a training loop may draw at any time.
"""

import warnings
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize, to_rgb
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Patch
from matplotlib.text import Text

from patchcl.core.files import atomic_write

PALETTE = ("#56B4E9", "#E69F00", "#009E73", "#F0E442", "#CC79A7", "#D55E00", "#0072B2", "#BBBBBB")
"""Colours of classes 1, 2, ... that colour-blind readers can tell apart (Okabe and Ito 2008), repeated when used up."""

MOST_NAMES = 12
"""Classes that a legend always names; of more it names those that are shown."""
VIEWER, INK = "#111318", "#D5D8DE"
UNCERTAINTY_COLOURS = "magma"
DOTS_PER_INCH = 110


class Panel(NamedTuple):
    """One picture of a grid: a slice and, drawn over it, a mask."""

    image: np.ndarray  # (X, Y), or (X, Y, 3) in colour, any range
    mask: np.ndarray | None = None  # (X, Y) classes
    caption: str = ""  # written below


def class_colour(value: int) -> str:
    """The colour of class `value`, which is 1 or more."""
    return PALETTE[(value - 1) % len(PALETTE)]


def mask_over_image(image: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    """The slice with every class tinted, ready to be shown.

    Args:
        image: (X, Y), or (X, Y, 3) in colour, in any range; its 0.5th to 99.5th percentile become dark to bright.
        mask: (X, Y) classes; 0 is left untinted.

    Returns:
        (Y, X, 3) red, green and blue in [0, 1].
    """
    low, high = np.percentile(image, (0.5, 99.5))
    rgb = np.clip((image - low) / max(float(high - low), 1e-12), 0, 1)
    if image.ndim == 2:
        rgb = np.repeat(rgb[..., None], 3, axis=-1)
    for value in np.unique(mask[mask > 0]) if mask is not None else ():
        inside = mask == value
        rgb[inside] = 0.65 * rgb[inside] + 0.35 * np.array(to_rgb(class_colour(int(value))))
    return np.asarray(rgb.swapaxes(0, 1))


def overlay_grid(
    rows: Sequence[Sequence[Panel]],
    columns: Sequence[str],
    classes: Sequence[str],
    title: str = "",
    aspect: float = 1.0,
) -> Figure:
    """A table of slices, one row per case, with the name of every column above and a legend of the classes below.

    Args:
        rows: The panels of every row, as many as there are columns, or fewer.
        columns: What each column shows.
        classes: Names of all classes, background first.
        title: Written above.
        aspect: Height of a voxel over its width, for slices whose voxels are not square.
    """
    heights = [aspect * row[0].image.shape[1] / row[0].image.shape[0] for row in rows]
    captioned = any(panel.caption for row in rows for panel in row)
    figure, axes = _viewer(heights, columns, title, caption_inches=0.2 * captioned)
    for row, row_axes in zip(rows, axes, strict=True):
        for panel, axis in zip(row, row_axes, strict=False):
            _show(axis, panel, aspect)
    _class_legend(figure, classes, [panel.mask for row in rows for panel in row if panel.mask is not None])
    return figure


def pseudo_mask_strip(
    path: Path,
    images: np.ndarray,
    masks: np.ndarray,
    uncertainty: np.ndarray,
    classes: Sequence[str],
    title: str = "",
) -> None:
    """Save what the teacher believes of up to four unlabeled images, beside how unsure it is.

    Args:
        path: The PNG file to write.
        images: (N, X, Y) in any range.
        masks: (N, X, Y) pseudo-masks.
        uncertainty: (N, X, Y) in [0, 1], shown dark to bright on that same scale whatever the step.
        classes: Names of all classes, background first.
        title: Written above.
    """
    images, masks, uncertainty = images[:4], masks[:4], uncertainty[:4]
    columns = ("image", "pseudo-mask", "uncertainty")
    figure, axes = _viewer([image.shape[1] / image.shape[0] for image in images], columns, title)
    for row, image, mask, unsure in zip(axes, images, masks, uncertainty, strict=True):
        _show(row[0], Panel(image))
        _show(row[1], Panel(image, mask))
        row[2].imshow(unsure.T, cmap=UNCERTAINTY_COLOURS, vmin=0, vmax=1, interpolation="nearest")
    scale = ScalarMappable(Normalize(0, 1), UNCERTAINTY_COLOURS)
    bar = figure.colorbar(scale, ax=axes[:, 2].tolist(), fraction=0.045, pad=0.02, ticks=[0, 0.5, 1])
    bar.ax.tick_params(labelsize=8, labelcolor=INK, color=INK)
    bar.outline.set_visible(False)
    _class_legend(figure, classes, list(masks))
    save_png(figure, path)


def save_png(figure: Figure, path: Path) -> None:
    """Write the figure to `path`, whole or not at all."""
    atomic_write(path, lambda unfinished: unfinished.write_bytes(png(figure)))


def legend_label(name: str) -> str:
    """`name` for a legend, out of which matplotlib leaves what begins with an underscore."""
    return f" {name}" if name.startswith("_") else name


def png(figure: Figure) -> bytes:
    """The figure as the content of a PNG file."""
    for text in figure.findobj(Text):
        if "$" in text.get_text() and "mathdefault" not in text.get_text():  # a name of the user's, and no formula
            text.set_parse_math(False)
    buffer = BytesIO()
    FigureCanvasAgg(figure)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")  # a letter that the font lacks becomes a box
        figure.savefig(buffer, format="png", dpi=DOTS_PER_INCH)
    return buffer.getvalue()


def _viewer(
    heights: Sequence[float], columns: Sequence[str], title: str, caption_inches: float = 0.0
) -> tuple[Figure, Any]:
    """A dark figure of empty panels and their axes, an array of (rows, columns), below the column names.

    Args:
        heights: Of every row, with the width of a panel as the unit.
        columns: Names of the columns.
        title: Written above.
        caption_inches: Room below each row.
    """
    width = 2.3
    inches = [width * min(max(height, 0.3), 2.5) + caption_inches for height in heights]
    layout = ConstrainedLayoutEngine(w_pad=0.03, h_pad=0.05, wspace=0.01, hspace=0.01)
    size = (width * len(columns) + 0.2, sum(inches) + (0.85 if title else 0.6))
    figure = Figure(figsize=size, facecolor=VIEWER, layout=layout)
    axes = figure.subplots(len(heights), len(columns), squeeze=False, height_ratios=inches)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[], facecolor=VIEWER)
        axis.spines[:].set_visible(False)
    for axis, name in zip(axes[0], columns, strict=True):
        axis.set_title(name, fontsize=9, color=INK)
    if title:
        figure.suptitle(title, fontsize=10, color=INK)
    return figure, axes


def _show(axis: Axes, panel: Panel, aspect: float = 1.0) -> None:
    axis.imshow(mask_over_image(panel.image, panel.mask), aspect=aspect, interpolation="nearest")
    axis.set_xlabel(panel.caption, fontsize=8, color=INK)
    for value in np.unique(panel.mask) if panel.mask is not None else ():
        inside = np.asarray(panel.mask == value, float).T
        if value > 0 and not inside.all() and min(inside.shape) > 1:
            axis.contour(inside, levels=[0.5], colors=[class_colour(int(value))], linewidths=1.1)


def _class_legend(figure: Figure, classes: Sequence[str], masks: Sequence[np.ndarray]) -> None:
    """The names of the classes, where they are many of those that `masks` show, on as many lines as they need."""
    values = list(range(1, len(classes)))
    if len(values) > MOST_NAMES:
        shown = set(np.unique(np.concatenate([mask.ravel() for mask in masks])).tolist()) if masks else set()
        values = [value for value in values if value in shown]
    keys = [Patch(color=class_colour(value), label=legend_label(classes[value])) for value in values]
    widest = 0.4 + 0.075 * max((len(classes[value]) for value in values), default=0)  # inches
    columns = max(1, min(len(keys), 6, int(figure.get_figwidth() / widest)))
    figure.set_figheight(figure.get_figheight() + 0.17 * max(0, -(-len(keys) // columns) - 1))
    figure.legend(
        handles=keys,
        loc="outside lower center",
        ncols=columns,
        frameon=False,
        labelcolor=INK,
        fontsize=8,
        handlelength=1,
    )
