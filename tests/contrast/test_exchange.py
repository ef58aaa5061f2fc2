"""What shares of a batch exchange; that processes do is in tests/training/test_ranks.py."""

import pytest
import torch

from patchcl.contrast.exchange import exchanging, gathered
from patchcl.contrast.memory_bank import ClassMemory


def test_what_is_exchanged_stands_in_for_the_tensor_until_the_share_ends_whatever_ends_it():
    own, others = torch.ones(1, 2), torch.zeros(3, 2)
    assert gathered(own) is own
    with exchanging(lambda tensor: torch.cat([tensor, others])):
        assert gathered(own).shape == (4, 2)
        with pytest.raises(KeyError), exchanging({}.__getitem__):
            gathered(own)
        assert gathered(own).shape == (4, 2)
    assert gathered(own) is own


def test_a_memory_remembers_what_all_shares_show():
    shown = iter([torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 1])])
    memory = ClassMemory(2, 4, 2)
    with exchanging(lambda _: next(shown)):
        memory.push(torch.tensor([[1.0, 0.0]]), torch.tensor([0]))
    assert memory.filled.tolist() == [1, 1]
    assert memory.embedding[1, 0].tolist() == [0, 1]
