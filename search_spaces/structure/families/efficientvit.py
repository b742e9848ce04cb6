"""EfficientViT (Liu et al. 2023), as timm's `EfficientVitMsra`.

In its cascaded group attention, head i sees the i-th part of the embedding plus what head i - 1 computed. So one
dimension of a stage is the width of the parts and the value dimension of all its attentions, and an embedding is heads
times that. The heads themselves stay: they are no interchangeable units, each is what the next one builds on.
"""

from __future__ import annotations

from typing import Any

import torch
from timm.models.efficientvit_msra import EfficientVitMsra
from torch import nn

from search_spaces.layout import Axis, axis
from search_spaces.structure.base import Builder, Structure
from search_spaces.uncached import uncached

MODELS = "EfficientViT (MSRA)"


def is_member(model: nn.Module) -> bool:
    return isinstance(model, EfficientVitMsra)


def prepare(model: nn.Module) -> None:
    """Makes the attentions gather their biases at each call, in place."""
    uncached(model)


def describe(model: Any) -> Structure:
    """Structure of a prepared model, whole or pruned."""
    builder = Builder(model)
    x = axis(model.in_chans)
    for i in range(1, 4):
        name = f"patch_embed.conv{i}"
        width = axis(builder.dimension(f"{name}.width", "width", len(model.get_parameter(f"{name}.conv.weight"))))
        builder.conv_norm(name, width, x)
        x = width
    for i, stage in enumerate(model.stages):
        name = f"stages.{i}"
        attention = stage.blocks[0].mixer.m.attn
        part = builder.dimension(f"{name}.embedding", "embedding", attention.val_dim)
        embedding = axis((attention.num_heads, part))
        if i == 0:
            builder.conv_norm("patch_embed.conv4", embedding, x)
        else:
            _downsample(builder, f"{name}.downsample", stage.downsample, x, embedding)
        for j, block in enumerate(stage.blocks):
            _block(builder, f"{name}.blocks.{j}", block, part, embedding)
        x = embedding
    builder.layer("head.bn", x)
    builder.layer("head.linear", axis(model.num_classes), x)
    for attribute in ("num_features", "head_hidden_size"):
        builder.attribute("", attribute, attention.num_heads, part)
    norms = [name for name, _ in model.named_parameters() if name.endswith(".bn.weight")]
    builder.merged(*norms, "head.bn.bias")  # into the layer beside it; a convolution's bias is that of its norm
    return builder.build()


def _block(builder: Builder, name: str, block: Any, part: str, embedding: Axis) -> None:
    for i in range(2):
        builder.conv_norm(f"{name}.dw{i}.m", embedding)
        _ffn(builder, f"{name}.ffn{i}", embedding)
    _attention(builder, f"{name}.mixer.m.attn", block.mixer.m.attn, part, embedding)


def _attention(builder: Builder, name: str, attention: Any, part: str, embedding: Axis) -> None:
    key = builder.dimension(f"{name}.key", "key", attention.key_dim)
    for head in range(attention.num_heads):
        builder.conv_norm(f"{name}.qkvs.{head}", axis(key, key, part), axis(part))
        builder.conv_norm(f"{name}.dws.{head}", axis(key))
    builder.conv_norm(f"{name}.proj.1", embedding, embedding)
    builder.tensor(f"{name}.attention_biases")
    for product in (key, part):  # queries times keys, attention times values
        builder.matmul(name, attention.num_heads, product, count=_pairs)
    builder.attribute(name, "key_dim", key)
    builder.attribute(name, "val_dim", part)


def _pairs(windows: torch.Size) -> int:
    """Of positions in the same window, of (windows, channels, height, width)."""
    return windows[0] * (windows[2] * windows[3]) ** 2


def _ffn(builder: Builder, name: str, embedding: Axis) -> None:
    hidden = len(builder.model.get_parameter(f"{name}.m.pw1.conv.weight"))
    ffn = axis(builder.dimension(f"{name}.ffn", "ffn", hidden))
    builder.conv_norm(f"{name}.m.pw1", ffn, embedding)
    builder.conv_norm(f"{name}.m.pw2", embedding, ffn)


def _downsample(builder: Builder, name: str, downsample: Any, into: Axis, out: Axis) -> None:
    merging = f"{name}.patchmerge"
    expanded = axis(builder.dimension(f"{merging}.width", "width", downsample.patchmerge.conv1.conv.out_channels))
    builder.conv_norm(f"{merging}.conv1", expanded, into)
    builder.conv_norm(f"{merging}.conv2", expanded)
    builder.squeeze_excite(f"{merging}.se", expanded)
    builder.conv_norm(f"{merging}.conv3", out, expanded)
    for residual, embedding in (("res1", into), ("res2", out)):
        builder.conv_norm(f"{name}.{residual}.0.m", embedding)
        _ffn(builder, f"{name}.{residual}.1", embedding)
