"""Early stopping: a training ends once its averaged weights get no better, and the best of them are what is kept."""

from __future__ import annotations

from collections.abc import Mapping
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
    """The best evaluation until now, and the averaged weights that it was of.

    Args:
        patience: so many evaluations without a better one end the training.

    Attributes:
        accuracy: on the search split, a fraction; of a supernet the mean of the networks that are evaluated.
        step: after which it was found; of equally good evaluations the last counts, which has seen more images.
        since: evaluations since one was better than all before.
    """

    def __init__(self, module: nn.Module, patience: int) -> None:
        self.patience = patience
        self.accuracy, self.step, self.since = 0.0, 0, 0
        self.weights = _copied(module)

    def add(self, step: int, accuracies: Mapping[str, float], module: nn.Module) -> None:
        """Takes down an evaluation of the module, in all processes the primary's: they stop together."""
        found = float(collectives.gather(repr(fmean(accuracies.values())))[0])
        self.since = 0 if found > self.accuracy else self.since + 1
        if found >= self.accuracy:
            self.accuracy, self.step, self.weights = found, step, _copied(module)

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
