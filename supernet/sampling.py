"""Which networks a training step trains.

A sampler is called with a generator and an estimate, the loss of an arch on the step's images, and returns the archs of
the step. `SAMPLERS` is the one list of them.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np

from search_spaces import Arch, CostTable, SearchSpace

Estimate = Callable[[Arch], float]
Draw = Callable[[random.Random, Estimate], Arch]
Sampler = Callable[[random.Random, Estimate], tuple[Arch, ...]]

POOL = 64  # archs drawn to choose from
CANDIDATES = 3  # of about the same cost, of which the best or the worst is trained


class _Pool:
    """Random archs, and the logarithms of their multiply-accumulates."""

    def __init__(self, space: SearchSpace) -> None:
        self.space = space
        self.macs = CostTable(space, lambda block: block.macs)
        self.range = tuple(np.log(self.macs(space.encode([space.smallest, space.largest]))))

    def nearest(self, rng: random.Random, log_macs: float, count: int) -> list[Arch]:
        """The `count` of the pool that cost the nearest to `log_macs`."""
        drawn = [self.space.sample(rng) for _ in range(POOL)]
        distance = np.abs(np.log(self.macs(self.space.encode(drawn))) - log_macs)
        return [drawn[i] for i in np.argsort(distance, kind="stable")[:count]]


def uniform(space: SearchSpace) -> Draw:
    return lambda rng, _: space.sample(rng)


def balanced(space: SearchSpace) -> Draw:
    """All costs alike likely, from the smallest network's to the largest's (on a logarithmic scale).

    Uniform choices make networks of a middle size; small ones would hardly be trained.
    """
    pool = _Pool(space)
    return lambda rng, _: pool.nearest(rng, rng.uniform(*pool.range), 1)[0]


def pareto(space: SearchSpace, best: bool) -> Draw:
    """Of some networks of about the same cost the best, or the worst, on the step's images.

    Best-up and worst-up of AttentiveNAS (Wang et al., CVPR 2021, Section 3.2), with its estimate by the loss of the
    mini-batch: a step has three more forward passes for each random network.
    """
    pool = _Pool(space)

    def draw(rng: random.Random, estimate: Estimate) -> Arch:
        cost = float(np.log(pool.macs(space.encode([space.sample(rng)]))[0]))
        losses = {arch: estimate(arch) for arch in pool.nearest(rng, cost, CANDIDATES)}
        return (min if best else max)(losses, key=lambda arch: losses[arch])

    return draw


def sandwich(space: SearchSpace, draw: Draw, num_random: int) -> Sampler:
    """The largest, the smallest and `num_random` drawn ones (Yu & Huang, ICCV 2019, Section 3.1)."""

    def sample(rng: random.Random, estimate: Estimate) -> tuple[Arch, ...]:
        return (space.largest, space.smallest, *(draw(rng, estimate) for _ in range(num_random)))

    return sample


SAMPLERS: dict[str, Callable[[SearchSpace, int], Sampler]] = {
    "sandwich": lambda space, k: sandwich(space, uniform(space), k),
    "balanced": lambda space, k: sandwich(space, balanced(space), k),
    "best-up": lambda space, k: sandwich(space, pareto(space, best=True), k),
    "worst-up": lambda space, k: sandwich(space, pareto(space, best=False), k),
    "uniform": lambda space, k: lambda rng, _: tuple(space.sample(rng) for _ in range(k)),
    "largest": lambda space, _: lambda *_: (space.largest,),
}


def shrunk(space: SearchSpace, arch: Arch, progress: float) -> Arch:
    """The arch with its values no smaller than the options that are open at `progress`: 0 only the largest, 1 all.

    Options join from large to small, those of all choices together (progressive shrinking, Cai et al., Once-for-All,
    ICLR 2020, started late as in delayed shrinking).
    """
    lowest = (choice.options[round((1 - progress) * (len(choice.options) - 1))] for choice in space.choices)
    values = tuple(max(value, low) for value, low in zip(arch.values, lowest, strict=True))
    return arch if values == arch.values else Arch(space.name, space.canonical(values))
