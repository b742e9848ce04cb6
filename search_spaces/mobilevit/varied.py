"""What timm's MobileViT block cannot be told, as a block of its own. Exported with each network that has one."""

from typing import Any

from timm.layers import Attention, Mlp
from timm.models.mobilevit import MobileVitBlock
from torch import Tensor, nn


class VariedBlock(MobileVitBlock):
    """timm's block with heads and FFN ratio of each layer, or with a residual in the place of its fusion.

    Args:
        heads: of each layer, each with a quarter of the transformer's width.
        ratios: hidden features of each layer's FFN over the transformer's width.
        residual: its input and what it makes of it are added and normalized; given with `no_fusion`.
    """

    def __init__(
        self,
        in_chs: int,
        *,
        transformer_dim: int,
        layers: Any,
        heads: tuple[int, ...],
        ratios: tuple[int, ...],
        residual: bool,
        **arguments: Any,
    ) -> None:
        arguments |= {"transformer_dim": transformer_dim, "transformer_depth": len(heads)}
        super().__init__(in_chs, layers=layers, **arguments)
        for layer, num_heads, ratio in zip(self.transformer, heads, ratios, strict=True):
            layer.attn = Attention(transformer_dim, num_heads, attn_head_dim=transformer_dim // 4, qkv_bias=True)
            layer.mlp = Mlp(transformer_dim, transformer_dim * ratio, act_layer=layers.act)
        self.fusion_norm = nn.BatchNorm2d(in_chs) if residual else None

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_chs, H, W) to the same shape."""
        y: Tensor = super().forward(x)
        return y if self.fusion_norm is None else self.fusion_norm(x + y)
