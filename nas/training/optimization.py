"""Optimizer and schedules of a recipe: timm's, and the decay of the weight decay."""

from __future__ import annotations

import math
from typing import Any

from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler
from torch import nn

from nas.training.recipe import StepConfig


class Optimization:
    """
    Args:
        steps: of the whole training, `steps_per_epoch` of an epoch.
    """

    def __init__(self, model: nn.Module, config: StepConfig, steps: int, steps_per_epoch: int) -> None:
        lr = config.lr * config.batch_size / 1024
        layers: dict[str, Any] = {} if config.layer_decay is None else {"layer_decay": config.layer_decay}
        name = {"adamw": "adamw", "sgd": "momentum"}[config.optimizer]  # timm's "sgd" is Nesterov's
        self.optimizer: Any = create_optimizer_v2(
            model, name, lr=lr, weight_decay=config.weight_decay, momentum=0.9, **layers
        )
        warmup = min(round(config.warmup_epochs * steps_per_epoch), steps // 4)
        ends = lr * config.lr_ends
        self._lr = CosineLRScheduler(
            self.optimizer, steps, lr_min=ends, warmup_t=warmup, warmup_lr_init=ends, t_in_epochs=False
        )
        self._steps, self._decay = steps, (config.weight_decay, config.weight_decay_end)
        # by number: loading a checkpoint puts new groups in place of these
        self._decayed = [i for i, group in enumerate(self.optimizer.param_groups) if group["weight_decay"] > 0]

    def begin_step(self, step: int) -> None:
        """Sets learning rate and weight decay, which are functions of the step."""
        self._lr.step_update(step)
        start, end = self._decay
        if end is not None:
            for i in self._decayed:
                share = (1 + math.cos(math.pi * step / self._steps)) / 2
                self.optimizer.param_groups[i]["weight_decay"] = end + (start - end) * share
