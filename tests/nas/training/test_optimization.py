"""The learning rate is a function of the step."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from torch import nn

from nas.training.optimization import Optimization
from nas.training.recipe import LoopConfig

CONFIG = LoopConfig(batch_size=1024, lr=1.0, lr_ends=0.001, warmup_epochs=1.0, schedule="steps")


def rates(config: LoopConfig) -> list[float]:
    """Of 12 epochs of ten steps."""
    made = Optimization(nn.Linear(2, 2), config, 120, 10)
    found = []
    for step in range(120):
        made.begin_step(step)
        found.append(made.optimizer.param_groups[0]["lr"])
    return found


def test_steps_are_detectrons() -> None:
    """A line over the first epoch, then a tenth from the ninth on and a hundredth in the twelfth."""
    found = rates(CONFIG)
    assert found[:11] == pytest.approx([0.001 + 0.0999 * i for i in range(10)] + [1.0])
    assert set(found[10:80]) == {1.0} and found[80:110] == pytest.approx([0.1] * 30)
    assert found[110:] == pytest.approx([0.01] * 10)


def test_a_cosine_ends_where_it_begins() -> None:
    found = rates(replace(CONFIG, schedule="cosine", lr_ends=0.1))
    assert found[0] == pytest.approx(0.1) and max(found) == pytest.approx(1, abs=0.03)
    assert found[-1] == pytest.approx(0.1, abs=0.01) and all(a > b for a, b in pairwise(found[12:]))
