"""Prototypes of other images, against loops over patches and images."""

import pytest
import torch
import torch.nn.functional as F

from patchcl.contrast import prototypes
from patchcl.contrast.loss import Moments, with_positive
from patchcl.contrast.prototypes import Embedded, image_index, prototype_positive
from patchcl.core.batch import IGNORE


@pytest.fixture
def patches():
    """Of a student and of its teacher; class 2 is in the first image alone, and image 1 shows class 0 twice."""
    generator = torch.Generator().manual_seed(0)
    student, teacher = F.normalize(torch.randn(2, 8, 6, generator=generator), dim=2)
    image = torch.tensor([0, 1, 1, 2, 0, 1, 0, 2])
    label = torch.tensor([0, 0, 0, 0, 1, 1, 2, IGNORE])
    return Embedded(student, label, image), Embedded(teacher, label, image)


def test_each_patch_is_compared_with_the_class_means_of_other_images(patches):
    student, teacher = patches
    (mean, variance), found = prototype_positive(*patches)
    assert found[:, 0].tolist() == [True] * 6 + [False] * 2
    for row in range(6):
        q, label, image = (part[row] for part in student)
        others = [i for i in range(3) if i != image and ((teacher.label == label) & (teacher.image == i)).any()]
        rows = [teacher.embedding[(teacher.label == label) & (teacher.image == i)] for i in others]
        expected = sum(q @ members.mean(dim=0) for members in rows) / len(rows)
        torch.testing.assert_close(mean[row, 0], expected)
        spread = sum((members @ q - expected).square().mean() for members in rows) / len(rows)
        torch.testing.assert_close(variance[row, 0], spread)


def test_a_class_that_no_other_image_shows_is_drawn_to_its_memory(patches):
    classes = Moments(torch.full((8, 3), 5.0), torch.full((8, 3), 7.0))
    positive = prototype_positive(*patches)
    found = with_positive(classes, positive, patches[0].label)
    for row, label in enumerate(patches[0].label.tolist()):
        for k in range(3):
            own = k == label and row < 6
            assert found.mean[row, k] == (positive.moments.mean[row, 0] if own else 5)
            assert found.variance[row, k] == (positive.moments.variance[row, 0] if own else 7)


def test_images_of_several_processes_are_told_apart(monkeypatch):
    image = torch.tensor([0, 3, 1])
    assert torch.equal(image_index(image, 4), image)
    monkeypatch.setattr(prototypes.dist, "is_initialized", lambda: True)
    monkeypatch.setattr(prototypes.dist, "get_rank", lambda: 2)
    assert image_index(image, 4).tolist() == [8, 11, 9]
