"""Swin (Liu et al. 2021), as timm's `SwinTransformer`.

An embedding runs through the blocks of each stage; a patch merging takes it four times, concatenated, to the next.
"""

from __future__ import annotations

from typing import Any

from timm.models.swin_transformer import SwinTransformer, WindowAttention
from torch import Tensor, nn

from search_spaces.layout import axis
from search_spaces.structure.base import Builder, Structure
from search_spaces.structure.families.vit import describe_block

MODELS = "Swin"


class PrunableWindowAttention(WindowAttention):
    """timm's (not fused, as is timm's default), with separate head dimensions of queries and keys, and of values.

    The scale is that of the original head dimension, whatever remains of it.
    """

    key_dim: int
    value_dim: int

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """(windows, tokens, embedding) to the same shape; `mask` (windows of an image, tokens, tokens) is added."""
        windows, tokens, _ = x.shape
        key, value = self.num_heads * self.key_dim, self.num_heads * self.value_dim
        q, k, v = (
            part.unflatten(2, (self.num_heads, -1)).transpose(1, 2)
            for part in self.qkv(x).split([key, key, value], dim=2)
        )
        logits = (q * self.scale) @ k.transpose(-2, -1) + self._get_rel_pos_bias()  # (windows, heads, tokens, tokens)
        if mask is not None:
            logits = (logits.unflatten(0, (-1, len(mask))) + mask.unsqueeze(1)).flatten(0, 1)
        x = self.attn_drop(self.softmax(logits)) @ v
        x = x.transpose(1, 2).reshape(windows, tokens, value)
        return self.proj_drop(self.proj(x))


def is_member(model: nn.Module) -> bool:
    return isinstance(model, SwinTransformer)


def prepare(model: nn.Module) -> None:
    """Makes the attentions prunable, in place: the same tensors, the same function."""
    attentions: list[Any] = [module for module in model.modules() if type(module) is WindowAttention]
    for attention in attentions:
        attention.__class__ = PrunableWindowAttention
        attention.key_dim = attention.value_dim = attention.qkv.out_features // (3 * attention.num_heads)


SOURCE = (
    """from typing import Any

import torch
from timm.models.swin_transformer import WindowAttention
from torch import Tensor, nn
""",
    PrunableWindowAttention,
    prepare,
)


def describe(model: Any) -> Structure:
    """Structure of a prepared model, whole or pruned."""
    builder = Builder(model)
    x = axis(model.in_chans)
    for i, stage in enumerate(model.layers):
        dimension = builder.dimension(f"layers.{i}.embedding", "embedding", stage.blocks[0].mlp.fc1.in_features)
        embedding = axis(dimension)
        if i == 0:
            builder.layer("patch_embed.proj", embedding, x)
            builder.layer("patch_embed.norm", embedding)
        else:
            builder.layer(f"layers.{i}.downsample.norm", x)
            builder.layer(f"layers.{i}.downsample.reduction", embedding, x)
        for j, block in enumerate(stage.blocks):
            name = f"layers.{i}.blocks.{j}"
            describe_block(builder, name, block, embedding)
            offsets = len(block.attn.relative_position_bias_table)
            builder.tensor(f"{name}.attn.relative_position_bias_table", axis(offsets), axis(f"{name}.attn.heads"))
        x = axis((4, dimension))
    builder.layer("norm", embedding)
    builder.layer("head.fc", axis(model.num_classes), embedding)
    for module in ("", "head"):
        builder.attribute(module, "num_features", dimension)
    builder.attribute("", "head_hidden_size", dimension)
    builder.attribute("head", "in_features", dimension)
    return builder.build()
