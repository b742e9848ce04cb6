"""Batch normalization's running statistics measured anew for one network.

A network sliced from shared weights sees other activations than the running statistics were averaged over (Yu & Huang,
ICCV 2019, post-statistics of batch normalization; Li et al., EagleEye, ECCV 2020).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def measure_statistics(module: nn.Module, batches: Iterable[Tensor]) -> list[Tensor]:
    """The module's outputs, each normalized by its own batch; its running statistics become the mean over the batches.

    Everything but the norms behaves as in evaluation; the module is left in evaluation mode. As no output depends on
    running statistics, measuring a network's parts, each on the outputs of those before it, is measuring the network.
    """
    return list(_measured(module, batches))


@torch.no_grad()
def _measured(module: nn.Module, batches: Iterable[Tensor]) -> Iterator[Tensor]:
    module.eval()
    norms = [part for part in module.modules() if isinstance(part, _BatchNorm) and part.track_running_stats]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.train()
    try:
        for count, batch in enumerate(batches, 1):
            for norm in norms:
                norm.momentum = 1 / count  # the plain mean, as None; that waits for the GPU at each norm
            yield module(batch)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
            norm.eval()


def recalibrate(model: nn.Module, batches: Iterable[Tensor]) -> nn.Module:
    """The model in evaluation mode with running statistics of these (batch, channels, height, width) images."""
    for _ in _measured(model, batches):  # none is kept: those of a segmenter are as large as its images
        pass
    return model
