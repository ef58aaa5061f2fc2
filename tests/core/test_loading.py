import gc
import subprocess
import sys

import pytest

from patchcl.core.loading import loading, program


def test_inside_python_looks_for_no_garbage_and_afterwards_as_before():
    with loading():
        assert not gc.isenabled()
        with loading():
            assert not gc.isenabled()
        assert not gc.isenabled()
    assert gc.isenabled()
    gc.disable()
    try:
        with loading():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_after_a_package_that_cannot_be_loaded_python_looks_for_garbage_as_before():
    with pytest.raises(ModuleNotFoundError), loading():
        import no_such_package  # noqa: F401
    assert gc.isenabled()


COUNTING = """
import gc, sys
looks = []
gc.callbacks.append(lambda phase, info: looks.append(phase))
"""
WAYS = {
    "the Python face": "import patchcl; patchcl.predict",
    "a unit": "from patchcl.core.unit_process import _reply; _reply(b'ctorch\\nTensor\\n.')",
    "a process of its own": "from patchcl.core.loading import run; run('heavy')",
}


@pytest.mark.parametrize("way", WAYS)
def test_torch_is_loaded_without_a_look_for_garbage(way, tmp_path):
    (tmp_path / "heavy.py").write_text("import torch\ndef main(): pass\n")
    script = f"{COUNTING}sys.path.insert(0, {str(tmp_path)!r})\n{WAYS[way]}\n"
    told = said(script + "print('torch' in sys.modules, gc.isenabled(), len(looks) < 100)")  # 700 otherwise
    assert told == "True True True\n"


def test_a_process_of_ours_looks_for_no_garbage_when_it_ends(tmp_path):
    (tmp_path / "ours.py").write_text("def main(): print('ran')\n")
    at_end = "import atexit, gc\natexit.register(lambda: print(gc.get_freeze_count() > 1000))\n"
    script = (
        f"{at_end}import sys\nsys.path.insert(0, {str(tmp_path)!r})\nfrom patchcl.core.loading import run\nrun('ours')"
    )
    assert said(script) == "ran\nTrue\n"


def test_what_runs_a_program_of_ours_looks_for_nothing_in_the_folder_where_it_is(tmp_path):
    (tmp_path / "patchcl.py").write_text("raise SystemExit('taken from the folder')\n")
    told = subprocess.run(
        [sys.executable, *program("json.tool")], cwd=tmp_path, input="[1]", capture_output=True, text=True, check=True
    )
    assert told.stdout.split() == ["[", "1", "]"]


def said(script: str) -> str:
    """What Python prints that runs a script."""
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
