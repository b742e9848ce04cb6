"""Stochastic depth: the published rate, or one between the published ones, and the layers of timm that have it."""

from __future__ import annotations

import re

from timm.layers import DropPath
from torch import nn

from nas.training.recipe import StepConfig
from search_spaces import Arch, SearchSpace, published_drop_path


def drop_path_rate(config: StepConfig, space: SearchSpace, arch: Arch) -> float:
    """That of the config; where it has none, the published one for a network of so many multiply-accumulates."""
    return published_drop_path(space, arch) if config.drop_path is None else config.drop_path


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
