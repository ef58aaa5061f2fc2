"""HTML pages from templates: one file without scripts or outside resources, for light and dark screens."""

from base64 import b64encode
from collections.abc import Callable, Mapping
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib.figure import Figure

from patchcl.core.errors import UserError
from patchcl.core.files import write_text
from patchcl.figures.charts import DARK, LIGHT, Theme
from patchcl.figures.overlays import png


def write_page(template: str, content: Mapping[str, object], out: Path) -> None:
    """Fill `template`, one of the folder templates, and write the page to `out`.

    Raises:
        UserError: `out` cannot be written.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template(template).render(content)
    try:
        write_text(out, page)
    except OSError as error:
        raise UserError(f"Cannot write {out}: {error.strerror}. Choose another place with -o.") from error


def themed(draw: Callable[[Theme], Figure]) -> dict[str, str]:
    """A chart for light pages and the same for dark ones."""
    return {"light": picture_uri(png(draw(LIGHT))), "dark": picture_uri(png(draw(DARK)))}


def picture_uri(picture: bytes) -> str:
    """A PNG picture as a data URI, an address that holds it."""
    return f"data:image/png;base64,{b64encode(picture).decode()}"
