"""The blocks of EfficientFormerV2 as modules, each made of timm's own layers under timm's own parameter names.

Blocks are run one after another by the supernet and measured one by one by the latency table. They hold no state
besides their tensors.
"""

from __future__ import annotations

from typing import Any

from timm.layers import LayerScale2d, drop_path
from timm.models import efficientformer_v2 as timm_v2
from torch import Tensor, nn

from search_spaces.uncached import Attention2d, Attention2dDownsample, uncached


def stem(in_chs: int, width: int, stride: int) -> nn.Module:
    """(B, in_chs, R, R) to (B, width, R / stride, R / stride), stride 2 or 4."""
    module = timm_v2.Stem4(in_chs, width)
    module.conv2.conv.stride = (stride // 2, stride // 2)
    return module


class AttentionBlock(nn.Module):
    """First half of timm's `EfficientFormerV2Block`: (B, width, R, R) to the same."""

    drop_prob = 0.0  # of stochastic depth, set by the supernet while it trains

    def __init__(self, width: int, resolution: int, stride: int) -> None:
        super().__init__()
        self.token_mixer = Attention2d(width, resolution=resolution, stride=stride if stride > 1 else None)
        self.ls1 = LayerScale2d(width)

    def forward(self, x: Tensor) -> Tensor:
        return x + drop_path(self.ls1(self.token_mixer(x)), self.drop_prob, self.training)


class FfnBlock(nn.Module):
    """Second half of timm's `EfficientFormerV2Block`: (B, width, R, R) to the same."""

    drop_prob = 0.0

    def __init__(self, width: int, expansion: int) -> None:
        super().__init__()
        self.mlp = timm_v2.ConvMlpWithNorm(width, width * expansion, mid_conv=True)
        self.ls2 = LayerScale2d(width)

    def forward(self, x: Tensor) -> Tensor:
        return x + drop_path(self.ls2(self.mlp(x)), self.drop_prob, self.training)


def downsample(in_chs: int, out_chs: int, resolution: int, attention: bool) -> nn.Module:
    """(B, in_chs, R, R) to (B, out_chs, R / 2, R / 2)."""
    module = timm_v2.Downsample(in_chs, out_chs, resolution=resolution)
    if attention:
        module.attn = Attention2dDownsample(in_chs, resolution=resolution, out_dim=out_chs)
    return module


class Head(nn.Module):
    """(B, width, R, R) to (B, num_classes) logits: the mean of two classifiers', or both in distilled training."""

    distilled_training = False  # set by the supernet

    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(width)
        self.head = nn.Linear(width, num_classes)
        self.head_dist = nn.Linear(width, num_classes)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        x = self.norm(x).mean(dim=(2, 3))
        logits, distilled = self.head(x), self.head_dist(x)
        return (logits, distilled) if self.distilled_training and self.training else (logits + distilled) / 2


def network(arguments: dict[str, Any], edits: list[tuple[str, Any]]) -> timm_v2.EfficientFormerV2:
    """timm's model with `edits` applied (see `EfficientFormerV2Space.constructor`)."""
    model = timm_v2.EfficientFormerV2(**arguments)
    for path, value in edits:
        owner, _, attribute = path.rpartition(".")
        setattr(model.get_submodule(owner), attribute, value)
    return uncached(model)
