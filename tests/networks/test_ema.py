"""The moving average in closed form."""

import math

import pytest
import torch
from torch import nn

from patchcl.networks.ema import ema_decay_at, ema_update, frozen_copy


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)).double()


def averaged_tensors(module: nn.Module) -> list[torch.Tensor]:
    """Weights and running statistics."""
    return [tensor for tensor in module.state_dict().values() if tensor.is_floating_point()]


def test_a_frozen_copy_has_the_weights_but_no_part_in_learning():
    student = network()
    teacher = frozen_copy(student)
    for mine, theirs in zip(teacher.state_dict().values(), student.state_dict().values(), strict=True):
        assert torch.equal(mine, theirs)
        assert mine.data_ptr() != theirs.data_ptr()
    assert not any(weight.requires_grad for weight in teacher.parameters())
    assert not any(module.training for module in teacher.modules())
    assert all(weight.requires_grad for weight in student.parameters())
    assert all(module.training for module in student.modules())


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.9])
def test_after_n_steps_the_teacher_is_the_weighted_sum_of_all_students(decay):
    student = network()
    teacher = frozen_copy(student)
    first = [tensor.clone() for tensor in averaged_tensors(teacher)]
    optimizer = torch.optim.SGD(student.parameters(), lr=0.3)
    students = []
    for step in range(6):
        student(torch.randn(8, 3, generator=torch.Generator().manual_seed(step)).double()).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        students.append([tensor.clone() for tensor in averaged_tensors(student)])
        ema_update(teacher, student, decay)
    for place, found in enumerate(averaged_tensors(teacher)):
        recent = sum((1 - decay) * decay ** (5 - step) * tensors[place] for step, tensors in enumerate(students))
        torch.testing.assert_close(found, decay**6 * first[place] + recent, rtol=1e-12, atol=1e-14)
    assert len(first) == 8, "two linear layers, the norm's weight and bias, its running mean and variance"


def test_counters_are_copied_and_nothing_happens_to_the_student():
    student = network()
    teacher = frozen_copy(student)
    for _ in range(3):
        student(torch.randn(4, 3).double())
    before = {name: tensor.clone() for name, tensor in student.state_dict().items()}
    ema_update(teacher, student, 0.9)
    assert teacher[1].num_batches_tracked == 3
    assert all(torch.equal(tensor, before[name]) for name, tensor in student.state_dict().items())
    assert not any(weight.requires_grad or weight.grad_fn for weight in teacher.parameters())


def test_another_network_cannot_be_followed():
    with pytest.raises(ValueError, match="argument 2"):
        ema_update(network(), nn.Sequential(nn.Linear(3, 4)).double(), 0.9)


@pytest.mark.parametrize(
    ("step", "decay"), [(0, 1 / 10), (1, 2 / 11), (8, 1 / 2), (80, 9 / 10), (890, 0.99), (891, 0.99), (10**6, 0.99)]
)
def test_the_decay_warms_up_to_what_was_asked(step, decay):
    assert ema_decay_at(0.99, step) == pytest.approx(decay, rel=1e-12)


def test_with_a_warmed_up_decay_the_first_weights_are_soon_forgotten():
    """The product of (1 + t) / (10 + t) over n steps is one over the binomial coefficient of n + 9 over 9."""
    student = nn.Linear(1, 1, bias=False).double()
    nn.init.ones_(student.weight)
    teacher = frozen_copy(student)
    nn.init.zeros_(student.weight)
    for step in range(10):
        ema_update(teacher, student, ema_decay_at(0.999, step))
    assert teacher.weight.item() == pytest.approx(1 / math.comb(19, 9), rel=1e-9)


def test_a_decay_in_a_tensor_is_the_same_average():
    student = network()
    plain, held = frozen_copy(student), frozen_copy(student)
    with torch.no_grad():
        for tensor in averaged_tensors(student):
            tensor += 1.0
    ema_update(plain, student, 0.75)
    ema_update(held, student, torch.tensor(0.75))
    for mine, theirs in zip(averaged_tensors(held), averaged_tensors(plain), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)
