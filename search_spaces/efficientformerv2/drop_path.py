"""Stochastic depth as published for EfficientFormerV2, for networks of any family by their size."""

from __future__ import annotations

from functools import cache

import numpy as np

from search_spaces.base import Arch, SearchSpace, macs
from search_spaces.efficientformerv2.space import efficientformerv2

RATES = {"s0": 0.0, "s1": 0.0, "s2": 0.02, "l": 0.1}  # supplement, Table 1: of the last block


def published_drop_path(space: SearchSpace, arch: Arch) -> float:
    """Table 1's rate for a network of so many multiply-accumulates.

    Between the published networks (at the same image size) it is linear in the multiply-accumulates, below S1 0 and
    above L 0.1.
    """
    known, rates = _published(space.image_size, space.num_classes)
    return float(np.interp(macs(space, arch), known, rates))


@cache
def _published(image_size: int, num_classes: int) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """MACs of S0 to L at about that size, of which their attention needs a multiple of 32, and their rates."""
    space = efficientformerv2(max(32, 32 * round(image_size / 32)), num_classes)
    return tuple(macs(space, space.published[name]) for name in RATES), tuple(RATES.values())
