"""What a search asks of networks with a head: what they find on the search images, beside what is there."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from nas.dense.kind import Kind
from nas.evaluation.judge import Judge
from nas.scenes import Scenes
from nas.scenes.batches import eval_scenes
from search_spaces import SearchSpace
from search_spaces.dense.space import HeadedSpace

BATCH_SIZE = 32  # of images that are read
PARTS = 20  # of the images, for `scores`: a standard error by so many errs by a sixth


class DenseJudge(Judge[list[Any]]):
    """
    Args:
        kind: what networks are to find.
        images: the search split.
        space: of the networks.
        device: that they run on.
    """

    additive = False

    def __init__(
        self, kind: Kind[Any, Any], images: Scenes, space: SearchSpace, device: torch.device, num_workers: int = 0
    ) -> None:
        assert isinstance(space, HeadedSpace)
        batches = eval_scenes(images, space.image_size, BATCH_SIZE, num_workers)
        read = [(batch, [_kept(target) for target in targets]) for batch, targets in batches]
        self.images = torch.cat([batch for batch, _ in read])
        self.targets = [target for _, targets in read for target in targets]
        self.normalization = images.normalization
        self.kind, self.meaning, self.num_classes = kind, space.meaning().to(device), len(images.classes)

    def answers(self, outputs: Any, positions: Tensor) -> list[Any]:
        meaning: Any = self.meaning
        targets = (_given(self.targets[i]) for i in positions.tolist())
        return self.kind.compared(meaning, meaning.raw(outputs), targets)

    def joined(self, parts: Sequence[list[Any]]) -> list[Any]:
        return [one for part in parts for one in part]

    def accuracy(self, answers: list[Any]) -> float:
        return self.kind.of_parts(answers, self.num_classes, [range(len(answers))])[0]

    def scores(self, answers: list[Any]) -> np.ndarray:
        """Pseudo-values of the jackknife, which leaves out one part at a time (Tukey 1958; Shao & Wu 1989): AP and mIoU
        are no means over images."""
        every, count = range(len(answers)), min(PARTS, len(answers))
        rests = [[i for i in every if i % count != part] for part in range(count)]
        whole, *without = self.kind.of_parts(answers, self.num_classes, [every, *rests])
        values = count * whole - (count - 1) * np.array(without)
        return np.asarray(values + (whole - values.mean()))  # without the correction of its bias, so that they add up


class _Compressed(NamedTuple):
    """A mask (H, W) uint8: those of all images at their own size, a byte a pixel, would fill the memory."""

    content: bytes
    size: tuple[int, ...]


def _kept(target: Any) -> Any:
    if not isinstance(target, Tensor):
        return target
    return _Compressed(zlib.compress(target.numpy().tobytes(), level=1), tuple(target.shape))


def _given(kept: Any) -> Any:
    if not isinstance(kept, _Compressed):
        return kept
    return torch.frombuffer(bytearray(zlib.decompress(kept.content)), dtype=torch.uint8).view(kept.size)
