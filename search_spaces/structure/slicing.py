"""Cutting a model to the units that remain: its tensors sliced along their axes, its attributes to match."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from search_spaces.layout import Axis, Sizes, places, product, units
from search_spaces.structure.base import Structure

# Indices of a dimension's units that remain, ascending; a dimension left out is whole.
Kept = Mapping[str, Tensor] | Mapping[str, np.ndarray]


@torch.no_grad()
def prune(model: nn.Module, structure: Structure, kept: Kept) -> Structure:
    """Cuts the model in place to the kept units of each dimension, and returns its new structure.

    Attention keeps the scale of its original head dimension: its logits are the same sums with terms left out.
    """
    sizes = structure.sizes
    for name, axes in structure.axes.items():
        owner, _, leaf = name.rpartition(".")
        module = model.get_submodule(owner)
        tensor = getattr(module, leaf)
        for i, layout in enumerate(axes):
            index = places(layout, sizes, kept)
            if len(index) < tensor.shape[i]:
                tensor = tensor.index_select(i, torch.from_numpy(index).to(tensor.device))
        if tensor is getattr(module, leaf):
            continue
        if isinstance(parameter := getattr(module, leaf), nn.Parameter):
            tensor = nn.Parameter(tensor.detach(), requires_grad=parameter.requires_grad)
        setattr(module, leaf, tensor)
    pruned = structure.resized({name: len(index) for name, index in kept.items()})
    resize({name.rpartition(".")[0] for name in structure.axes}, model)
    for attribute in structure.attributes:
        setattr(model.get_submodule(attribute.module), attribute.name, product(attribute.factors, pruned.sizes))
    return pruned


def cut(model: nn.Module, structure: Structure, kept: Kept) -> tuple[nn.Module, Structure]:
    """A copy, cut to the kept units, and its structure; the model itself stays whole."""
    smaller = copy.deepcopy(model)
    return smaller, prune(smaller, structure, kept)


@torch.no_grad()
def zero(model: nn.Module, structure: Structure, removed: Kept) -> None:
    """Sets every number of these units to zero, in place: what pruning them leaves out."""
    tensors = model.state_dict()
    for name, axes in structure.axes.items():
        for i, layout in enumerate(axes):
            for dimension in removed.keys() & {factor for segment in layout for factor in segment}:
                gone = np.flatnonzero(np.isin(units(layout, structure.sizes, dimension), removed[dimension]))
                tensors[name].index_fill_(i, torch.from_numpy(gone), 0)


def resize(names: Iterable[str], model: nn.Module) -> None:
    """Sets what the layers of these names know of their own sizes, from the shapes of their tensors."""
    for name in names:
        layer: Any = model.get_submodule(name)
        if isinstance(layer, nn.Linear):
            layer.out_features, layer.in_features = layer.weight.shape
        elif isinstance(layer, nn.Conv2d):
            of_group = layer.out_channels // layer.groups
            layer.out_channels, of_input = layer.weight.shape[:2]
            layer.groups = layer.out_channels // of_group if layer.groups > 1 else 1  # only whole groups are pruned
            layer.in_channels = layer.groups * of_input
        elif isinstance(layer, _BatchNorm):
            layer.num_features = len(layer.running_var)  # type: ignore[arg-type]
        elif hasattr(layer, "normalized_shape"):  # layer norms, and those without a mean
            layer.normalized_shape = tuple(layer.weight.shape)


@torch.no_grad()
def permute(model: nn.Module, structure: Structure, orders: Mapping[str, Any]) -> None:
    """Brings the units of dimensions into another order, in place: the network computes the same.

    Args:
        orders: by dimension, which unit comes first, second, … (an array, or a tensor on the CPU).
    """
    tensors = model.state_dict()
    for name, axes in structure.axes.items():
        for i, layout in enumerate(axes):
            index = torch.from_numpy(_order(layout, structure.sizes, orders)).to(tensors[name].device)
            tensors[name].copy_(tensors[name].index_select(i, index))


def _order(layout: Axis, sizes: Sizes, orders: Mapping[str, Any]) -> np.ndarray:
    """Where each place of the axis gets its numbers from."""
    parts: list[np.ndarray] = []
    start = 0
    for segment in layout:
        shape = [product([factor], sizes) for factor in segment]
        index = np.arange(product(segment, sizes)).reshape(shape)
        for at, factor in enumerate(segment):
            if factor in orders:
                index = index.take(np.asarray(orders[str(factor)]), at)
        parts.append(start + index.reshape(-1))
        start += index.size
    return np.concatenate(parts)
