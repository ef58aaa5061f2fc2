"""Texts that break parsers: one exception, one line."""

import pytest

from patchcl.core.documents import DocumentError, parse_json, parse_yaml

DEEP = "[" * 20_000
LONG = "9" * 5000


def test_sound_texts_are_read():
    assert parse_yaml("a: {b: [1, 2.5, null]}") == {"a": {"b": [1, 2.5, None]}}
    assert parse_json(b'{"a": [1, 2.5, null]}') == {"a": [1, 2.5, None]}


@pytest.mark.parametrize(
    "text", [DEEP, "a: " + LONG, "a: 2026-99-99", "a: [", "{[a]: b}: c", "!!python/object:os.system x", b"\xff", "\0"]
)
def test_broken_yaml_is_one_line(text):
    with pytest.raises(DocumentError) as told:
        parse_yaml(text)
    assert 0 < len(str(told.value)) < 400
    assert "\n" not in str(told.value)


LAUGHS = "a0: &a0 [ha, ha]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 10))


@pytest.mark.parametrize("text", [LAUGHS, LAUGHS.replace("[", "{<<: [").replace("]", "]}"), "&a [*a]", "a: &a {b: *a}"])
def test_aliases_that_stand_for_too_much_are_refused(text):
    with pytest.raises(DocumentError, match=r"more than 100000 values|mapping"):
        parse_yaml(text)


def test_aliases_that_stand_for_little_are_read():
    assert parse_yaml("a: &a {b: [1, 2]}\nc: *a\nd: {<<: *a, e: 3}") == {
        **{"a": {"b": [1, 2]}, "c": {"b": [1, 2]}},
        "d": {"b": [1, 2], "e": 3},
    }
    assert parse_yaml("") is None


@pytest.mark.parametrize("text", ['{"a": ' * 100_000, DEEP * 20, LONG, "", "{", b"\xff\xfe"])
def test_broken_json_is_one_line(text):
    with pytest.raises(DocumentError) as told:
        parse_json(text)
    assert 0 < len(str(told.value)) < 400
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
def test_another_encoding_is_told_with_the_one_to_save_in(encoding):
    """As PowerShell and old editors write."""
    text = '{"name": "Prüfung"}'
    assert parse_json(text.encode("utf-8-sig")) == {"name": "Prüfung"}
    for parse in (parse_json, parse_yaml):
        with pytest.raises(DocumentError, match=r"^byte [0-9]+ is no text in UTF-8, as which it is to be saved$"):
            parse(text.encode(encoding))


def test_a_key_that_is_there_twice_is_refused():
    """Else the first of two groups of settings is forgotten without a word."""
    with pytest.raises(DocumentError, match=r"training is there twice, in line 1 and in line 3"):
        parse_yaml("training: {steps: 12}\nplan: {}\ntraining: {validate_every: 6}\n")
    with pytest.raises(DocumentError, match="a is there twice"):
        parse_yaml("- {b: {a: 1, a: 1}}")
    assert parse_yaml("x: &x {a: 1}\ny: {<<: *x, a: 2}\n") == {"x": {"a": 1}, "y": {"a": 2}}
