"""The largest network of a space, uniformly narrowed: what a width multiplier makes of it, in any space."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from itertools import pairwise

import numpy as np

from search_spaces import Arch, SearchSpace
from search_spaces.base import Choice


def narrowed(space: SearchSpace, latencies_ms: Callable[[Sequence[Arch]], np.ndarray], limit_ms: float) -> Arch | None:
    """The widest of the `narrowings` that takes at most this time; None if the narrowest takes more.

    Args:
        latencies_ms: of networks of the space.
    """
    path = list(narrowings(space))
    fast = np.flatnonzero(np.asarray(latencies_ms(path)) <= limit_ms)
    return path[fast[0]] if len(fast) else None


def narrowings(space: SearchSpace) -> Iterator[Arch]:
    """The space's networks of all blocks, from the largest down, all sizes as near as can be at one share of their own.

    Each has one size less than the one before: a size goes to its next smaller option when the share falls below the
    middle of the two. Of sizes that go at the same share, every other one goes first, so that no end of the network is
    narrower than the other meanwhile.
    """
    largest = space.largest
    yield largest
    values = list(largest.values)
    for _, _, i, option in sorted(_moves(space)):
        values[i] = option
        try:
            yield Arch(space.name, space.canonical(values))
        except ValueError:  # sizes that do not go together: the next step may mend it
            continue


def _moves(space: SearchSpace) -> Iterator[tuple[Fraction, float, int, int]]:
    """(minus the share, order within it, choice, option) of each step of a size to its next smaller option."""
    changing = {action.choice for action in space.slim(space.largest)}  # not what only training has
    sizes = [i for i, choice in enumerate(space.choices) if choice.name in changing and _is_size(choice)]
    for number, i in enumerate(sizes):
        options = space.choices[i].options
        for smaller, larger in pairwise(options):
            yield -Fraction(smaller + larger, 2 * options[-1]), _spread(number), i, smaller


def _is_size(choice: Choice) -> bool:
    """Not whether something is there at all, nor what makes a network smaller the more there is of it."""
    return 0 < choice.options[0] <= choice.options[-1]


def _spread(number: int) -> float:
    """Of 0, 1, 2, …: in an order by these, neighbours lie far apart (van der Corput's sequence)."""
    digits = f"{number:b}"[::-1]
    return int(digits, 2) / 2 ** len(digits)
