"""How many images of a split a network classifies correctly."""

from __future__ import annotations

import torch
from torch import nn

from nas.data import Images
from nas.data.batches import eval_batches, normalize
from nas.distributed import collectives, process


@torch.inference_mode()
def accuracy(model: nn.Module, images: Images, image_size: int, device: torch.device, num_workers: int = 0) -> float:
    """Top-1 accuracy, a fraction, of a model in evaluation mode; corrupt images do not count.

    All processes of a job must ask for it: each looks at its share of the images.
    """
    correct, count = 0.0, 0.0
    share = (process.rank(), process.world_size())
    for batch, labels in eval_batches(images, image_size, 256, num_workers, share):
        logits = model(normalize(batch, device))
        correct += int((logits.argmax(dim=1).cpu() == labels).sum())
        count += int((labels >= 0).sum())
    correct, count = collectives.total(correct, count)
    return correct / max(count, 1)
