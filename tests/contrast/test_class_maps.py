"""Which classes a step contrasts, and the maps of these: by hand, and beside those of all classes."""

import torch

from patchcl.contrast.class_maps import CLASSES_PER_STEP, class_maps, classes_of_step, drawn_classes, named
from patchcl.contrast.patches import patch_grid
from patchcl.core.batch import IGNORE, LabeledBatch, StudentView, UnlabeledBatch

COUNT = 40


def view_of(classes: tuple[int, ...], believed: tuple[int, ...]) -> StudentView:
    """Rows of labeled pixels of some classes, and of unlabeled ones that the teacher takes for others."""
    mask = torch.tensor(classes).repeat_interleave(4).view(1, -1, 4)
    pseudo = torch.tensor(believed).repeat_interleave(4).view(1, -1, 4)
    probs = 0.9 * torch.nn.functional.one_hot(pseudo, COUNT).movedim(3, 1).float() + 0.1 / COUNT
    labeled = LabeledBatch(torch.rand(1, 1, *mask.shape[1:]), mask)
    weak, strong = torch.rand(2, 1, 1, *pseudo.shape[1:])
    return StudentView(labeled, UnlabeledBatch(weak, strong), probs)


def test_few_classes_are_all_contrasted_and_none_is_drawn():
    seen, state = view_of((0, 1), (0, 1)), torch.get_rng_state()
    assert classes_of_step(seen, CLASSES_PER_STEP) is None
    assert torch.equal(torch.get_rng_state(), state)


def test_of_many_classes_those_are_drawn_that_masks_or_pseudo_labels_show():
    torch.manual_seed(0)
    masks, believed = tuple(range(0, 20, 2)), tuple(range(21, 40, 2))
    drawn = torch.stack([classes_of_step(view_of(masks, believed), COUNT) for _ in range(200)])
    assert drawn.shape == (200, CLASSES_PER_STEP)
    assert (drawn.diff(dim=1) > 0).all()
    assert sorted(drawn.unique().tolist()) == sorted((*masks, *believed))
    often = drawn.flatten().bincount(minlength=COUNT)[[*masks, *believed]]
    assert (often - 200 * CLASSES_PER_STEP / 20).abs().max() < 30  # 160 each, with a deviation of 5.7


def test_where_too_few_are_present_others_fill_up():
    torch.manual_seed(0)
    present = torch.zeros(COUNT, dtype=torch.bool)
    present[[3, 30]] = True
    drawn = drawn_classes(present, 5)
    assert {3, 30} < set(drawn.tolist())
    assert len(set(drawn.tolist())) == 5


def test_maps_of_some_classes_are_those_maps_and_know_where_another_class_is_likelier():
    seen, classes = view_of((0, 1, 2, 3), (3, 2, 5, 6)), torch.tensor([1, 3, 6])
    for part, whole in zip(class_maps(seen, COUNT, classes), class_maps(seen, COUNT), strict=True):
        assert torch.equal(part.probs, whole.probs[:, classes])
        assert torch.equal(part.image, whole.image)
        assert part.others[1].all(dim=1).tolist() == [False, True, True, False]
        assert not part.others[0].any()  # there the maps are 0
        some = patch_grid(part.image, part.probs, (2, 2), "confidence", part.others)
        every = patch_grid(whole.image, whole.probs, (2, 2), "confidence")
        for field in ("confidence", "coverage", "entropy", "guidance"):
            assert torch.equal(getattr(some, field), getattr(every, field)[classes])


def test_a_place_among_the_classes_is_called_by_their_name():
    label, classes = torch.tensor([0, IGNORE, 2, 1]), torch.tensor([4, 7, 9])
    assert named(label, classes).tolist() == [4, IGNORE, 9, 7]
    assert named(label, None) is label


def test_a_class_is_present_from_even_odds_on_in_one_pixel():
    seen = view_of((0,), (0,))
    probs = torch.zeros_like(seen.pseudo_probs)
    probs[:, 0], probs[:, 1] = 0.625, 0.375
    probs[0, [0, 7], 0, 0] = 0.5
    torch.manual_seed(0)
    drawn = torch.stack([classes_of_step(seen._replace(pseudo_probs=probs), COUNT) for _ in range(20)])
    often = drawn.flatten().bincount(minlength=COUNT)
    assert often[0] == often[7] == 20
    assert often[1] < 20


def test_unlabeled_images_without_pseudo_labels_are_left_out():
    seen = view_of((0, 1), (0, 1))._replace(pseudo_probs=None)
    for maps in class_maps(seen, COUNT):
        assert torch.equal(maps.image, seen.labeled.image)


def test_another_class_is_likelier_or_not_pixel_by_pixel():
    """In the first pixel no class is likely, but one of these is the likeliest."""
    seen = view_of((0,), (0,))
    probs = torch.full((1, COUNT, 1, 4), 0.01)
    probs[0, 3, 0] = torch.tensor([0.1, 0.9, 0.3, 0.3])
    probs[0, 8, 0] = torch.tensor([0.05, 0.0, 0.3, 0.4])
    weak, strong = class_maps(seen._replace(pseudo_probs=probs), COUNT, torch.tensor([3, 5]))
    assert weak.others[1, 0].tolist() == strong.others[1, 0].tolist() == [False, False, False, True]
