"""Where to compute, whatever this machine has."""

import pytest
import torch

from patchcl.core.devices import CPU, best_device, best_precision
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


@pytest.mark.parametrize(
    ("capability", "bfloat16", "expected"),
    [
        ((9, 0), True, "bf16-mixed"),
        ((7, 5), False, "16-mixed"),
        ((7, 0), False, "16-mixed"),
        ((6, 1), False, "32-true"),
    ],
)
def test_precision_follows_the_card_unless_it_is_named(capability, bfloat16, expected, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: bfloat16)
    assert best_precision("auto", torch.device("cuda")) == expected
    assert best_precision("32-true", torch.device("cuda")) == "32-true"
    assert best_precision("auto", CPU) == best_precision("auto", torch.device("mps")) == "32-true"
