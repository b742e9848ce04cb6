"""How much of a network training drops at random: the published rate, or one between the published ones."""

from __future__ import annotations

from functools import cache

import numpy as np

from nas.training.recipe import StepConfig
from search_spaces import Arch, SearchSpace, macs
from search_spaces.efficientformerv2 import efficientformerv2

# EfficientFormerV2's supplement, Table 1: stochastic depth of the last block
PUBLISHED = {"s0": 0.0, "s1": 0.0, "s2": 0.02, "l": 0.1}


def drop_path_rate(config: StepConfig, space: SearchSpace, arch: Arch) -> float:
    """That of the config; where it has none, of Table 1 for a network of so many multiply-accumulates.

    Between the published networks (at the same image size) the rate is linear in the multiply-accumulates, below S1 0
    and above L 0.1.
    """
    if config.drop_path is not None:
        return config.drop_path
    known, rates = _published(space.image_size, space.num_classes)
    return float(np.interp(macs(space, arch), known, rates))


@cache
def _published(image_size: int, num_classes: int) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """MACs of S0 to L at about that size, of which their attention needs a multiple of 32, and their rates."""
    space = efficientformerv2(max(32, 32 * round(image_size / 32)), num_classes)
    return tuple(macs(space, space.published[name]) for name in PUBLISHED), tuple(PUBLISHED.values())
