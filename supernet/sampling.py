"""Which networks a training step trains.

A sampler is called with a generator and an estimate, the loss of an arch on the step's images, and returns the archs of
the step. `SAMPLERS` is the one list of them.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import numpy as np

from search_spaces import Arch, CostTable, SearchSpace

Estimate = Callable[[Arch], float]
Draw = Callable[[random.Random, Estimate], Arch]
Sampler = Callable[[random.Random, Estimate], tuple[Arch, ...]]

POOL = 64  # archs drawn to choose from
POINTS = 65  # of a line through the space
GOLDEN_RATIO = (1 + 5**0.5) / 2
CANDIDATES = 3  # of about the same cost, of which the best or the worst is trained


def uniform(space: SearchSpace) -> Draw:
    return lambda rng, _: space.sample(rng)


def spread(space: SearchSpace) -> Draw:
    """All costs alike likely, on a logarithmic scale from the smallest network's to the largest's.

    Uniform choices make networks of a middle size; small ones would hardly be trained.
    """
    log_macs, ends = _log_macs(space), (space.smallest, space.largest)
    lowest, highest = log_macs(ends)

    def draw(rng: random.Random, _: Estimate) -> Arch:
        pool = [_toward(rng.choice(ends), space, rng) for _ in range(POOL // 4)]  # some ms: every step waits for it
        return pool[int(np.abs(log_macs(pool) - rng.uniform(lowest, highest)).argmin())]

    return draw


def pareto(space: SearchSpace, best: bool) -> Draw:
    """Of some random networks of about the same cost the best, or the worst, on the step's images.

    BestUp and WorstUp of AttentiveNAS (Wang et al., CVPR 2021) with three candidates and the mini-batch's loss as the
    estimate: a step has three more forward passes for each random network.
    """
    log_macs = _log_macs(space)

    def draw(rng: random.Random, estimate: Estimate) -> Arch:
        pool = [space.sample(rng) for _ in range(POOL)]
        costs = log_macs(pool)  # the first one's is what uniform choices make likely
        nearest = np.abs(costs - costs[0]).argsort(kind="stable")[:CANDIDATES]
        losses = {pool[i]: estimate(pool[i]) for i in nearest}
        return (min if best else max)(losses, key=lambda arch: losses[arch])

    return draw


def sandwich(space: SearchSpace, draw: Draw, num_random: int) -> Sampler:
    """The largest, the smallest and `num_random` drawn ones: the sandwich rule (Yu & Huang, ICCV 2019)."""

    def sample(rng: random.Random, estimate: Estimate) -> tuple[Arch, ...]:
        return (space.largest, space.smallest, *(draw(rng, estimate) for _ in range(num_random)))

    return sample


def balanced(space: SearchSpace, num_random: int) -> Sampler:
    """The largest, and of all costs alike one more than `num_random`, in place of the smallest.

    With the smallest in every step that one is ahead of its like: networks of up to 1.6 times its MACs inherited less
    accuracy than it, though from scratch they reach more (docs/results-archive.md, Ranking).
    """
    draw = spread(space)
    return lambda rng, estimate: (space.largest, *(draw(rng, estimate) for _ in range(num_random + 1)))


SAMPLERS: dict[str, Callable[[SearchSpace, int], Sampler]] = {
    "sandwich": lambda space, k: sandwich(space, uniform(space), k),
    "balanced": balanced,
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
    values = tuple(
        max(value, choice.options[round((1 - progress) * (len(choice.options) - 1))], key=choice.options.index)
        for value, choice in zip(arch.values, space.choices, strict=True)
    )
    return arch if values == arch.values else Arch(space.name, space.canonical(values))


def middle(space: SearchSpace) -> Arch:
    """The network between the smallest and the largest that has about half the largest's multiply-accumulates.

    On the line from the one (t = 0) to the other (1), each choice is at the position ⌊t (options - 1) + its phase⌋
    among its options. Phases are the fractions of the golden ratio's multiples, so at half the way about every other
    block of those that can be left out is there, evenly along the network.
    """
    last = np.array([len(choice.options) - 1 for choice in space.choices])
    phases = np.arange(len(last)) * GOLDEN_RATIO % 1
    line = np.floor(np.linspace(0, 1, POINTS)[:, None] * last + phases).astype(int)
    archs = [arch for positions in line.tolist() if (arch := space.decode(positions)) is not None]
    macs = CostTable(space, lambda block: block.macs)(space.encode([*archs, space.largest]))
    return archs[int(np.abs(macs[:-1] - macs[-1] / 2).argmin())]


def _log_macs(space: SearchSpace) -> Callable[[Sequence[Arch]], np.ndarray]:
    table = CostTable(space, lambda block: block.macs)
    return lambda archs: np.log(table(space.encode(archs)))


def _toward(end: Arch, space: SearchSpace, rng: random.Random) -> Arch:
    """A random arch, a random share of its values replaced by those of `end`."""
    arch, share = space.sample(rng), rng.random()
    values = [e if rng.random() < share else v for v, e in zip(arch.values, end.values, strict=True)]
    try:
        return Arch(space.name, space.canonical(values))
    except ValueError:  # such values build no network
        return arch
