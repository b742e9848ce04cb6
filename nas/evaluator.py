"""Accuracy of many archs with the weights of one supernet, on the search split.

A frontier action leaves all blocks before the one it touches as they are, so each batch runs once through the
current network, and each action runs only its own suffix from there. The blocks and their inputs are those that
evaluating the action alone would use, so the logits, and the accuracies, are the same bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from nas.batches import eval_batches, normalize
from nas.data import Images
from search_spaces import Arch, BlockSpec
from supernet import Supernet


class Evaluator:
    """
    Args:
        supernet: in evaluation mode, on the device to use.
        images: the search split; decoded and resized once, kept as uint8.
    """

    def __init__(
        self, supernet: Supernet, images: Images, image_size: int, batch_size: int = 256, workers: int = 0
    ) -> None:
        self.supernet = supernet
        self.space = supernet.space
        self.batches = tuple(eval_batches(images, image_size, batch_size, workers))
        self.num_images = sum(int((labels >= 0).sum()) for _, labels in self.batches)  # corrupt ones have no label
        self.block_forwards = 0  # blocks run, times images: what sharing the prefix saves
        self._modules: dict[BlockSpec, nn.Module] = {}

    def accuracy(self, arch: Arch) -> float:
        """Top-1 accuracy, a fraction."""
        return self.accuracies(arch, [arch])[0]

    @torch.inference_mode()
    def accuracies(self, base: Arch, archs: Sequence[Arch]) -> list[float]:
        """Top-1 accuracy of each arch; what it shares with `base` from the input on runs once for all."""
        trunk = self.space.lower(base)
        blocks = [self.space.lower(arch) for arch in archs]
        starts = [_first_difference(trunk, own) for own in blocks]
        self._keep({*trunk[: max(starts)], *(b for own, s in zip(blocks, starts, strict=True) for b in own[s:])})
        correct = [0] * len(archs)
        for images, labels in self.batches:
            x = normalize(images, self.supernet.device)
            for position in range(max(starts) + 1):
                for i, start in enumerate(starts):
                    if start == position:
                        logits = self._run(blocks[i][start:], x)
                        correct[i] += int((logits.argmax(dim=1).cpu() == labels).sum())
                if position < max(starts):
                    x = self._run(trunk[position : position + 1], x)
        return [count / max(self.num_images, 1) for count in correct]

    def _run(self, blocks: Sequence[BlockSpec], x: Tensor) -> Tensor:
        self.block_forwards += len(blocks) * len(x)
        for block in blocks:
            x = self._modules[block](x)
        return x

    def _keep(self, blocks: set[BlockSpec]) -> None:
        """Contiguous modules of these blocks and no others."""
        self._modules = {
            block: self._modules.get(block) or self.supernet.block_module(block).to(memory_format=torch.channels_last)
            for block in blocks
        }


def _first_difference(a: Sequence[BlockSpec], b: Sequence[BlockSpec]) -> int:
    """Length of the common prefix, at most that of `b`."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
