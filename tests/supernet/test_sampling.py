from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import pairwise
from typing import get_args, get_type_hints

import numpy as np
import pytest

from nas.supernets.classification import Config
from search_spaces import Arch, CostTable, SearchSpace, get_space, macs
from supernet import LOSSES, SAMPLERS, middle, shrunk
from supernet.sampling import CANDIDATES

SPACES = [get_space("efficientformerv2-nano"), get_space("efficientformerv2")]
spaces = pytest.mark.parametrize("space", SPACES, ids=[space.name for space in SPACES])


def no_estimate(arch: Arch) -> float:
    raise AssertionError("this sampler needs no estimate")


def positions(space: SearchSpace, archs: Sequence[Arch]) -> np.ndarray:
    """Of each arch between the smallest network (0) and the largest (1), by log MACs."""
    macs = CostTable(space, lambda block: block.macs)
    lowest, highest = np.log(macs(space.encode([space.smallest, space.largest])))
    return (np.log(macs(space.encode(archs))) - lowest) / (highest - lowest)


def drawn(space: SearchSpace, name: str, count: int, seed: int = 0) -> list[Arch]:
    """The random ones of `count` steps of one random network."""
    sampler, rng = SAMPLERS[name](space, 1), random.Random(seed)
    return [sampler(rng, lambda arch: 0.0)[-1] for _ in range(count)]


def assert_valid(space: SearchSpace, arch: Arch) -> None:
    assert space.from_json(space.to_json(arch)) == arch


@pytest.mark.parametrize("name", ["efficientformerv2-nano", "efficientformerv2", "efficientvit-nano", "mobileone"])
def test_the_middle_network_has_half_the_macs_and_blocks_all_along(name: str) -> None:
    space = get_space(name)
    arch = middle(space)
    assert_valid(space, arch)
    assert 0.45 < macs(space, arch) / macs(space, space.largest) < 0.55
    assert middle(get_space(name)) == arch
    present = [
        v for c, v in zip(space.choices, arch.values, strict=True) if c.field == "present" and len(c.options) > 1
    ]
    first, second = present[: len(present) // 2], present[len(present) // 2 :]
    assert all(0 < sum(half) < len(half) for half in (first, second))


def test_flags_name_every_loss_and_sampler() -> None:
    hints = get_type_hints(Config)
    assert get_args(hints["loss"]) == tuple(LOSSES)
    assert get_args(hints["sampling"]) == tuple(SAMPLERS)


@spaces
def test_members_of_a_step(space: SearchSpace) -> None:
    rng = random.Random(0)
    archs = SAMPLERS["sandwich"](space, 3)(rng, no_estimate)
    assert archs[:2] == (space.largest, space.smallest) and len(set(archs)) == 5
    archs = SAMPLERS["balanced"](space, 3)(rng, no_estimate)
    assert archs[0] == space.largest and space.smallest not in archs and len(set(archs)) == 5
    assert len(set(SAMPLERS["uniform"](space, 3)(rng, no_estimate))) == 3
    assert SAMPLERS["largest"](space, 3)(rng, no_estimate) == (space.largest,)


@spaces
@pytest.mark.parametrize("name", list(SAMPLERS))
def test_draws_are_valid_and_repeat_with_their_seed(space: SearchSpace, name: str) -> None:
    archs = drawn(space, name, 3)
    for arch in archs:
        assert_valid(space, arch)
    assert archs == drawn(space, name, 3)
    assert name == "largest" or archs != drawn(space, name, 3, seed=1)


@spaces
def test_balanced_draws_are_of_every_cost(space: SearchSpace) -> None:
    uniform, balanced = (positions(space, drawn(space, name, 120)) for name in ("sandwich", "balanced"))
    assert (uniform < 0.3).mean() < 0.1 and (uniform > 0.8).mean() < 0.1
    for low in (0.0, 0.2, 0.4, 0.6, 0.8):
        assert 0.1 < ((balanced >= low) & (balanced < low + 0.2)).mean() < 0.35


@spaces
@pytest.mark.parametrize(("name", "pick"), [("best-up", min), ("worst-up", max)])
def test_the_best_or_worst_of_about_equal_cost_is_taken(space: SearchSpace, name: str, pick) -> None:
    asked: dict[Arch, float] = {}

    def estimate(arch: Arch) -> float:
        asked[arch] = random.Random(str(arch)).random()
        return asked[arch]

    sampler, rng = SAMPLERS[name](space, 1), random.Random(0)
    spans, costs = [], []
    for _ in range(20):
        asked.clear()
        assert sampler(rng, estimate)[-1] == pick(asked, key=lambda arch: asked[arch])
        assert len(asked) == CANDIDATES
        found = positions(space, list(asked))
        spans.append(found.max() - found.min())
        costs.append(found.mean())
    assert np.median(spans) < 0.02
    assert np.std(costs) > 0.05, "and each time of another cost"


# ---- shrinking


@spaces
def test_shrinking_opens_the_space_from_the_largest_network(space: SearchSpace) -> None:
    rng = random.Random(0)
    for arch in [space.smallest, space.largest, *(space.sample(rng) for _ in range(20))]:
        assert shrunk(space, arch, 0.0) == space.largest
        assert shrunk(space, arch, 1.0) is arch
        steps = [shrunk(space, arch, progress / 12) for progress in range(13)]
        for before, after in pairwise(steps):
            assert_valid(space, after)
            assert all(a <= b for a, b in zip(after.values, before.values, strict=True))
    opened = [shrunk(space, space.smallest, progress / 12) for progress in range(13)]
    assert len(set(opened)) > 3, "options join step by step"
