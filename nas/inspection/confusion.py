"""What a classifier takes for what: the confusion matrix and the accuracies that follow, each with its 95 % interval.

Classes of a few dozen images are noisy: two networks that differ by less than the intervals may not differ at all.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from nas.evaluation.intervals import wilson

TOP5_CLASSES = 10  # from so many on: of fewer, any five are most


@dataclass(frozen=True)
class Accuracy:
    """A fraction of images and the ends of its 95 % interval; None where there is no image to tell."""

    value: float | None
    low: float
    high: float


class Confusion:
    """Counts over the images added so far.

    Attributes:
        counts: (num_classes, num_classes) images of the class of the row that were taken for that of the column.
    """

    def __init__(self, num_classes: int) -> None:
        self.counts = np.zeros((num_classes, num_classes), dtype=np.int64)
        self._top5_correct = 0

    def add(self, logits: Tensor, labels: Tensor) -> None:
        """(batch, num_classes) logits and (batch,) labels; label -1, of a corrupt image, does not count."""
        known = labels >= 0
        logits, labels = logits.cpu()[known], labels[known]
        np.add.at(self.counts, (labels.numpy(), logits.argmax(dim=1).numpy()), 1)
        if len(self.counts) >= TOP5_CLASSES:
            self._top5_correct += int((logits.topk(5, dim=1).indices == labels[:, None]).sum())

    @property
    def num_images(self) -> int:
        return int(self.counts.sum())

    @property
    def class_sizes(self) -> np.ndarray:
        """(num_classes,) images of each class."""
        return np.asarray(self.counts.sum(axis=1))

    @property
    def top1(self) -> Accuracy:
        return self._of_images(int(np.trace(self.counts)))

    @property
    def top5(self) -> Accuracy | None:
        """None for fewer than 10 classes."""
        return self._of_images(self._top5_correct) if len(self.counts) >= TOP5_CLASSES else None

    @property
    def per_class(self) -> list[Accuracy]:
        correct, sizes = np.diagonal(self.counts), self.class_sizes
        low, high = wilson(correct, sizes)
        return [
            Accuracy(float(c / n) if n else None, float(a), float(b))
            for c, n, a, b in zip(correct, sizes, low, high, strict=True)
        ]

    @property
    def mean_per_class(self) -> Accuracy:
        """Every class that has images counts alike, however many it has.

        The interval is Wilson's for so many images that the variance is p (1 - p) Σ (1 / images) / classes²: the
        mean's if all classes are equally accurate, and never less than it if they are of one size.
        """
        sizes = self.class_sizes
        known = sizes[sizes > 0]
        if not len(known):
            return Accuracy(None, 0.0, 1.0)
        mean = float((np.diagonal(self.counts)[sizes > 0] / known).mean())
        images = len(known) ** 2 / (1 / known).sum()
        low, high = wilson(mean * images, images)
        return Accuracy(mean, float(low), float(high))

    def _of_images(self, correct: int) -> Accuracy:
        low, high = wilson(correct, self.num_images)
        return Accuracy(correct / self.num_images if self.num_images else None, float(low), float(high))
