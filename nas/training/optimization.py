"""Optimizer, schedules and moving average of a recipe: timm's, and the decay of the weight decay."""

from __future__ import annotations

import math
from typing import Any

import torch
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler, MultiStepLRScheduler
from timm.scheduler.scheduler import Scheduler
from timm.utils import ModelEmaV3
from torch import nn

from nas.training.recipe import LoopConfig

FALLS = (8 / 12, 11 / 12)  # of the training, after which `steps` takes a tenth: Detectron's 1x schedule


class Optimization:
    """
    Args:
        steps: of the whole training, `steps_per_epoch` of an epoch.
    """

    def __init__(self, model: nn.Module, config: LoopConfig, steps: int, steps_per_epoch: int) -> None:
        lr = config.lr * config.batch_size / 1024
        layers: dict[str, Any] = {} if config.layer_decay is None else {"layer_decay": config.layer_decay}
        name = {"adamw": "adamw", "sgd": "momentum"}[config.optimizer]  # timm's "sgd" is Nesterov's
        self.optimizer: Any = create_optimizer_v2(
            model, name, lr=lr, weight_decay=config.weight_decay, momentum=0.9, **layers
        )
        warmup = min(round(config.warmup_epochs * steps_per_epoch), steps // 4)
        ends = lr * config.lr_ends
        warm: dict[str, Any] = {"warmup_t": warmup, "warmup_lr_init": ends, "t_in_epochs": False}
        if config.schedule == "steps":
            falls = [round(share * steps) + 1 for share in FALLS]  # timm's count steps from 1
            self._lr: Scheduler = MultiStepLRScheduler(self.optimizer, falls, 0.1, warmup_prefix=False, **warm)
        else:
            self._lr = CosineLRScheduler(self.optimizer, steps, lr_min=ends, **warm)
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


class Ema(ModelEmaV3):
    """The moving average of a network's weights: timm's, its tensors listed once.

    Listing a supernet's thousands of modules takes longer than averaging them.
    """

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
