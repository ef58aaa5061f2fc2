"""What all methods share."""

import pytest
import torch

from patchcl.methods import METHODS, build_method, method_names
from patchcl.methods.base import total
from patchcl.methods.supervised import SupervisedSettings


def test_total_is_the_weighted_sum_and_the_log_gets_the_terms_unweighted():
    weight = torch.tensor(3.0, requires_grad=True)
    result = total(one=(2.0, weight), other=(0.5, weight * 4))
    result.loss.backward()
    assert result.loss.item() == pytest.approx(12)
    assert weight.grad.item() == pytest.approx(4)
    assert {name: term.item() for name, term in result.terms.items()} == {"one": 3, "other": 12}


def test_a_teacher_stays_in_evaluation_mode_when_the_method_trains(make_task):
    method = build_method(SupervisedSettings(), make_task()).train()
    assert method.student.training
    assert not any(module.training for module in method.teacher.modules())


def test_names_are_unique_and_name_the_settings():
    assert len(set(method_names())) == len(METHODS)
    assert set(method_names()) >= {"supervised", "mean_teacher", "patchcl"}
