import gc
import subprocess
import sys

import pytest

from patchcl.core.loading import loading


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


@pytest.mark.parametrize("load", ["import patchcl; patchcl.predict", "from patchcl.core.unit_process import _reply"])
def test_torch_is_loaded_without_a_look_for_garbage(load):
    script = "\n".join(
        [
            "import gc, sys, functools, pickle, operator",
            "looks = []",
            "gc.callbacks.append(lambda phase, info: looks.append('torch' in sys.modules))",
            load,
            "loaded = 'torch' in sys.modules or _reply(b'ctorch\\nTensor\\n.') and 'torch' in sys.modules",
            "print(loaded, len(looks), gc.isenabled())",
        ]
    )
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert (told[0], told[2]) == ("True", "True")
    assert int(told[1]) < 60  # hundreds otherwise
