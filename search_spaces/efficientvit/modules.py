"""The blocks of EfficientViT as they are trained: timm's own modules, under timm's own parameter names."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from timm.layers import SelectAdaptivePool2d
from timm.models.efficientvit_msra import (
    ConvMlp,
    ConvNorm,
    EfficientVitMsra,
    LocalWindowAttention,
    NormLinear,
    PatchEmbedding,
    PatchMerging,
    ResidualDrop,
)
from torch import nn

from search_spaces.uncached import uncached


class Residual(ResidualDrop):
    """timm's, whose drop path the supernet sets while it trains: adds what its module makes of an input to it."""

    @property
    def drop_prob(self) -> float:
        return self.drop

    @drop_prob.setter
    def drop_prob(self, value: float) -> None:
        self.drop = value


def stem(in_chs: int, width: int, unstrided: Sequence[str]) -> Any:
    """(B, in_chs, R, R) to (B, width, R / stride, R / stride): all convolutions but the unstrided ones halve it."""
    module: Any = PatchEmbedding(in_chs, width)
    for name in unstrided:
        module.get_submodule(name).conv.stride = (1, 1)
    return module


def depthwise(width: int, silent: bool) -> nn.Module:
    """(B, width, R, R) to the same."""
    return Residual(ConvNorm(width, width, 3, 1, 1, groups=width, bn_weight_init=0.0 if silent else 1.0))


def ffn(width: int, hidden: int) -> nn.Module:
    """(B, width, R, R) to the same."""
    return Residual(ConvMlp(width, hidden))


def attention(
    heads: int, head_width: int, key: int, kernels: tuple[int, ...], resolution: int, window: int
) -> nn.Module:
    """(B, heads · head_width, R, R) to the same, within windows."""
    mixer = LocalWindowAttention(
        heads * head_width,
        key,
        heads,
        attn_ratio=head_width / key,  # type: ignore[arg-type]  # timm's own are fractions, too
        resolution=resolution,
        window_resolution=window,
        kernels=kernels,
    )
    return Residual(uncached(mixer))


def merging(in_chs: int, out_chs: int) -> nn.Module:
    """(B, in_chs, R, R) to (B, out_chs, R / 2, R / 2), rounded up."""
    return PatchMerging(in_chs, out_chs)


def head(width: int, num_classes: int) -> nn.Module:
    """(B, width, R, R) to (B, num_classes) logits."""
    parts = {"pool": SelectAdaptivePool2d(pool_type="avg", flatten=True), "head": NormLinear(width, num_classes)}
    return nn.Sequential(OrderedDict[str, nn.Module](parts))


def network(
    arguments: dict[str, Any], edits: list[tuple[str, str, tuple[int, ...]]], drop_path_rate: float
) -> EfficientVitMsra:
    """timm's model with the edits of `EfficientVitSpace.constructor`; drop path rises with depth to this rate."""
    model = EfficientVitMsra(**arguments)
    makers: dict[str, Any] = {"ConvMlp": ConvMlp, "Identity": nn.Identity, "": lambda *numbers: numbers}
    for path, maker, numbers in edits:
        owner, _, attribute = path.rpartition(".")
        setattr(model.get_submodule(owner), attribute, makers[maker](*numbers))
    residual = [module for module in model.modules() if isinstance(module, ResidualDrop)]
    for i, module in enumerate(residual, 1):
        module.drop = drop_path_rate * i / len(residual)
    return uncached(model)
