"""One training step of the supernet: a forward and a backward pass of each of its networks.

Gradients of all add up in the store; the caller makes one optimizer step. With a distillation loss, the first network
learns from the labels and the others from its predictions: in-place distillation (Yu & Huang, Universally Slimmable
Networks, ICCV 2019).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from search_spaces import Arch, arch_label
from supernet.losses import Distillation, Logits, of_each_classifier
from supernet.store import Supernet


def train_step(
    supernet: Supernet,
    images: Tensor,
    target: Tensor,
    archs: Sequence[Arch],
    criterion: Callable[[Any, Tensor], Tensor],
    distillation: Distillation | None = None,
    backward: Callable[[Tensor], None] = Tensor.backward,
) -> Tensor:
    """Adds the gradients of all archs to the store; activations live for one arch at a time.

    Args:
        images: (batch, channels, height, width).
        target: what `criterion(logits, target)` takes, class indices or mixed distributions; the logits are those of
            each classifier in distilled training.
        archs: with a distillation, the teacher of the others first.
        distillation: of (logits, the first arch's logits); None: all learn from the labels.
        backward: called with each arch's loss.

    Returns:
        (len(archs),) losses, detached.

    Raises:
        FloatingPointError: a loss is not finite; the message names the arch.
    """
    losses = []
    teacher: Logits | None = None
    for arch in archs:
        logits: Logits = supernet(images, arch)
        if distillation is None or teacher is None:
            loss = criterion(logits, target)
        else:
            loss = of_each_classifier(distillation, logits, teacher)
        backward(loss)
        losses.append(loss.detach())
        if distillation is not None and teacher is None:
            teacher = _detached(logits)
    found = torch.stack(losses)
    if not found.isfinite().all():
        broken = int((~found.isfinite()).nonzero()[0])
        raise FloatingPointError(f"the loss of {arch_label(supernet.space, archs[broken])} is {found[broken].item()}")
    return found


def _detached(logits: Logits) -> Logits:
    return logits.detach() if isinstance(logits, Tensor) else (logits[0].detach(), logits[1].detach())
