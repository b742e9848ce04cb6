"""EfficientFormerV2 (Li et al. 2023), as timm's `EfficientFormerV2`: published or found by a search of ours.

The stem has channels between its convolutions; one embedding runs through the stem's output and the first stage, and
one through each downsampling's output and its stage. Each attention has heads, a key and a value dimension, and each
FFN hidden channels of its own. Talking heads are convolutions from heads to heads.
"""

from __future__ import annotations

from typing import Any

from timm.models import efficientformer_v2 as timm_v2
from torch import nn

from search_spaces.layout import Axis, axis
from search_spaces.structure.base import Builder, Structure
from search_spaces.uncached import uncached

MODELS = "EfficientFormerV2"


def is_member(model: nn.Module) -> bool:
    return isinstance(model, timm_v2.EfficientFormerV2)


def prepare(model: nn.Module) -> None:
    """Makes the attentions gather their biases at each call, in place."""
    uncached(model)


def describe(model: Any) -> Structure:
    """Structure of a prepared model, whole or pruned."""
    builder = Builder(model)
    half = axis(builder.dimension("stem.width", "width", model.stem.conv1.conv.out_channels))
    embedding = axis(builder.dimension("stem.embedding", "embedding", model.stem.conv2.conv.out_channels))
    builder.conv_norm("stem.conv1", half, axis(model.in_chans))
    builder.conv_norm("stem.conv2", embedding, half)
    for i, stage in enumerate(model.stages):
        name = f"stages.{i}"
        if isinstance(stage.downsample, timm_v2.Downsample):
            channels = stage.downsample.conv.conv.out_channels
            before, embedding = embedding, axis(builder.dimension(f"{name}.embedding", "embedding", channels))
            builder.conv_norm(f"{name}.downsample.conv", embedding, before)
            if attention := stage.downsample.attn:
                _attention(builder, f"{name}.downsample.attn", attention, before, embedding)
        for j, block in enumerate(stage.blocks):
            _block(builder, f"{name}.blocks.{j}", block, embedding)
    builder.layer("norm", embedding)
    for part in ("head", "head_dist"):
        builder.layer(part, axis(model.num_classes), embedding)
    for attribute in ("num_features", "head_hidden_size"):
        builder.attribute("", attribute, *embedding[0])
    return builder.build()


def _block(builder: Builder, name: str, block: Any, embedding: Axis) -> None:
    if attention := block.token_mixer:
        _attention(builder, f"{name}.token_mixer", attention, embedding, embedding)
    ffn = axis(builder.dimension(f"{name}.ffn", "ffn", block.mlp.fc1.conv.out_channels))
    builder.conv_norm(f"{name}.mlp.fc1", ffn, embedding)
    builder.conv_norm(f"{name}.mlp.mid", ffn)
    builder.conv_norm(f"{name}.mlp.fc2", embedding, ffn)
    for part in ("ls1", "ls2"):
        builder.layer(f"{name}.{part}", embedding)


def _attention(builder: Builder, name: str, attention: Any, into: Axis, out: Axis) -> None:
    """Both attentions; each lacks some of the layers named."""
    heads = builder.dimension(f"{name}.heads", "heads", attention.num_heads)
    key = builder.dimension(f"{name}.key", "key", attention.key_dim)
    value = builder.dimension(f"{name}.value", "value", attention.d)
    keys, values = axis((heads, key)), axis((heads, value))
    builder.conv_norm(f"{name}.stride_conv", into)
    builder.layer(f"{name}.q.local", into)
    for part in ("q", "q.proj", "k"):
        builder.conv_norm(f"{name}.{part}", keys, into)
    builder.conv_norm(f"{name}.v", values, into)
    builder.conv_norm(f"{name}.v_local", values)
    for part in ("talking_head1", "talking_head2"):
        builder.layer(f"{name}.{part}", axis(heads), axis(heads))
    builder.conv_norm(f"{name}.proj", out, values)
    builder.tensor(f"{name}.attention_biases", axis(heads))
    pairs = attention.attention_bias_idxs.numel()  # a query and a key each
    for part in (key, value):  # queries times keys, attention times values
        builder.matmul(name, heads, part, count=lambda _: pairs)
    for attribute, factors in {"num_heads": [heads], "key_dim": [key], "d": [value], "dh": [heads, value]}.items():
        builder.attribute(name, attribute, *factors)
