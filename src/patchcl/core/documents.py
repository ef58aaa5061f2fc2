"""YAML and JSON that somebody may have edited: whatever is wrong with the text is one exception with a short reason."""

import json
import math
from typing import Any

import yaml

LONGEST_REASON = 300
"""Characters: a parser may quote the whole text in its message."""
MOST_VALUES = 100_000
"""Of a YAML text with all aliases written out; ten lines of aliases can stand for more than any memory holds."""


class DocumentError(ValueError):
    """The text cannot be read; the message says why, in one line."""


def parse_yaml(text: str | bytes) -> Any:  # noqa: ANN401 - whatever YAML can hold
    """What a YAML text holds.

    Raises:
        DocumentError: It is no YAML, is nested deeper than Python can follow, holds a number or a date that is none,
            gives a key of one mapping twice, or stands for more than `MOST_VALUES` values.
    """
    try:
        loader = yaml.SafeLoader(_decoded(text))
        node = loader.get_single_node()
        if node is None:
            return None
        if _values(node, {}) > MOST_VALUES:
            raise DocumentError(f"its aliases stand for more than {MOST_VALUES} values, or for themselves")
        _require_single_keys(node)
        return loader.construct_document(node)
    except DocumentError:
        raise
    except RecursionError as error:
        raise DocumentError("it is nested too deep") from error
    except (yaml.YAMLError, ValueError, TypeError, OverflowError) as error:
        raise DocumentError(_reason(error)) from error


def parse_json(text: str | bytes) -> Any:  # noqa: ANN401 - whatever JSON can hold
    """What a JSON text holds.

    Raises:
        DocumentError: It is no JSON, is nested deeper than Python can follow, or holds a number too long to be read.
    """
    try:
        return json.loads(_decoded(text))
    except RecursionError as error:
        raise DocumentError("it is nested too deep") from error
    except ValueError as error:
        raise DocumentError(_reason(error)) from error


def _values(node: yaml.Node, known: dict[yaml.Node, float]) -> float:
    """How many values a node stands for; infinitely many if it holds itself. `known` are those that were counted."""
    if node not in known:
        known[node] = math.inf
        parts = [part for pair in node.value for part in pair] if isinstance(node, yaml.MappingNode) else node.value
        inside = parts if isinstance(node, yaml.CollectionNode) else ()
        known[node] = 1 + sum(_values(part, known) for part in inside)
    return known[node]


def _require_single_keys(node: yaml.Node) -> None:
    """PyYAML takes the last of two and forgets the first; the standard says that there are none."""
    if isinstance(node, yaml.MappingNode):
        lines: dict[tuple[str, str], int] = {}
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode):
                line, known = key.start_mark.line + 1, (key.tag, key.value)
                if known in lines:
                    raise DocumentError(f"{key.value} is there twice, in line {lines[known]} and in line {line}")
                lines[known] = line
            _require_single_keys(value)
    elif isinstance(node, yaml.SequenceNode):
        for part in node.value:
            _require_single_keys(part)


def _decoded(text: str | bytes) -> str:
    """Windows puts a mark before the first character, which is none of the text."""
    return text.decode("utf-8-sig") if isinstance(text, bytes) else text.removeprefix("\ufeff")


def _reason(error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError):
        return f"byte {error.start} is no text in UTF-8, as which it is to be saved"
    reason = " ".join(str(error).split())
    return reason if len(reason) <= LONGEST_REASON else f"{reason[:LONGEST_REASON]}..."
