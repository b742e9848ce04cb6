"""The moving average of a network's weights."""

from __future__ import annotations

import torch
from timm.utils import ModelEmaV3
from torch import nn


class Ema(ModelEmaV3):
    """timm's, its tensors listed once: listing a supernet's thousands of modules takes longer than averaging them."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        super().__init__(model, decay=decay, use_warmup=True, warmup_power=0.75)
        pairs = list(zip(self.module.state_dict().values(), model.state_dict().values(), strict=True))
        floats = [pair for pair in pairs if pair[0].is_floating_point()]
        self.averages, self.values = [average for average, _ in floats], [value for _, value in floats]
        self.counters = [pair for pair in pairs if not pair[0].is_floating_point()]

    def apply_update_(self, model: nn.Module, decay: float) -> None:
        torch._foreach_lerp_(self.averages, self.values, weight=1 - decay)
        for average, value in self.counters:
            average.copy_(value)
