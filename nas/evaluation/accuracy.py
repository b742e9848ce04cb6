"""How many images of a split a network classifies correctly."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt

import numpy as np
import torch
from torch import nn

from nas.data import Images
from nas.data.batches import eval_batches, normalize
from nas.data.listing import warn
from nas.distributed import collectives, process
from search_spaces.command.forecast import Forecast

FAR = 0.05  # of the way from chance to every image right: what a network that was trained surely has


@torch.inference_mode()
def accuracy(model: nn.Module, images: Images, image_size: int, device: torch.device, num_workers: int = 0) -> float:
    """Top-1 accuracy, a fraction, of a model in evaluation mode; corrupt images do not count.

    All processes of a job must ask for it: each looks at its share of the images.
    """
    correct, count = 0.0, 0.0
    share = (process.rank(), process.world_size())
    for batch, labels in eval_batches(images, image_size, 256, num_workers, share):
        logits = model(normalize(batch, device, images.normalization))
        correct += int((logits.argmax(dim=1).cpu() == labels).sum())
        count += int((labels >= 0).sum())
    correct, count = collectives.total(correct, count)
    return correct / max(count, 1)


@torch.inference_mode()
def right_answers(
    models: Sequence[nn.Module], images: Images, image_size: int, device: torch.device, num_workers: int = 0
) -> np.ndarray:
    """(models, images) which images each model, in evaluation mode, classifies correctly.

    Each image is read once for all of them; corrupt ones are left out.
    """
    columns = []
    forecast = Forecast(f"testing {len(models)} networks on {len(images):,} images", len(images))
    for batch, labels in eval_batches(images, image_size, 256, num_workers):
        x, read = normalize(batch, device, images.normalization), labels >= 0
        answers = torch.stack([model(x).argmax(dim=1).cpu() for model in models])
        columns.append((answers == labels)[:, read].numpy())
        forecast.update(len(labels))
    return np.concatenate(columns, axis=1)


def warn_near_chance(what: str, found: float, num_images: int, num_classes: int, remedy: str) -> None:
    """Warns of an accuracy that a network trained on these classes does not have, but one with them in another order.

    Args:
        what: the network, for the message.
        found: its accuracy on so many images, a fraction.
    """
    chance = 1 / num_classes
    spread = 3 * sqrt(chance * (1 - chance) / max(num_images, 1))
    if found <= chance + max(FAR * (1 - chance), spread):
        warn(f"{what} is right for {100 * found:.2f} % of the images, chance is {100 * chance:.2g} %: {remedy}")
