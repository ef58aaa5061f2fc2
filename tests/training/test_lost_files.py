"""Files that are damaged or vanish: what is said."""

import errno
import os
from pathlib import Path

import pytest
from rich.console import Console

from patchcl.core.errors import UserError
from patchcl.training.lost_files import lost_files_as_message, tell_damaged


def test_damaged_files_are_one_line(capsys):
    tell_damaged([], Console())
    assert capsys.readouterr().out == ""
    tell_damaged([Path("b"), Path("a"), Path("c")], Console())
    assert capsys.readouterr().out == "Prepared files were damaged and have been prepared anew: a and 2 more.\n"


@pytest.mark.parametrize("number", [errno.ENOENT, errno.EIO, errno.ENOSPC, errno.EROFS, errno.ESTALE])
def test_a_folder_that_vanishes_is_one_message_with_the_way_on(number):
    told = rf"^/mnt/x .*{os.strerror(number)}.*patchcl resume /mnt/run$"
    with pytest.raises(UserError, match=told), lost_files_as_message(Path("/mnt/run")):
        raise OSError(number, os.strerror(number), "/mnt/x")


def test_what_is_no_file_stays_what_it_is():
    with pytest.raises(ConnectionError), lost_files_as_message(Path("run")):
        raise ConnectionResetError
