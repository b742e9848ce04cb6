"""Early stopping: a training ends once its averaged weights get no better, and the best of them are what is kept.

A search split of a few dozen images is noise: the best of twenty evaluations is early luck more often than not, while a
falling learning rate makes the last averages the best. So of those that cannot be told from the best the last is kept,
by the one-standard-error rule (Breiman et al., Classification and Regression Trees, 1984, Section 3.4.3).
"""

from __future__ import annotations

from collections.abc import Mapping
from math import sqrt
from statistics import fmean
from typing import TypedDict

from torch import Tensor, nn

from nas.distributed import collectives
from search_spaces.command.typed import Count, Fraction


class BestState(TypedDict):
    """What a checkpoint says of a `Best`, beside its weights."""

    accuracy: Fraction
    step: Count
    since: Count


class Best:
    """The best accuracy until now, and the averaged weights to keep.

    Args:
        patience: so many evaluations without a better one end the training.
        num_images: of the search split.

    Attributes:
        accuracy: the best, a fraction; of a supernet the mean of the networks that are evaluated.
        step: of the weights: after the last evaluation within one standard error of the best.
        since: evaluations since one was better than all before.
    """

    def __init__(self, module: nn.Module, patience: int, num_images: int) -> None:
        self.patience, self.num_images = patience, num_images
        self.accuracy, self.step, self.since = 0.0, 0, 0
        self.weights = _copied(module)

    def add(self, step: int, accuracies: Mapping[str, float], module: nn.Module) -> None:
        """Takes down an evaluation of the module, in all processes the primary's: they stop together."""
        found = float(collectives.gather(repr(fmean(accuracies.values())))[0])
        self.since = 0 if found > self.accuracy else self.since + 1
        self.accuracy = max(found, self.accuracy)
        standard_error = sqrt(self.accuracy * (1 - self.accuracy) / self.num_images)
        if found >= self.accuracy - standard_error:
            self.step, self.weights = step, _copied(module)

    @property
    def is_final(self) -> bool:
        return self.since >= self.patience

    def state(self) -> BestState:
        return {"accuracy": self.accuracy, "step": self.step, "since": self.since}

    def load(self, state: BestState, module: nn.Module) -> None:
        """The inverse of `state`; the module has the weights."""
        self.accuracy, self.step, self.since = state["accuracy"], state["step"], state["since"]
        self.weights = _copied(module)


def _copied(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}
