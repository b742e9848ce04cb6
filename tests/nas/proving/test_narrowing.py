from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest

from nas.proving.narrowing import narrowed, narrowings
from search_spaces import Arch, SearchSpace, get_space, num_params
from tests.nas.tiny import make_table, tiny_space

SPACES = {
    "tiny": tiny_space,
    "efficientformerv2-nano": lambda: get_space("efficientformerv2-nano", 32, 10),
    "mobileone-nano": lambda: get_space("mobileone-nano", 32, 10),
    "efficientvit-nano": lambda: get_space("efficientvit-nano", 32, 10),
    "timm/test_efficientnet": lambda: get_space("timm/test_efficientnet", 32, 3),
}


@pytest.fixture(scope="module", params=SPACES)
def space(request: pytest.FixtureRequest) -> SearchSpace:
    found: SearchSpace = SPACES[request.param]()
    return found


def shares(space: SearchSpace, arch: Arch) -> list[float]:
    """Of the sizes, how much of the largest network's they are."""
    pairs = zip(space.choices, arch.values, strict=True)
    return [value / choice.options[-1] for choice, value in pairs if choice.options[0] > 0]


def test_each_network_is_narrower_than_the_one_before_by_one_size(space: SearchSpace) -> None:
    path = list(narrowings(space))
    assert path[0] == space.largest
    for before, after in pairwise(path):
        changed = [(a, b) for a, b in zip(before.values, after.values, strict=True) if a != b]
        assert len(changed) == 1 and changed[0][1] < changed[0][0]
        assert num_params(space, after) < num_params(space, before)
        assert space.from_json(space.to_json(after)) == after


def test_all_blocks_are_there_and_all_sizes_at_one_share(space: SearchSpace) -> None:
    whole = len(space.lower(space.largest))
    coarsest = max(
        max((b - a) / c.options[-1] for a, b in pairwise(c.options))
        for c in space.choices
        if len(c.options) > 1 and c.options[0] > 0
    )
    for arch in narrowings(space):
        assert len(space.lower(arch)) == whole
        smallest = [c.options[0] / c.options[-1] for c in space.choices if c.options[0] > 0]
        free = [share for share, least in zip(shares(space, arch), smallest, strict=True) if share > least]
        assert not free or max(free) - min(free) <= 2 * coarsest


@pytest.mark.parametrize("share", [1.0, 0.9, 0.7, 0.5])
def test_it_is_never_slower_and_one_step_wider_would_be(space: SearchSpace, share: float) -> None:
    table = make_table(space)

    def latencies_ms(archs: Sequence[Arch]) -> np.ndarray:
        return table.predictor(space)(space.encode(archs))

    path = list(narrowings(space))
    ends_ms = latencies_ms([path[0], path[-1]])
    limit_ms = float(ends_ms[1] + share * (ends_ms[0] - ends_ms[1]))
    arch = narrowed(space, latencies_ms, limit_ms)
    assert arch is not None and table.latency_ms(space, arch) <= limit_ms
    place = path.index(arch)
    assert place == 0 or table.latency_ms(space, path[place - 1]) > limit_ms
    assert narrowed(space, latencies_ms, 0.99 * float(min(latencies_ms(path)))) is None
