"""A table's rows for another device, from the times of a few whole networks there.

A block takes `factor` times as long there as here, and networks take the sum. The logarithms of the factors are a
Gaussian process over blocks: a factor that all share, one of each kind of block, and what changes smoothly with time,
MACs and memory traffic, which tells what a device computes slowly from what it fetches slowly, and from overhead.
Networks observe sums, so the posterior's mode is found by Gauss-Newton, whose steps are halved where they overshoot;
all factors stay above 0. How strongly the factors are held together is chosen by leave-one-out error. Which networks
tell most follows from the same prior, before any is timed.

Rasmussen and Williams, Gaussian Processes for Machine Learning, 2006: equations 2.25 (posterior) and 5.12
(leave-one-out in closed form).
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from latency_lut.tables.table import LatencyTable
from search_spaces import Arch, BlockSpec, SearchSpace

COMMON = 2.0  # standard deviations of log factors: any device
OFFSET = 0.1  # that of the offset, of a usual network's time
NOISE = 0.02  # of a network's time, which repeats within 1 to 2 %
LENGTH = 2.0  # how far apart, in standard deviations of features, factors are still alike
STRENGTHS = (0.05, 0.15, 0.4, 1.0)  # of what differs between blocks: tried, the best by leave-one-out
OWN = 0.05  # of that, what a block shares with no other
LEAST = 8  # networks: of fewer, neither the factors nor their error can be told
POOL = 300  # random networks that those to time are chosen from
STEPS, HALVINGS = 100, 30  # of Gauss-Newton, at most; 3 to 6 steps suffice where no network was disturbed
CLOSE = 1e-3  # a step that changes no factor by a larger share is the last


@dataclass(frozen=True)
class Fit:
    """
    Args:
        factors: (blocks,) time there over time here.
        offset_ms: of every network there.
        left_out: (networks,) logarithm of measured over predicted time, each left out in turn.
    """

    factors: np.ndarray
    offset_ms: float
    left_out: np.ndarray


class Adapter:
    """What a table says of the blocks of a space, as a prior of their times on another device.

    Args:
        table: of `space`; its calibrated rows are the times here.
    """

    def __init__(self, table: LatencyTable, space: SearchSpace) -> None:
        self.space, blocks = space, space.all_blocks()
        self.keys = tuple(blocks)
        self._places = {key: i for i, key in enumerate(blocks)}
        self.here_ms = np.array([table.calibration.scale * table.rows[key].min_ms for key in blocks])
        self._blocks = tuple(blocks.values())

    @cached_property
    def _likeness(self) -> np.ndarray:
        """(blocks, blocks) prior covariance of what differs between log factors, for a strength of 1."""
        from scipy.spatial.distance import cdist

        features = np.array([_features(b, ms) for b, ms in zip(self._blocks, self.here_ms, strict=True)])
        features = (features - features.mean(0)) / np.maximum(features.std(0), 1e-9)
        apart = cdist(features, features, "sqeuclidean")
        kinds = np.array([block.kind for block in self._blocks])
        return (kinds[:, None] == kinds) + np.exp(-apart / (2 * LENGTH**2)) + OWN**2 * np.eye(len(kinds))

    def parts(self, archs: Sequence[Arch]) -> np.ndarray:
        """(networks, blocks) ms that each block of the table adds to each network here."""
        parts = np.zeros((len(archs), len(self.keys)))
        for i, arch in enumerate(archs):
            for block in self.space.lower(arch):
                place = self._places[block.key]
                parts[i, place] += self.here_ms[place]
        return parts

    def fit(self, parts: np.ndarray, times_ms: np.ndarray, strength: float) -> Fit:
        """The most likely factors.

        Args:
            parts: of the networks that were timed.
            times_ms: (networks,) there.
        """
        used = parts.any(0)  # the others follow from these
        covariance = COMMON**2 + strength**2 * self._likeness[:, used]
        among, parts = covariance[used], parts[:, used]
        usual = math.log(np.median(times_ms / parts.sum(1)))
        offset = OFFSET * np.median(times_ms)
        noise = NOISE**2 * np.eye(len(times_ms)) + offset**2 / np.outer(times_ms, times_ms)
        exactness = np.linalg.inv(noise)

        def shares(pull: np.ndarray) -> np.ndarray:
            """(networks, blocks) of measured times; also how a network's relative time follows the logarithms."""
            return parts * np.exp(usual + among @ pull) / times_ms[:, None]

        def loss(pull: np.ndarray) -> float:
            missed = 1 - shares(pull).sum(1)
            return float(pull @ among @ pull + missed @ exactness @ missed)

        pull = np.zeros(parts.shape[1])  # the logarithms are `usual + among @ pull`
        for _ in range(STEPS):
            slopes = shares(pull)
            inverse = np.linalg.inv(slopes @ among @ slopes.T + noise)
            missed = 1 - slopes.sum(1)
            weights = inverse @ (missed + slopes @ among @ pull)
            step = slopes.T @ weights - pull
            largest = float(np.abs(among @ step).max())
            if largest < CLOSE:
                break
            pull = pull + _shortened(step / max(1.0, largest), pull, loss)
        left_out = weights / np.diag(inverse)
        factors = np.exp(usual + covariance @ pull)
        return Fit(factors, float(offset**2 * (exactness @ missed / times_ms).sum()), left_out)

    def best_fit(self, parts: np.ndarray, times_ms: np.ndarray) -> Fit:
        """That of the strength with the least error on networks left out."""
        fits = [self.fit(parts, times_ms, strength) for strength in STRENGTHS]
        return min(fits, key=lambda fit: float(np.abs(fit.left_out).mean()))

    def held_out_ms(self, parts: np.ndarray, times_ms: np.ndarray) -> np.ndarray:
        """(networks,) prediction of each by a fit to the others, whose strength is chosen without it."""
        predicted = []
        for i in range(len(times_ms)):
            others = np.arange(len(times_ms)) != i
            fit = self.best_fit(parts[others], times_ms[others])
            predicted.append(parts[i] @ fit.factors + fit.offset_ms)
        return np.array(predicted)

    def choose(self, count: int, seed: int = 0) -> list[Arch]:
        """The networks that, once timed, leave the least variance in the times of all: the smallest and largest, then
        one after another of a random pool. Fewer where the space has fewer.
        """
        rng, space = random.Random(seed), self.space
        pool = list(dict.fromkeys([space.smallest, space.largest, *(space.sample(rng) for _ in range(POOL))]))
        parts = self.parts(pool)
        shares = parts / parts.sum(1, keepdims=True)
        spread = shares @ (COMMON**2 + self._likeness) @ shares.T
        chosen: list[int] = []
        while len(chosen) < min(count, len(pool)):
            gains = (spread**2).sum(1) / (np.diag(spread) + NOISE**2)
            gains[chosen] = -1
            best = len(chosen) if len(chosen) < 2 else int(gains.argmax())
            spread = spread - np.outer(spread[best], spread[best]) / (spread[best, best] + NOISE**2)
            chosen.append(best)
        return [pool[i] for i in chosen]


def _shortened(step: np.ndarray, start: np.ndarray, loss: Callable[[np.ndarray], float]) -> np.ndarray:
    """The step, halved until the loss is no larger than at the start, and on while that lowers it more."""
    before, reached = loss(start), loss(start + step)
    for _ in range(HALVINGS):
        halved = loss(start + step / 2)
        if reached <= before and halved >= reached:
            break
        step, reached = step / 2, halved
    return step


def _features(block: BlockSpec, ms: float) -> tuple[float, ...]:
    """Of a block that takes `ms` here; logarithms, for what matters are ratios."""
    moved = math.prod(block.input_shape()) + math.prod(block.output_shape())
    amounts = (ms, block.macs / 1e6, (block.num_params + moved) / 1e3, moved / 1e3)
    return tuple(math.log(max(amount, 1e-3)) for amount in amounts)
