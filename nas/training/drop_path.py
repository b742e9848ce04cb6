"""Stochastic depth: the published rate, or one between the published ones, and the layers of timm that have it."""

from __future__ import annotations

import re
from functools import cache

import numpy as np
from timm.layers import DropPath
from torch import nn

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


def drop_path_blocks(model: nn.Module) -> list[tuple[nn.Module, list[str]]]:
    """Modules with residual branches that timm can drop, and the names of the dropping layers, in order."""
    kinds = nn.Identity | DropPath
    found = [
        (module, [name for name, child in module.named_children() if re.fullmatch(r"drop_path\d?", name)])
        for module in model.modules()
    ]
    return [(m, names) for m, names in found if names and all(isinstance(getattr(m, n), kinds) for n in names)]


def set_drop_path(model: nn.Module, rate: float) -> None:
    """In place: rising linearly with depth from 0 to the rate, of the last block."""
    blocks = drop_path_blocks(model)
    for i, (block, names) in enumerate(blocks):
        for name in names:
            setattr(block, name, DropPath(rate * i / max(1, len(blocks) - 1)))
