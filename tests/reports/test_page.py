"""What all pages share."""

import base64

import pytest
from matplotlib.figure import Figure

from patchcl.core.errors import UserError
from patchcl.figures.charts import DARK, LIGHT
from patchcl.reports.page import picture_uri, themed, write_page


def test_a_page_is_filled_and_what_is_filled_in_is_text(tmp_path):
    write_page("base.html.j2", {"title": "Dice < 1 & more"}, tmp_path / "new" / "page.html")
    page = (tmp_path / "new" / "page.html").read_text()
    assert "<title>Dice &lt; 1 &amp; more</title>" in page
    assert page.startswith("<!DOCTYPE html>")
    assert page.rstrip().endswith("</html>")


def test_a_gap_in_the_content_is_no_blank_in_the_page(tmp_path):
    with pytest.raises(Exception, match="'title' is undefined"):
        write_page("base.html.j2", {}, tmp_path / "page.html")


def test_a_page_that_cannot_be_written_is_explained(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="Cannot write"):
        write_page("base.html.j2", {"title": ""}, tmp_path / "file" / "page.html")


def test_a_chart_is_drawn_for_light_and_for_dark():
    asked = []

    def draw(theme):
        asked.append(theme)
        return Figure(figsize=(1, 1), facecolor=theme.ink)

    pictures = themed(draw)
    assert asked == [LIGHT, DARK]
    assert pictures["light"] != pictures["dark"]


def test_a_picture_can_be_had_back():
    uri = picture_uri(b"\x89PNG and so on")
    assert base64.b64decode(uri.removeprefix("data:image/png;base64,")) == b"\x89PNG and so on"
