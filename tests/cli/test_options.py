"""Lists as people type them on a command line."""

import pytest

from patchcl.cli.options import budgets, millimetres, names, patients, seeds
from patchcl.core.errors import UserError


def test_names_stand_between_commas():
    assert names("RV, MYO ,,LV") == ["RV", "MYO", "LV"]


def test_labeled_is_a_number_or_names():
    assert patients("3") == 3
    assert patients("a,b") == ["a", "b"]
    assert patients("p1") == ["p1"]


def test_budgets_are_numbers_or_all():
    assert budgets("3,7,all") == [3, 7, None]


def test_spacings_are_numbers():
    assert millimetres("0.625, 0.5,2") == [0.625, 0.5, 2]
    with pytest.raises(UserError, match=r"--spacing holds '1;2'; expected mm along x, y and z, such as"):
        millimetres("1;2")


@pytest.mark.parametrize("listed", ["", "1,x", "-1", "1.5"])
def test_what_is_no_number_is_shown(listed):
    with pytest.raises(UserError, match=r"--seeds holds .*expected whole numbers with commas"):
        seeds(listed)
    with pytest.raises(UserError, match="--labeled holds"):
        budgets(listed or "none")
