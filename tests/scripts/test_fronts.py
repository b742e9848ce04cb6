"""Two fronts on the same images: what dominates more, and whether images could have said otherwise."""

from __future__ import annotations

import re

import numpy as np
import pytest

from scripts.ranking.fronts import Front, compare

SCORES = np.array([0.0, 1.0])
RNG = np.random.default_rng(0)


def front(name: str, *accuracies: float, images: int = 400) -> Front:
    order = np.random.default_rng(1).permutation(images)  # who is right is right where those that are worse are
    return Front(name, SCORES, np.stack([order < accuracy * images for accuracy in accuracies]))


def test_hypervolume_is_of_what_lies_above_guessing() -> None:
    assert front("a", 0.9, 0.6).hypervolume(0.1) == pytest.approx(0.5)  # the largest has no MES above its own
    assert front("a", 0.9, 0.6).hypervolume(0.6) == pytest.approx(0.0)


def test_a_difference_that_images_could_have_made_has_an_interval_around_zero() -> None:
    def ends(text: str) -> list[float]:
        found = re.search(r"less b: (\S+) \(95 %: (\S+) to (\S+)\), 400 images$", text)
        assert found is not None
        return [float(x) for x in found.groups()]

    difference, low, high = ends(compare(front("a", 0.9, 0.8), front("b", 0.9, 0.6), 0.1))
    assert difference == pytest.approx(0.2, abs=1e-4) and 0.15 < low < difference < high < 0.25
    other = Front("b", SCORES, RNG.random((2, 400)) < 0.7)
    mine = Front("a", SCORES, RNG.random((2, 400)) < 0.7)
    _, low, high = ends(compare(mine, other, 0.1))
    assert low < 0 < high
