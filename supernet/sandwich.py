"""Sandwich rule with in-place distillation (Yu & Huang, Universally Slimmable Networks, ICCV 2019, Section 3.3).

Every step trains the largest network on the labels, and the smallest and some random networks on the largest's
predictions. Gradients of all add up in the store; the caller makes one optimizer step.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from search_spaces import Arch, SearchSpace
from supernet.store import Supernet


def sandwich_archs(space: SearchSpace, rng: random.Random, num_random: int = 2) -> tuple[Arch, ...]:
    """Largest, smallest and `num_random` random archs."""
    return (space.largest, space.smallest, *(space.sample(rng) for _ in range(num_random)))


def soft_cross_entropy(logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Cross-entropy against the teacher's distribution: the KL divergence up to a constant without gradient."""
    return F.cross_entropy(logits.float(), teacher_logits.float().softmax(dim=-1))


def sandwich_step(
    supernet: Supernet,
    images: Tensor,
    target: Tensor,
    archs: Sequence[Arch],
    criterion: Callable[[Tensor, Tensor], Tensor],
    backward: Callable[[Tensor], None] = Tensor.backward,
) -> Tensor:
    """Adds the gradients of all archs, the largest first, to the store; activations live for one arch at a time.

    Args:
        images: (batch, channels, height, width).
        target: what `criterion(logits, target)` takes, class indices or mixed distributions.
        backward: makes the gradients of a loss; a trainer's may scale it.

    Returns:
        (len(archs),) losses, detached: the criterion of the largest, then the distillation loss of each other.
    """
    largest, *others = archs
    logits = supernet(images, largest)
    losses = [criterion(logits, target)]
    backward(losses[0])
    teacher = logits.detach()
    for arch in others:
        loss = soft_cross_entropy(supernet(images, arch), teacher)
        backward(loss)
        losses.append(loss)
    return torch.stack([loss.detach() for loss in losses])
