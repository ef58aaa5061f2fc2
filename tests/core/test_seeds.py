"""Seeds are part of a result: they may not change between versions, machines or processes."""

import hashlib
import itertools

import torch

from patchcl.core.seeds import seed_for


def test_a_seed_is_half_of_the_first_eight_bytes_of_a_sha256():
    assert seed_for(0, 17, 0, "method") == int(hashlib.sha256(b"0/17/0/method").hexdigest()[:16], 16) // 2
    assert seed_for(0, 17, 0, "method") == 3831855835239827878  # from the sha256sum of coreutils


def test_each_draw_has_its_own_seed_that_torch_takes():
    parts = [*itertools.product(range(3), range(200), range(2), ("method", "augment")), (1, 11), (11, 1), (111,)]
    seeds = {seed_for(*each) for each in parts}
    assert len(seeds) == len(parts)
    assert all(torch.Generator().manual_seed(seed).initial_seed() == seed for seed in seeds)


def test_seeds_of_neighbouring_steps_differ_in_half_of_their_63_bits():
    seeds = [seed_for(0, step) for step in range(1001)]
    assert max(seeds).bit_length() == 63
    differing = [(one ^ other).bit_count() for one, other in itertools.pairwise(seeds)]
    assert abs(sum(differing) / len(differing) - 31.5) < 0.75  # 6 standard errors
