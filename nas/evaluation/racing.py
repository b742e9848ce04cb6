"""A race between the actions of a slimming step: one that can no longer win is dropped before it has seen all images.

Races (Maron & Moore, NIPS 1994) drop a contender that is worse than the leader by more than a confidence bound, of the
mean over images drawn at random. Actions differ by so few images that such a bound closes only with the last of them.
So images are seen in the order of the base network's margin, the nearest to a mistake, or to being right, first: an
action changes the outcome of an image only if it moves the image's margin across zero. What is open is then a count:
of the images not seen, how many change.

A margin is the logit of the right class minus the largest other one, above zero if the network is right.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

DELTA = 0.05  # largest chance, of a step, that the action that would win is dropped
LOOKS = (1 / 16, 1 / 8, 3 / 16, 1 / 4, 3 / 8, 1 / 2, 3 / 4)  # parts of the images after which actions are dropped
FIRST = 32  # images that are seen before the first look
# Of the outcomes that an action changes, the part that rough statistics get wrong: measured 0.045 to 0.08 (CIFAR-10,
# four states, one of eight calibration batches); without the correction by the base's it was 0.65 to 0.96.
ROUGH = 0.1


@dataclass(frozen=True)
class Outcomes:
    """Of images in one order: (images,) whether a network is right, and its margins."""

    correct: np.ndarray
    margins: np.ndarray

    def __getitem__(self, images: np.ndarray | slice) -> Outcomes:
        return Outcomes(self.correct[images], self.margins[images])

    def __len__(self) -> int:
        return len(self.correct)


def joined(parts: Sequence[Outcomes]) -> Outcomes:
    return Outcomes(np.concatenate([p.correct for p in parts]), np.concatenate([p.margins for p in parts]))


@dataclass(frozen=True)
class Finish:
    """
    Args:
        accuracy: a fraction of all images; of a dropped action an estimate, as if it changed no other image.
        images_seen: by the network.
        rough_images_seen: by the network with rough statistics, before.
        led: the rough race, so it ran before the others did.
    """

    accuracy: float
    images_seen: int
    rough_images_seen: int = 0
    dropped: bool = False
    led: bool = False


class Race:
    """
    Where `running` are to run, they `see` the images `ahead`, and then some `drop`.

    Args:
        base: all images as the network before the step has them, in the order in which they will be seen.
        gains: of MES, one an action; the least loss of accuracy per gain wins.
        rough: a first race is between networks that are nearly the actions'. Its leader runs itself next (`lead`), as
            its small gain is often what keeps others in, and then those whom that has left (`follow`).
    """

    def __init__(self, base: Outcomes, gains: Sequence[float], rough: bool = False) -> None:
        self.base, self.gains = base, np.array(gains)
        looks = (round(part * len(base)) for part in LOOKS)
        self.looks = [*(look for look in looks if look >= FIRST), len(base)]
        drops = (len(gains) - 1) * (2 * len(self.looks) if rough else len(self.looks) - 1)
        self.z = NormalDist().inv_cdf(1 - DELTA / max(drops, 1))
        self.running = list(range(len(gains)))
        self._contenders = list(self.running)
        self._leader: int | None = None
        self._rough = np.full(len(gains), rough)
        self._changes = np.zeros((len(gains), len(base)), np.int8)  # 1: right before, wrong now; -1: the reverse
        self._moves = np.zeros((len(gains), len(base)), np.float32)  # of the margins, either way
        self._seen = np.zeros(len(gains), np.int64)
        self._rough_seen = np.zeros(len(gains), np.int64)

    def ahead(self) -> slice | None:
        """The images to see next; none when it is over: no other is left of a rough race, or all have been seen."""
        alone = len(self._contenders) == 1
        if not self.running or (alone and self._rough[self.running[0]]):
            return None
        seen = int(self._seen[self.running[0]])
        if seen == len(self.base):
            return None
        if alone or self.running == [self._leader]:
            return slice(seen, len(self.base))
        return slice(seen, next(look for look in self.looks if look > seen))

    def see(self, action: int, found: Outcomes) -> None:
        """The action's outcomes of the images that follow those it has seen."""
        begin = self._seen[action]
        images = slice(begin, begin + len(found))
        before = self.base[images]
        self._changes[action, images] = before.correct.astype(np.int8) - found.correct
        self._moves[action, images] = np.abs(found.margins - before.margins)
        self._seen[action] = images.stop

    def drop(self) -> None:
        """Drops all actions that are worse than the leader, whatever is to be expected of the images not seen.

        Of each of these, an action is expected to change the outcome if it has moved margins that far, half of them
        towards zero; the estimate of that is add-one-half's (Krichevsky & Trofimov 1981). A change is a loss or a gain,
        so the loss to come has at most the variance of their number; it is taken for normal, of mean zero, and
        independent of another action's. The bounds are one-sided; all looks and actions share `DELTA` (Bonferroni).
        """
        actions = np.array(self._contenders)
        losses = self._losses(actions)
        variances = np.array([self._uncertain(action) for action in actions]) / self.gains[actions] ** 2
        leader = int(np.argmin(losses))
        bounds = self.z * np.sqrt(variances + variances[leader])
        self._contenders = actions[losses - losses[leader] <= bounds].tolist()
        self.running = [action for action in self.running if action in self._contenders]

    def lead(self) -> None:
        """The rough race is over, its leader is to run."""
        self._leader = self._contenders[int(np.argmin(self._losses(np.array(self._contenders))))]
        self._start([self._leader])

    def follow(self) -> None:
        """The leader has run, the others that may still win are to run."""
        self._start([action for action in self._contenders if action != self._leader])

    def finishes(self) -> list[Finish]:
        total, right = len(self.base), int(self.base.correct.sum())
        lost, finished = self._changes.sum(axis=1), ~self._rough & (self._seen == total)
        rough_seen = np.where(self._rough, self._seen, self._rough_seen)
        seen = np.where(self._rough, 0, self._seen)
        return [
            Finish(
                (right - int(lost[i])) / max(total, 1),
                int(seen[i]),
                int(rough_seen[i]),
                not finished[i],
                i == self._leader,
            )
            for i in range(len(self.gains))
        ]

    def _start(self, actions: list[int]) -> None:
        self.running = actions
        self._rough[actions] = False
        self._rough_seen[actions], self._seen[actions], self._changes[actions] = self._seen[actions], 0, 0

    def _losses(self, actions: np.ndarray) -> np.ndarray:
        """Of the images seen, per gain."""
        return np.asarray(self._changes[actions].sum(axis=1) / self.gains[actions])

    def _uncertain(self, action: int) -> float:
        """How many outcomes are expected to change yet, or are not what they will be."""
        seen = self._seen[action]
        moves = np.sort(self._moves[action, :seen])
        as_far = seen - np.searchsorted(moves, np.abs(self.base.margins[seen:]))
        to_come = ((as_far + 0.5) / (seen + 1)).sum() / 2
        changed = np.abs(self._changes[action]).sum()
        return float(to_come + (ROUGH * (changed + 0.5) if self._rough[action] else 0.0))
