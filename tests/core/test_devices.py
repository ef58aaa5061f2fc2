"""Where to compute, whatever this machine has."""

import pytest
import torch

from patchcl.core.devices import CPU, best_device
from patchcl.core.errors import UserError


@pytest.fixture
def pretend(monkeypatch):
    """Makes torch find these devices, and no other, beside the CPU."""

    def make(*names: str) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: "cuda" in names)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: "mps" in names)

    return make


@pytest.mark.parametrize(
    ("here", "expected"), [((), "cpu"), (("mps",), "mps"), (("cuda",), "cuda"), (("mps", "cuda"), "cuda")]
)
def test_the_fastest_device_is_taken_unless_another_is_named(here, expected, pretend):
    pretend(*here)
    assert best_device() == best_device("auto") == torch.device(expected)
    assert best_device("cpu") == CPU == torch.device("cpu")
    for name in here:
        assert best_device(name) == torch.device(name)


@pytest.mark.parametrize(("name", "here"), [("cuda", ("mps",)), ("mps", ("cuda",)), ("cuda", ())])
def test_a_device_that_is_not_here_is_refused_by_name(name, here, pretend):
    pretend(*here)
    with pytest.raises(UserError, match=f"finds no {name.upper()} device here. Use --device auto or cpu"):
        best_device(name)
