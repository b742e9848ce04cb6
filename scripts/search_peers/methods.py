"""The fine-tuned network made smaller by each method: a function of the share of its MACs that remains."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from nas.data import Data, DataConfig
from nas.data.batches import eval_batches, normalize
from nas.networks import importance
from nas.networks.importance import TAYLOR_BATCH
from nas.pruning.selection import Ranking, select
from nas.pruning.source import find
from scripts.pruning_peers import torch_pruning_peer
from scripts.pruning_peers.child import Child
from scripts.pruning_peers.methods import Batches, calibration
from scripts.search_peers import fastnas
from scripts.search_peers.fastnas import NORM_BATCHES, FastNas
from scripts.search_peers.shapes import check_shaped, shaped
from search_spaces.structure.costs import Costs
from search_spaces.structure.fvcore_macs import fvcore_macs
from search_spaces.structure.slicing import cut

STEP = 0.8  # of the MACs, that a step of Torch-Pruning leaves
SCORED_IMAGES = 1000  # of the search split, that FastNAS scores networks by


@dataclass(frozen=True, eq=False)
class Given:
    """What every method is given.

    Args:
        whole: the folder of the network.
        num_images: that importance is taken from; FastNAS measures batch norms on as many.
        round_to: widths are multiples of this.
        folder: for what a method keeps.
    """

    whole: Path
    model: nn.Module
    image_size: int
    data: Data
    num_images: int
    round_to: int
    folder: Path
    child: Child

    @cached_property
    def batches(self) -> Batches:
        return calibration(self.data.train, self.num_images, TAYLOR_BATCH, self.image_size, seed=0)

    @property
    def image(self) -> Tensor:
        return torch.zeros(1, 3, self.image_size, self.image_size)


Cut = Callable[[float], nn.Module]  # what is left at that share of the MACs, or at the nearest that the method has


def nas_prune(given: Given) -> Cut:
    """Ours: Taylor importance of all dimensions together, divided by the MACs that a step saves."""
    _, model, structure = find(str(given.whole), None, None, DataConfig(), named=False).open(given.data, seed=0)
    costs, scores = Costs(model, structure, given.image), importance.taylor(model, structure, given.batches)
    ranking, whole = Ranking("global", "macs", given.round_to), costs.macs(structure.sizes)

    def smaller(share: float) -> nn.Module:
        kept = select(structure, scores, costs, "macs", int(share * whole), ranking)
        return cut(model, structure, kept)[0].eval()

    return smaller


@dataclass(eq=False)
class TorchPruning:
    """Its GroupTaylor importance of all layers together, in steps of a fifth of the MACs, each by gradients anew."""

    given: Given
    stages: list[nn.Module] = field(default_factory=list)

    def __call__(self, share: float) -> nn.Module:
        """Raises ChildFailed if Torch-Pruning fails or does not come to an end."""
        reached, stage = 1.0, 0
        while reached * STEP > share:
            reached, stage = reached * STEP, stage + 1
        pruned = self._pruned(self._stage(stage), share)
        smaller = shaped(self.given.model, pruned.state_dict())
        check_shaped(smaller, pruned, self.given.batches[0][0])
        return smaller

    def _stage(self, number: int) -> nn.Module:
        """After so many steps; the first is the network given."""
        if number == 0:
            return self.given.model
        while len(self.stages) < number:
            before = len(self.stages)
            self.stages.append(self._pruned(self._stage(before), STEP ** (before + 1)))
        return self.stages[number - 1]

    def _pruned(self, model: nn.Module, share: float) -> nn.Module:
        given, macs = self.given, int(share * fvcore_macs(self.given.model, self.given.image))
        settings = (given.batches, given.image_size, macs, "global", given.round_to)
        pruned: nn.Module = given.child.call(torch_pruning_peer.taylor_to_macs, copy.deepcopy(model), *settings)
        return pruned.eval()


def fast_nas(given: Given) -> Cut:
    """FastNAS, by accuracy on the search split."""
    scored, device = given.data.search.spread(SCORED_IMAGES), torch.device("cpu")
    batches = [(normalize(x, device, scored.normalization), y) for x, y in eval_batches(scored, given.image_size, 256)]

    @torch.inference_mode()
    def score(model: nn.Module) -> float:
        right = sum(int((model.eval()(x).argmax(dim=1) == y).sum()) for x, y in batches)
        return right / len(scored)

    size = max(2, given.num_images // NORM_BATCHES)
    norms = calibration(given.data.train, size * NORM_BATCHES, size, given.image_size, seed=0)
    images = [x for x, _ in norms]
    return FastNas(given.model, score, images, given.image, given.round_to, given.folder / "fastnas.pth").cut


METHODS: Mapping[str, Callable[[Given], Cut]] = {
    "fastnas": fast_nas,
    "torch-pruning": TorchPruning,
    "nas.prune": nas_prune,
}
NEEDS: Mapping[str, tuple[Callable[[], bool], str]] = {
    "fastnas": (fastnas.installed, fastnas.INSTALL),
    "torch-pruning": (torch_pruning_peer.installed, torch_pruning_peer.INSTALL),
}
