"""Accuracy of many archs with the weights of one supernet, on the search split.

A frontier action leaves all blocks before the one it touches as they are, so each batch runs once through the
current network, and each action runs only its own suffix from there. The blocks and their inputs are those that
evaluating the action alone would use, so the logits, and the accuracies, are the same bit for bit.

The same holds for recalibrating norms: while running statistics are measured nothing depends on them, so those of the
prefix are the current network's, and each action measures only its own suffix, from the current network's activations.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from nas.batches import eval_batches, normalize
from nas.data import Images
from search_spaces import Arch, BlockSpec
from supernet import Supernet, measure_statistics

Activations = TypeVar("Activations")


class Evaluator:
    """
    Args:
        supernet: in evaluation mode, on the device to use.
        images: the search split; decoded and resized once, kept as uint8.
        calibration: normalized images, in batches, on which each network's norms are recalibrated before it is
            evaluated; none: the norms are the supernet's.
    """

    def __init__(
        self,
        supernet: Supernet,
        images: Images,
        image_size: int,
        batch_size: int = 256,
        loaders: int = 0,
        calibration: Sequence[Tensor] = (),
    ) -> None:
        self.supernet = supernet
        self.space = supernet.space
        self.batches = tuple(eval_batches(images, image_size, batch_size, loaders))
        self.num_images = sum(int((labels >= 0).sum()) for _, labels in self.batches)  # corrupt ones have no label
        self.calibration = list(calibration)
        self.num_calibration_images = sum(map(len, calibration))
        self.block_forwards = 0  # blocks run, times images: what sharing the prefix saves
        self._modules: dict[BlockSpec, nn.Module] = {}

    def accuracy(self, arch: Arch) -> float:
        """Top-1 accuracy, a fraction."""
        return self.accuracies(arch, [arch])[0]

    @torch.inference_mode()
    def accuracies(self, base: Arch, archs: Sequence[Arch]) -> list[float]:
        """Top-1 accuracy of each arch; what it shares with `base` from the input on runs once for all."""
        frontier = self._frontier(self.space.lower(base), [self.space.lower(arch) for arch in archs])
        if self.calibration:
            for _ in frontier.outputs(self._measure, self.calibration):
                pass
        correct = [0] * len(archs)
        for images, labels in self.batches:
            x = normalize(images, self.supernet.device)
            for i, logits in frontier.outputs(self._run, x):
                correct[i] += int((logits.argmax(dim=1).cpu() == labels).sum())
        return [count / max(self.num_images, 1) for count in correct]

    def _frontier(self, trunk: Sequence[BlockSpec], archs: Sequence[Sequence[BlockSpec]]) -> _Frontier:
        starts = [first_difference(trunk, blocks) for blocks in archs]
        trunk = trunk[: max(starts)]
        suffixes = [blocks[start:] for blocks, start in zip(archs, starts, strict=True)]
        self._keep({*trunk, *(block for suffix in suffixes for block in suffix)})
        own = _with_own_buffers if self.calibration else lambda module: module
        modules = [[own(self._modules[block]) for block in suffix] for suffix in suffixes]
        return _Frontier([self._modules[block] for block in trunk], starts, modules)

    def _run(self, module: nn.Module, x: Tensor) -> Tensor:
        self.block_forwards += len(x)
        return module(x)

    def _measure(self, module: nn.Module, batches: list[Tensor]) -> list[Tensor]:
        self.block_forwards += self.num_calibration_images
        return measure_statistics(module, batches)

    def _keep(self, blocks: set[BlockSpec]) -> None:
        """Contiguous modules of these blocks and no others."""
        self._modules = {
            block: self._modules.get(block) or self.supernet.block_module(block).to(memory_format=torch.channels_last)
            for block in blocks
        }


class _Frontier:
    """Networks with common beginnings: each has the trunk's modules up to its start, and then its own suffix."""

    def __init__(self, trunk: list[nn.Module], starts: list[int], suffixes: list[list[nn.Module]]) -> None:
        self.trunk = trunk
        self.branches: list[list[int]] = [[] for _ in range(len(trunk) + 1)]
        for i, start in enumerate(starts):
            self.branches[start].append(i)
        self.suffixes = suffixes

    def outputs(
        self, run: Callable[[nn.Module, Activations], Activations], x: Activations
    ) -> Iterator[tuple[int, Activations]]:
        """(number, output) of each network for the input `x`."""
        for position, branches in enumerate(self.branches):
            if position > 0:
                x = run(self.trunk[position - 1], x)
            for i in branches:
                y = x
                for module in self.suffixes[i]:
                    y = run(module, y)
                yield i, y


def _with_own_buffers(module: nn.Module) -> nn.Module:
    """A copy that shares the weights."""
    return copy.deepcopy(module, {id(weight): weight for weight in module.parameters()})


def first_difference(a: Sequence[BlockSpec], b: Sequence[BlockSpec]) -> int:
    """Length of the common prefix, at most that of `b`."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
