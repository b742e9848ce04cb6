"""Images that a network classified right and wrong, small enough to be shown in a page."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from PIL import Image
from torch import Tensor

from nas.data import Images
from nas.data.batches import eval_batches
from nas.data.pixels import as_base64
from nas.runs.results import Example

COUNT, SIDE = 6, 128  # of each kind; pixels at most


class Answers:
    """What a network answered to each image, in the order of the split."""

    def __init__(self) -> None:
        self._batches: list[np.ndarray] = []

    def add(self, logits: Tensor, labels: Tensor) -> None:
        """(batch, num_classes) logits and (batch,) labels, -1 of a corrupt image."""
        found = logits.float().softmax(dim=1).max(dim=1)
        answers, chances = found.indices.cpu().numpy(), found.values.cpu().numpy()
        self._batches.append(np.stack([labels.numpy(), answers, chances]))

    def examples(self, images: Images, image_size: int, *, right: bool) -> list[Example]:
        """A few of the images that it classified so, evenly spaced over the split: chosen by nothing else."""
        labels, answers, chances = np.concatenate(self._batches, axis=1)
        places = np.nonzero((labels >= 0) & ((labels == answers) == right))[0]
        chosen = places[np.linspace(0, len(places) - 1, min(COUNT, len(places))).round().astype(np.int64)]
        if not len(chosen):
            return []
        some = replace(images, indices=images.indices[chosen], labels=images.labels[chosen])
        ((pixels, _),) = eval_batches(some, image_size, COUNT)
        return [
            {"label": int(labels[i]), "answer": int(answers[i]), "chance": float(chances[i]), "jpeg": _jpeg(image)}
            for i, image in zip(chosen, pixels, strict=True)
        ]


def _jpeg(pixels: Tensor) -> str:
    """(3, height, width) uint8 as the network sees it, in base64."""
    return as_base64(Image.fromarray(pixels.permute(1, 2, 0).numpy()), SIDE)
