"""Pruning to a target in one or several rounds of importance and selection."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from latency_lut.backends.base import Backend
from nas.networks import importance
from nas.networks.importance import Criterion, Scores
from nas.pruning.latency import MAX_TRIALS, Trial, measure, ms_per_mac, reach
from nas.pruning.selection import Metric, Ranking, Scope, select
from search_spaces import UserError
from search_spaces.structure.base import Structure
from search_spaces.structure.costs import Costs
from search_spaces.structure.slicing import cut

CPU_MACS = 2e11  # of the forward passes that importance takes by default on a CPU: 20 s on two cores
Batches = Iterable[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Target:
    """A share of what the network given costs."""

    metric: Literal["params", "macs", "latency"]
    share: float

    @classmethod
    def parse(cls, text: str) -> Target:
        """UserError unless it is like "macs=0.5"."""
        metric, _, share = text.partition("=")
        try:
            target = cls(metric, float(share))  # type: ignore[arg-type]
        except ValueError:
            target = cls("macs", 0.0)
        if metric not in ("params", "macs", "latency") or not 0 < target.share < 1:
            raise UserError(f"--target is {text!r}; give params, macs or latency and a share between 0 and 1: macs=0.5")
        return target


@dataclass(frozen=True)
class Method:
    """How units are chosen."""

    target: Target
    criterion: Criterion
    scope: Scope
    normalize: Literal["none", "params", "macs", "latency"]
    round_to: int
    seed: int


class OutOfReach(UserError):  # noqa: N818
    """The target is below what one unit of everything costs."""


class Pruner:
    """A network on its way to the target.

    Args:
        model: prunable; it is replaced by smaller ones, not changed.
        image_size: of its images.
        backend: that latency is measured by, with `samples` of each network; used if the method asks for latency.

    Raises:
        OutOfReach: the parameters or MACs aimed at are below those of one unit of everything; the message names these.
    """

    def __init__(
        self, model: nn.Module, structure: Structure, method: Method, image_size: int, backend: Backend, samples: int
    ) -> None:
        self.model, self.structure, self.method, self.image_size = model, structure, method, image_size
        self.backend, self.samples = backend, samples
        self.whole = copy.deepcopy(model)
        costs = self._costs()
        self.whole_cost = costs.cost(self._metric, structure.sizes)
        self.trials: list[Trial] = []  # of the last round
        least, target = costs.cost(self._metric, dict.fromkeys(structure.sizes, 1)), method.target
        if target.metric != "latency" and least > int(target.share * self.whole_cost):
            raise self._unreachable(least / self.whole_cost)

    @property
    def _metric(self) -> Metric:
        """What selection counts: for a latency, MACs, until measurements agree."""
        return "params" if self.method.target.metric == "params" else "macs"

    def _costs(self) -> Costs:
        device = next(self.model.parameters()).device  # a round may have another than the network came on
        return Costs(self.model, self.structure, torch.zeros(1, 3, self.image_size, self.image_size, device=device))

    def round(self, number: int, count: int, batches: Batches) -> dict[str, Tensor]:
        """Prunes for one of `count` rounds, each to the same share of what the one before left; returns what it kept.

        Raises:
            OutOfReach: the latency lies below that of one unit of everything; the message names that.
        """
        method, costs = self.method, self._costs()
        scores = self._scores(number, batches)
        rates = {}
        if method.normalize == "latency":
            rates = ms_per_mac(self.model, self.structure, costs, self.image_size, self.backend, self.samples)
        ranking = Ranking(
            method.scope, None if method.normalize == "none" else method.normalize, method.round_to, rates
        )
        share = method.target.share ** (number / count)

        def chosen(cost_share: float) -> dict[str, Tensor]:
            limit = int(cost_share * self.whole_cost)
            return select(self.structure, scores, costs, self._metric, limit, ranking)

        if method.target.metric == "latency":
            share = self._share_of_macs(share, chosen, costs)
        kept = chosen(share)
        self.model, self.structure = cut(self.model, self.structure, kept)
        return kept

    def _scores(self, number: int, batches: Batches) -> Scores:
        if self.method.criterion == "taylor":
            return importance.taylor(self.model, self.structure, batches)
        if self.method.criterion == "magnitude":
            return importance.magnitude(self.model, self.structure)
        return importance.random(self.structure, self.method.seed + number)

    def _share_of_macs(self, latency_share: float, chosen: Any, costs: Costs) -> float:
        def measured(macs_share: float) -> float:
            models = {"whole": self.whole, "pruned": cut(self.model, self.structure, chosen(macs_share))[0]}
            timings = measure(models, self.image_size, self.backend, self.samples).timings
            return timings["pruned"].min_ms / timings["whole"].min_ms

        least = (costs.macs(dict.fromkeys(self.structure.sizes, 1)) + 1) / self.whole_cost
        share, self.trials = reach(latency_share, measured, least)
        if share == least and self.trials[0].latency_share > latency_share:
            raise self._unreachable(self.trials[0].latency_share)
        return share

    def _unreachable(self, least_share: float) -> OutOfReach:
        target = self.method.target
        return OutOfReach(
            f"--target {target.metric}={target.share:g} is below what one unit of everything costs: "
            f"{target.metric}={least_share:.4f}; give more than that"
        )

    def facts(self) -> dict[str, Any]:
        """What was measured on the way of the last round, as JSON."""
        return {"latency_trials": [asdict(trial) for trial in self.trials], "max_trials": MAX_TRIALS}
