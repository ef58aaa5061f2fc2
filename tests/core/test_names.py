"""Names that attack terminals and folders, each against what it must become."""

import pytest

from patchcl.core.names import file_safe, no_formula, one_sided, printable, sided, steers


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("left ventricle", "left ventricle"),
        ("Öd\u200cem [/red] ±", "Öd\u200cem [/red] ±"),
        ("\x1b[2Jgone", "\ufffd[2Jgone"),
        ("\x1b]0;title\x07", "\ufffd]0;title\ufffd"),
        ("\x9b31m", "\ufffd31m"),
        ("back\x08\rover", "back\ufffd\ufffdover"),
        ("two\nlines\tapart", "two\nlines\tapart"),
        ("turned\u202egnp.exe", "turned\ufffdgnp.exe"),
        ("half\udcff", "half\ufffd"),
    ],
)
def test_what_steers_a_terminal_is_marked_and_nothing_else(name, shown):
    assert printable(name) == shown


def test_a_line_end_steers_where_a_name_is_expected():
    assert steers("a\nb")
    assert steers("\x1b")
    assert not steers('Ödem "><script> NCR/NET')


def test_a_file_name_holds_no_way_out_of_its_folder():
    assert file_safe("NCR/NET") == "NCR%2FNET"
    assert file_safe("..\\up") == "..%5Cup"
    assert file_safe('"><script>') == "%22%3E%3Cscript%3E"
    assert file_safe("Ödem (left) T1+c") == "Ödem (left) T1+c"
    assert file_safe("a\0b\n") == "a%00b%0A"


def test_two_names_never_become_one():
    names = ["a/b", "a_b", "a%2Fb", "a%b", "a b", "a:b", "a\ud800b"]
    assert len({file_safe(name) for name in names}) == len(names)


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (("background", "kidney_Left", "kidney_Right", "liver"), ["kidney_Left", "kidney_Right"]),
        (("background", "L", "r"), ["L", "r"]),
        (("background", "lung l", "lung r"), ["lung l", "lung r"]),
        (("background", "left atrium"), []),
        (("background", "RV", "MYO", "LV"), []),
        (("background", "Ader", "Adel"), []),
    ],
)
def test_names_that_differ_by_their_side(names: tuple[str, ...], found: list[str]) -> None:
    assert sided(names) == found


def test_names_of_one_side_alone() -> None:
    names = ("background", "Left kidney", "liver_right", "leftover", "lung left", "lung right", "L")
    assert one_sided(names) == ["Left kidney", "liver_right"]


@pytest.mark.parametrize("name", ["=1+1", "+cmd|' /C calc'!A0", "-a", "@SUM(1)", "\t=1", "-1-1"])
def test_a_name_is_no_formula_in_a_table(name: str) -> None:
    assert no_formula(name) == f"'{name}"
    assert no_formula(no_formula(name)) == f"'{name}"


@pytest.mark.parametrize("cell", ["", "patient-1", "a=b", "-1.5", "+3e-05", "-inf"])
def test_other_cells_stay_as_they_are(cell: str) -> None:
    assert no_formula(cell) == cell
