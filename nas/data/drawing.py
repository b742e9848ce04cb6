"""Drawing splits: each class in its share, groups of images kept together, every class with images to train on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

MAX_SEARCH_IMAGES = 10_000


class Drawn(NamedTuple):
    """Positions of the images, in random order."""

    train: np.ndarray
    search: np.ndarray
    test: np.ndarray


def sizes(count: int, test_fraction: float, search_fraction: float) -> tuple[int, int]:
    """How many of the images are for the search and for the test."""
    num_test = round(count * test_fraction)
    return min(round((count - num_test) * search_fraction), MAX_SEARCH_IMAGES), num_test


def draw_plainly(count: int, num_search: int, num_test: int, seed: int) -> Drawn:
    """Without regard to classes. All published figures of the digits are of this draw."""
    order = np.random.default_rng(seed).permutation(count)
    test, search, train = np.split(order, [num_test, num_test + num_search])
    return Drawn(train, search, test)


def draw(labels: np.ndarray, groups: np.ndarray, num_search: int, num_test: int, seed: int) -> Drawn:
    """
    Args:
        labels: (n,) whole numbers.
        groups: (n,) images of one number stay together.
        num_search: images for the search; the nearest that groups allow. `num_test` likewise.
    """
    rng = np.random.default_rng(seed)
    if not len(labels):
        return Drawn(*[np.zeros(0, dtype=np.int64)] * 3)
    classes = _units(labels, groups, rng)
    counts = np.array([sum(map(len, units)) for units in classes])
    spare = counts - np.array([len(units[-1]) for units in classes])  # the last group of a class is trained on
    test_quota = _shares(counts, num_test, spare, rng)
    search_quota = _shares(counts, num_search, spare - test_quota, rng)
    parts: dict[str, list[np.ndarray]] = {"train": [], "search": [], "test": []}
    due = {"test": 0, "search": 0}
    for units, for_test, for_search in zip(classes, test_quota, search_quota, strict=True):
        due["test"] += int(for_test)
        due["search"] += int(for_search)
        for unit in units[:-1]:
            part = next((name for name in due if len(unit) <= 2 * due[name]), "train")
            parts[part].append(unit)
            if part != "train":
                due[part] -= len(unit)
        parts["train"].append(units[-1])
    empty = np.zeros(0, dtype=np.int64)
    return Drawn(*(rng.permutation(np.concatenate([empty, *found])) for found in parts.values()))


def _units(labels: np.ndarray, groups: np.ndarray, rng: np.random.Generator) -> list[list[np.ndarray]]:
    """Of each class its groups in random order, as positions; a group of several classes belongs to the rarest."""
    frequency = np.bincount(labels)
    order = rng.permutation(len(labels))
    order = order[np.argsort(groups[order], kind="stable")]
    members = np.split(order, np.flatnonzero(np.diff(groups[order])) + 1)
    homes: dict[int, list[np.ndarray]] = {}
    for i in rng.permutation(len(members)):
        found = np.unique(labels[members[i]])
        homes.setdefault(int(found[frequency[found].argmin()]), []).append(members[i])
    return [homes[label] for label in sorted(homes)]


def _shares(counts: np.ndarray, total: int, limits: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """`total` in proportion to the counts, each at most its limit; what rounding leaves to the largest remainders."""
    exact = counts * (total / counts.sum())
    given = np.minimum(np.floor(exact).astype(np.int64), limits)
    order: Sequence[int] = np.lexsort((rng.random(len(counts)), np.floor(exact) - exact)).tolist()
    while (left := min(total, int(limits.sum())) - int(given.sum())) > 0:
        for i in [i for i in order if given[i] < limits[i]][:left]:
            given[i] += 1
    return given
