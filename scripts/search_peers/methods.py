"""The fine-tuned network made smaller by each method: a function of the share of its MACs that remains."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
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
from scripts.pruning_peers.torch_pruning_peer import taylor_in_steps
from scripts.search_peers import fastnas
from scripts.search_peers.fastnas import NORM_BATCHES, FastNas
from scripts.search_peers.shapes import check_shaped, shaped
from search_spaces import UserError
from search_spaces.structure.costs import Costs
from search_spaces.structure.fvcore_macs import fvcore_macs
from search_spaces.structure.slicing import cut

STEP = 0.7  # of the MACs, that a step of Torch-Pruning leaves
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
    """Its GroupTaylor importance of all layers together, in steps that leave `STEP` of the MACs, by gradients anew.

    Args:
        stages: the network after 0, 1, … of these steps, whatever share they were on the way to.
    """

    given: Given
    stages: list[nn.Module] = field(init=False)

    def __post_init__(self) -> None:
        self.stages = [self.given.model]

    def __call__(self, share: float) -> nn.Module:
        """Raises ChildFailed if Torch-Pruning fails or does not come to an end."""
        steps = int(math.log(share) / math.log(STEP))
        known = min(steps, len(self.stages) - 1)
        *stages, pruned = self._pruned(known, [*(STEP**step for step in range(known + 1, steps + 1)), share])
        self.stages += stages
        smaller = shaped(self.given.model, pruned.state_dict())
        check_shaped(smaller, pruned, self.given.batches[0][0])
        return smaller

    def _pruned(self, stage: int, shares: Sequence[float]) -> list[nn.Module]:
        given, whole = self.given, fvcore_macs(self.given.model, self.given.image)
        settings = (given.batches, given.image_size, [int(share * whole) for share in shares], "global", given.round_to)
        found: list[nn.Module] = given.child.call(taylor_in_steps, self.stages[stage], *settings)
        return [model.eval() for model in found]


def fast_nas(given: Given) -> Cut:
    """FastNAS, by accuracy on the search split. UserError if there are too few images to measure norms on."""
    size = min(given.num_images, len(given.data.train)) // NORM_BATCHES
    if size < 2:
        raise UserError(
            f"fastnas measures norms on {2 * NORM_BATCHES} training images or more; leave it out of --methods"
        )
    scored, device = given.data.search.spread(SCORED_IMAGES), torch.device("cpu")
    batches = [(normalize(x, device, scored.normalization), y) for x, y in eval_batches(scored, given.image_size, 256)]

    @torch.inference_mode()
    def score(model: nn.Module) -> float:
        right = sum(int((model.eval()(x).argmax(dim=1) == y).sum()) for x, y in batches)
        return right / len(scored)

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
