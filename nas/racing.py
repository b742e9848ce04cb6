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
    """

    accuracy: float
    images_seen: int
    rough_images_seen: int
    dropped: bool


class Race:
    """
    Args:
        base: all images as the network before the step has them, in the order in which they will be seen.
        gains: of MES, one an action; the least loss of accuracy per gain wins.
        rough: a first race is between networks that are nearly the actions'; those left `begin_again`.
    """

    def __init__(self, base: Outcomes, gains: Sequence[float], rough: bool = False) -> None:
        self.base, self.gains, self.rough = base, np.array(gains), rough
        looks = (round(part * len(base)) for part in LOOKS)
        self.looks = [*(look for look in looks if look >= FIRST), len(base)]
        drops = (len(gains) - 1) * (len(self.looks) * (1 + rough) - 1)
        self.z = NormalDist().inv_cdf(1 - DELTA / max(drops, 1))
        self.running = list(range(len(gains)))
        self._changes = np.zeros((len(gains), len(base)), np.int8)  # 1: right before, wrong now; -1: the reverse
        self._moves = np.zeros((len(gains), len(base)), np.float32)  # of the margins, either way
        self._seen = np.zeros(len(gains), np.int64)
        self._rough_seen = np.zeros(len(gains), np.int64)

    def ahead(self) -> slice | None:
        """The images to see next; none when it is over: one action is left of a rough race, or all have been seen."""
        seen = int(self._seen[self.running[0]])
        if seen == len(self.base) or (self.rough and len(self.running) == 1):
            return None
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
        """Ends the race of all actions that are worse than the leader, whatever is to be expected of the other images.

        Of each image not seen, an action is expected to change the outcome if it has moved margins that far, half of
        them towards zero; the estimate of that is add-one-half's (Krichevsky & Trofimov 1981). A change is a loss or a
        gain, so the loss to come has at most the variance of their number; it is taken for normal, of mean zero, and
        independent of another action's. The bounds are one-sided; all looks and actions share `DELTA` (Bonferroni).
        """
        actions = np.array(self.running)
        if not self.rough and self._seen[actions[0]] == len(self.base):
            return
        losses = self._changes[actions].sum(axis=1) / self.gains[actions]
        variances = np.array([self._uncertain(action) for action in actions]) / self.gains[actions] ** 2
        leader = int(np.argmin(losses))
        bounds = self.z * np.sqrt(variances + variances[leader])
        self.running = actions[losses - losses[leader] <= bounds].tolist()

    def begin_again(self) -> None:
        """The race of those that the rough one has left."""
        self.rough, self._rough_seen = False, self._seen
        self._seen = np.zeros_like(self._seen)
        self._changes[self.running] = 0

    def finishes(self) -> list[Finish]:
        total, right = len(self.base), int(self.base.correct.sum())
        return [
            Finish((right - int(lost)) / max(total, 1), int(seen), int(rough), bool(seen < total))
            for lost, seen, rough in zip(self._changes.sum(axis=1), self._seen, self._rough_seen, strict=True)
        ]

    def _uncertain(self, action: int) -> float:
        """How many outcomes are expected to change yet, or are not what they will be."""
        seen = self._seen[action]
        moves = np.sort(self._moves[action, :seen])
        as_far = seen - np.searchsorted(moves, np.abs(self.base.margins[seen:]))
        to_come = ((as_far + 0.5) / (seen + 1)).sum() / 2
        changed = np.abs(self._changes[action]).sum()
        return float(to_come + (ROUGH * (changed + 0.5) if self.rough else 0.0))
