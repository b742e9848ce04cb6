"""FastNAS of NVIDIA's Model Optimizer (modelopt.torch.prune, mode "fastnas") on a convolutional network.

As of 0.47: each width is narrowed alone, from one size to the next, by the L2 norm of what reads its channels; batch
norms are measured anew, and the score that is lost is the sensitivity of this width to this size. A threshold on it
then makes all widths as narrow as it allows, and is bisected until the network has the FLOPs asked for. So
sensitivities are of a network, whatever is asked for: they are measured once, and kept in a file. No block is removed.
"""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from scripts.search_peers.plain import original_names, plain
from scripts.search_peers.shapes import check_shaped, shaped
from search_spaces.command import quiet

INSTALL = "pip install nvidia-modelopt==0.47.0 torchprofile==0.0.4"
NORM_BATCHES = 50  # that batch norms are measured on: with fewer, modelopt scores every network with the whole one's
SHARES = tuple(step / 20 for step in range(1, 21))  # of each width, as by default


def installed() -> bool:
    return all(importlib.util.find_spec(name) for name in ("modelopt", "torchprofile"))


@dataclass(frozen=True, eq=False)
class FastNas:
    """A network that it can be asked for narrower ones of.

    Args:
        score: of a network in evaluation mode, the higher the better.
        batches: at least `NORM_BATCHES`, of images as the network takes them.
        image: one of them, of batch size 1.
        round_to: widths are multiples of this.
        sensitivities: the file that keeps them; what a killed process has measured is in it.
    """

    model: nn.Module
    score: Callable[[nn.Module], float]
    batches: Sequence[Tensor]
    image: Tensor
    round_to: int
    sensitivities: Path

    def cut(self, share: float) -> nn.Module:
        """The network of the least sensitivity with at most that share of the MACs."""
        import modelopt.torch.prune as mtp

        assert len(self.batches) >= NORM_BATCHES, "batch norms would not be measured anew"
        self.sensitivities.parent.mkdir(parents=True, exist_ok=True)
        search = {
            "score_func": self.score,
            "data_loader": self.batches,
            "collect_func": lambda batch: batch,
            "checkpoint": str(self.sensitivities),
            "verbose": False,
        }
        with quiet():
            constraints = {"flops": f"{100 * share}%"}
            pruned, _ = mtp.prune(copy.deepcopy(self._plain), self._mode, constraints, self.image, search)
        smaller = shaped(self.model, original_names(pruned.state_dict(), self.model))
        check_shaped(smaller, pruned, torch.cat([*self.batches[:2]]))
        return smaller

    @cached_property
    def _plain(self) -> nn.Module:
        return plain(self.model, self.image)

    @property
    def _mode(self) -> Any:
        """Its default space, in multiples of `round_to` instead of 32: these would leave thin layers whole."""
        widths = {"channels_ratio": SHARES, "channel_divisor": self.round_to}
        norms = {"features_ratio": SHARES, "feature_divisor": self.round_to}
        return [("fastnas", {"nn.Conv2d": {"*": widths}, "nn.BatchNorm2d": {"*": norms}})]
