"""What a search asks of networks: their answers to the images of the search split, and how good these are."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from nas.data import Images
from nas.data.batches import eval_batches
from nas.data.splits import Normalization
from nas.evaluation.racing import Outcomes, joined

Answers = TypeVar("Answers")  # of a network to some images, in their order


class Judge(ABC, Generic[Answers]):
    """
    Attributes:
        images: (n, 3, S, S) uint8, decoded and resized once.
        normalization: of these, as networks take them.
        additive: whether an accuracy is the mean of what each image has by itself.
    """

    images: Tensor
    normalization: Normalization
    additive: bool

    @abstractmethod
    def answers(self, outputs: Any, positions: Tensor) -> Answers:
        """
        Args:
            outputs: of a network's last block for the images at these positions.
        """

    @abstractmethod
    def joined(self, parts: Sequence[Answers]) -> Answers:
        """Those to all images, of those to one batch after another."""

    @abstractmethod
    def accuracy(self, answers: Answers) -> float:
        """The figure that networks are searched by, a fraction, of answers to all images."""

    @abstractmethod
    def scores(self, answers: Answers) -> np.ndarray:
        """(parts,) what each image, or each of some equal parts of them, says of the accuracy, which is their mean: how
        these differ tells how far chance in the choice of images moves it, and differences on the same images."""


class ClassJudge(Judge[Outcomes]):
    """Of logits: whether the largest is that of an image's class. Corrupt images do not count."""

    additive = True

    def __init__(self, images: Images, image_size: int, batch_size: int = 256, num_workers: int = 0) -> None:
        batches = eval_batches(images, image_size, batch_size, num_workers)
        read = [(batch[labels >= 0], labels[labels >= 0]) for batch, labels in batches]  # corrupt ones have no label
        self.images = torch.cat([batch for batch, _ in read])
        self.labels = torch.cat([labels for _, labels in read])
        self.normalization = images.normalization

    def answers(self, outputs: Tensor, positions: Tensor) -> Outcomes:
        labels = self.labels[positions].to(outputs.device)
        right = outputs.gather(1, labels[:, None])[:, 0]
        others = outputs.scatter(1, labels[:, None], -torch.inf).amax(dim=1)
        return Outcomes((outputs.argmax(dim=1) == labels).cpu().numpy(), (right - others).cpu().numpy())

    def joined(self, parts: Sequence[Outcomes]) -> Outcomes:
        return joined(parts)

    def accuracy(self, answers: Outcomes) -> float:
        return int(answers.correct.sum()) / max(len(answers), 1)

    def scores(self, answers: Outcomes) -> np.ndarray:
        return answers.correct
