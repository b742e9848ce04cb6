"""The methods that the pruning benchmark compares: what each leaves of a network at a number of MACs."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from statistics import mean

import numpy as np
import torch
from torch import Tensor, nn

from nas.data import Images
from nas.data.batches import eval_batches, normalize
from nas.networks import importance
from nas.networks.importance import Scores
from nas.pruning.page import ratios
from nas.pruning.selection import Ranking, Scope, select
from scripts.pruning_peers.child import Child
from scripts.pruning_peers.torch_pruning_peer import taylor_to_macs
from search_spaces.deployed import deployed
from search_spaces.structure.costs import Costs
from search_spaces.structure.families import attention
from search_spaces.structure.families.registry import prepare
from search_spaces.structure.fvcore_macs import fvcore_macs
from search_spaces.structure.slicing import prune

Batches = Sequence[tuple[Tensor, Tensor]]

METHODS = {
    "taylor": "ours: Taylor",
    "taylor-macs": "ours: Taylor, divided by the MACs that a step saves",
    "taylor-latency": "ours: Taylor, divided by the time that a step saves, as measured",
    "magnitude": "ours: L2 norm",
    "random": "ours: chance",
    "torch-pruning": "its Taylor; the softmax changes its temperature with the head dimension",
    "torch-pruning-scaled": "its Taylor; the attention keeps the scale of the whole head dimension",
}
PEERS = ("torch-pruning", "torch-pruning-scaled")


def calibration(images: Images, count: int, batch: int, image_size: int, seed: int) -> Batches:
    """Batches of images drawn by the seed, without augmentation: the same for every method."""
    chosen = np.random.default_rng(seed).permutation(len(images))[:count]
    drawn = replace(images, indices=images.indices[chosen], labels=images.labels[chosen])
    device, to = torch.device("cpu"), images.normalization
    return [(normalize(x, device, to), labels) for x, labels in eval_batches(drawn, image_size, batch)]


@dataclass(frozen=True, eq=False)
class Task:
    """A trained network and what all methods are given to prune it.

    Args:
        peer: None where Torch-Pruning is not installed.
        ms_per_mac: of each dimension, for `taylor-latency`.
    """

    model: nn.Module
    image_size: int
    batches: Callable[[int], Batches]
    scope: Scope
    round_to: int
    peer: Child | None = None
    ms_per_mac: Mapping[str, float] = field(default_factory=dict)

    @property
    def image(self) -> Tensor:
        return torch.zeros(1, 3, self.image_size, self.image_size)

    def macs(self, model: nn.Module) -> int:
        return fvcore_macs(deployed(model), self.image)

    def cut(self, method: str, seed: int, macs: int) -> nn.Module:
        """What the method leaves of the network.

        Raises:
            ChildFailed: Torch-Pruning could not.
        """
        if method in PEERS:
            model = copy.deepcopy(self._by_peer(seed, macs))
            if method == "torch-pruning-scaled":
                attention.prepare(model)  # ours keep the scale of the whole
            return model
        return self.sized(method, seed, macs, self.model)

    def sized(self, method: str, seed: int, macs: int, weights: nn.Module) -> nn.Module:
        """The units that our method chooses, with the weights of another network of the same shape."""
        kept = self._kept(method, seed, macs)
        model = copy.deepcopy(weights)
        prune(model, prepare(model), kept)
        return model.eval()

    def over_embedding(self, method: str, seed: int, macs: int) -> dict[str, tuple[float, float]]:
        """Channels of Q and K, of V and of FFNs over the embedding, before and after: means over layers, as Figure 5 of
        EfficientViT (Liu et al., CVPR 2023, supplement) has them one by one. Empty if nothing has an embedding."""
        structure = prepare(copy.deepcopy(self.model))
        kept = self._kept(method, seed, macs)
        pruned = structure.resized({name: len(units) for name, units in kept.items()})
        before, after = ratios(structure), ratios(pruned)
        return {kind: (mean(before[kind].values()), mean(after[kind].values())) for kind in before}

    @lru_cache(maxsize=1)  # noqa: B019  # both methods of it are one call
    def _by_peer(self, seed: int, macs: int) -> nn.Module:
        assert self.peer is not None, "it is not installed"
        model: nn.Module = self.peer.call(
            taylor_to_macs, self.model, self.batches(seed), self.image_size, macs, self.scope, self.round_to
        )
        return model.eval()

    @lru_cache(maxsize=1)  # noqa: B019  # a network's cut and what remains of it are one choice
    def _kept(self, method: str, seed: int, macs: int) -> dict[str, Tensor]:
        model = copy.deepcopy(self.model)
        structure = prepare(model)
        costs = Costs(model, structure, self.image)
        per = {"taylor-macs": "macs", "taylor-latency": "latency"}.get(method)
        ranking = Ranking(self.scope, per, self.round_to, self.ms_per_mac)  # type: ignore[arg-type]
        return select(structure, self._scores(method, seed), costs, "macs", macs, ranking)

    @lru_cache(maxsize=8)  # noqa: B019
    def _scores(self, method: str, seed: int) -> Scores:
        if method.startswith("taylor-"):
            return self._scores("taylor", seed)
        model = copy.deepcopy(self.model)
        structure = prepare(model)
        if method == "magnitude":
            return importance.magnitude(model, structure)
        if method == "random":
            return importance.random(structure, seed)
        return importance.taylor(model, structure, self.batches(seed))


def prune_once(model: nn.Module, batches: Batches, image_size: int, share: float, scope: Scope) -> nn.Module:
    """A copy pruned by our Taylor importance to a share of the MACs."""
    model = copy.deepcopy(model)
    structure = prepare(model)
    costs = Costs(model, structure, torch.zeros(1, 3, image_size, image_size))
    scores = importance.taylor(model, structure, batches)
    limit = int(share * costs.macs(structure.sizes))
    prune(model, structure, select(structure, scores, costs, "macs", limit, Ranking(scope, round_to=1)))
    return model
