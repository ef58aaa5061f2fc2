"""Names that others chose (classes, scans, folders) where they could do harm: in terminals, file names and tags."""

import re
from collections.abc import Iterable

STEERING = r"\x00-\x1f\x7f-\x9f\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff"
"""What steers a terminal or turns the text around it and is never seen itself, and halves of characters."""
FORMULAS = ("=", "+", "-", "@", "\t", "\r")
"""How what a spreadsheet computes begins."""
INSTEAD = "\ufffd"
OTHER_SIDE = {"left": "right", "right": "left", "l": "r", "r": "l"}


def printable(text: str) -> str:
    """`text` with a mark in place of every character that would steer a terminal; line ends and tabs stay."""
    return re.sub(rf"(?![\n\t])[{STEERING}]", INSTEAD, text)


def steers(text: str) -> bool:
    """Whether `text` holds a character that would steer a terminal, line ends and tabs among them."""
    return re.search(f"[{STEERING}]", text) is not None


def no_formula(text: str) -> str:
    """`text` as a cell of a table; with ' before what a spreadsheet would compute, such as a file called =1+1."""
    return f"'{text}" if text[:1] in FORMULAS and not _is_number(text) else text


def sided(names: Iterable[str]) -> list[str]:
    """Those of `names` whose other side is among them, too: `kidney left` and `kidney right`, or `L` and `R`."""
    known = {name.casefold(): name for name in names}
    sides = r"left|right|(?<![a-z])[lr](?![a-z])"
    other = {name: re.sub(sides, lambda found: OTHER_SIDE[found[0]], name) for name in known}
    return [known[name] for name in known if other[name] != name and other[name] in known]


def one_sided(names: Iterable[str]) -> list[str]:
    """Those of `names` that speak of the left or the right and whose other side is not among them: `left kidney`."""
    listed = list(names)
    both = sided(listed)
    words = r"(?<![a-z])(left|right)(?![a-z])"
    return [name for name in listed if name not in both and re.search(words, name.casefold())]


def file_safe(name: str) -> str:
    """`name` as a part of a file name or of a tag; two names never become one.

    Letters and digits of any script, blanks and `-_.+()` stay, all else becomes %XX as in web addresses.
    """
    return re.sub(r"[^\w .+()-]", _percent, name)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _percent(found: re.Match[str]) -> str:
    return "".join(f"%{byte:02X}" for byte in found[0].encode("utf-8", "surrogatepass"))
