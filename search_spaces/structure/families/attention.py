"""timm's attention with separate head dimensions of queries and keys, and of values."""

from __future__ import annotations

import torch.nn.functional as F
from timm.layers import Attention
from torch import Tensor, nn

from search_spaces.layout import Axis, axis
from search_spaces.structure.base import Builder


class PrunableAttention(nn.Module):
    """Computes what timm's `Attention` does, from the same tensors under the same names.

    The scale is that of the original head dimension, whatever remains of it.

    Args:
        attention: whose layers become this one's.
    """

    def __init__(self, attention: Attention) -> None:
        super().__init__()
        extras = (attention.q_norm, attention.k_norm, attention.norm)
        assert all(isinstance(m, nn.Identity) for m in extras) and attention.gate is None, "no norms or gates inside"
        self.num_heads, self.scale = attention.num_heads, attention.scale
        self.key_dim = self.value_dim = attention.head_dim
        self.qkv, self.proj = attention.qkv, attention.proj
        self.attn_drop, self.proj_drop = attention.attn_drop, attention.proj_drop

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """(batch, tokens, embedding) to the same shape."""
        batch, tokens, _ = x.shape
        key, value = self.num_heads * self.key_dim, self.num_heads * self.value_dim
        q, k, v = (
            part.unflatten(2, (self.num_heads, -1)).transpose(1, 2)
            for part in self.qkv(x).split([key, key, value], dim=2)
        )
        dropout = self.attn_drop.p if self.training else 0.0
        x = F.scaled_dot_product_attention(q, k, v, attn_mask, dropout, is_causal, scale=self.scale)
        x = x.transpose(1, 2).reshape(batch, tokens, value)
        return self.proj_drop(self.proj(x))


def prepare(model: nn.Module) -> None:
    """Replaces every timm `Attention` in the model, in place."""
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if isinstance(child, Attention):
                setattr(parent, name, PrunableAttention(child))


SOURCE = (
    """import torch
import torch.nn.functional as F
from timm.layers import Attention
from torch import Tensor, nn
""",
    PrunableAttention,
    prepare,
)


def describe_attention(builder: Builder, name: str, attention: PrunableAttention, embedding: Axis) -> None:
    """Adds the attention of that name in the model: its heads, key and value dimension, between two embeddings."""
    heads = builder.dimension(f"{name}.heads", "heads", attention.num_heads)
    key = builder.dimension(f"{name}.key", "key", attention.key_dim)
    value = builder.dimension(f"{name}.value", "value", attention.value_dim)
    builder.layer(f"{name}.qkv", axis((heads, key), (heads, key), (heads, value)), embedding)
    builder.layer(f"{name}.proj", embedding, axis((heads, value)))
    for part in (key, value):  # queries times keys, attention times values
        builder.matmul(name, heads, part, count=lambda shape: shape[0] * shape[1] ** 2)  # sequences, tokens, …
    builder.attribute(name, "num_heads", heads)
    builder.attribute(name, "key_dim", key)
    builder.attribute(name, "value_dim", value)
