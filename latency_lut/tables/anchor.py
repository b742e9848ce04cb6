"""The anchor: the graph that is timed in every measurement, whatever is measured, and is part of no space.

Its samples show drift within a measurement and other work on the machine; its time, how devices compare.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from latency_lut.backends.base import Job

if TYPE_CHECKING:
    from torch import nn

WIDTH, RESOLUTION, BLOCKS = 64, 16, 6  # 113 million multiply-accumulates: 2 to 3 ms on one core of a server


def anchor_job() -> Job:
    """Six basic blocks (He et al., Deep Residual Learning for Image Recognition, CVPR 2016, Fig. 2)."""
    return Job((WIDTH, RESOLUTION, RESOLUTION), _build)


def _build() -> nn.Module:
    from timm.models.resnet import BasicBlock
    from torch import nn

    return nn.Sequential(*(BasicBlock(WIDTH, WIDTH) for _ in range(BLOCKS)))
