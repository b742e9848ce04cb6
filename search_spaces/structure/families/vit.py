"""ViT and DeiT (Dosovitskiy et al. 2021, Touvron et al. 2021), as timm's `VisionTransformer`.

One embedding runs through all blocks; each block has heads, a key and a value dimension, and an FFN of its own.
"""

from __future__ import annotations

from typing import Any

from timm.models.vision_transformer import VisionTransformer
from torch import nn

from search_spaces.layout import Axis, axis
from search_spaces.structure.base import Builder, Structure
from search_spaces.structure.families import attention

MODELS = "ViT, DeiT"
SOURCE, prepare = attention.SOURCE, attention.prepare


def is_member(model: nn.Module) -> bool:
    return isinstance(model, VisionTransformer)


def describe(model: Any) -> Structure:
    """Structure of a prepared model, whole or pruned."""
    builder = Builder(model)
    embedding = axis(builder.dimension("embedding", "embedding", model.embed_dim))
    for name, tokens in model.named_parameters(recurse=False):  # class token, positions, …
        builder.tensor(name, axis(1), axis(tokens.shape[1]), embedding)
    builder.layer("patch_embed.proj", embedding, axis(3))
    for i, block in enumerate(model.blocks):
        describe_block(builder, f"blocks.{i}", block, embedding)
    for part in ("norm_pre", "norm", "fc_norm"):
        builder.layer(part, embedding)
    for part in ("head", "head_dist"):
        builder.layer(part, axis(model.num_classes), embedding)
    for attribute in ("embed_dim", "num_features", "head_hidden_size"):
        builder.attribute("", attribute, "embedding")
    return builder.build()


def describe_block(builder: Builder, name: str, block: Any, embedding: Axis) -> None:
    """Adds timm's transformer block of that name in the model."""
    attention.describe_attention(builder, f"{name}.attn", block.attn, embedding)
    ffn = axis(builder.dimension(f"{name}.ffn", "ffn", block.mlp.fc1.out_features))
    builder.layer(f"{name}.mlp.fc1", ffn, embedding)
    builder.layer(f"{name}.mlp.fc2", embedding, ffn)
    for part in ("norm1", "norm2", "ls1", "ls2"):
        builder.layer(f"{name}.{part}", embedding)
