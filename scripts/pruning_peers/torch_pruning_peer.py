"""Torch-Pruning (Fang et al. 2023) on our networks; on some it does not come to an end."""

from __future__ import annotations

import copy
import importlib.util
import time
from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from timm.layers import Attention
from torch import Tensor, nn

from search_spaces.structure.fvcore_macs import fvcore_macs

INSTALL = "pip install torch-pruning==1.6.1"
TRIALS = 12  # of the pruning ratio, on the way to a number of MACs
NEAR = 0.01  # of it: near enough

Batches = Sequence[tuple[Tensor, Tensor]]
Scope = Literal["local", "global", "isomorphic"]


def installed() -> bool:
    return importlib.util.find_spec("torch_pruning") is not None


def taylor_to_macs(
    model: nn.Module, batches: Batches, image_size: int, macs: int, scope: Scope, round_to: int
) -> nn.Module:
    """The network pruned by its Taylor importance, at the ratio that comes nearest to these MACs.

    It computes as Torch-Pruning leaves it: where timm's attention is fused, the scale is that of the head dimension
    that remains.
    """
    image = torch.zeros(1, 3, image_size, image_size)
    gradients = _gradients(model, batches)
    low, high = 0.0, 1.0
    found: tuple[int, nn.Module] | None = None
    for _ in range(TRIALS):
        ratio = (low + high) / 2
        smaller = _pruned(model, gradients, image, ratio, scope, round_to)
        count = fvcore_macs(smaller, image)
        if found is None or abs(count - macs) < abs(found[0] - macs):
            found = count, smaller
        if abs(count - macs) <= NEAR * macs / 2:
            break
        low, high = (ratio, high) if count > macs else (low, ratio)
    assert found is not None
    return found[1]


def taylor_in_steps(
    model: nn.Module, batches: Batches, image_size: int, macs: Sequence[int], scope: Scope, round_to: int
) -> list[nn.Module]:
    """The network at each of these MACs, each pruned from the one before, by importance taken anew."""
    found: list[nn.Module] = []
    for aim in macs:
        found.append(taylor_to_macs(found[-1] if found else model, batches, image_size, aim, scope, round_to))
    return found


def taylor_once(model: nn.Module, batches: Batches, image_size: int, ratio: float, scope: Scope) -> float:
    """CPU seconds of importance and pruning at one ratio."""
    start = time.process_time()
    _pruned(model, _gradients(model, batches), torch.zeros(1, 3, image_size, image_size), ratio, scope, 1)
    return time.process_time() - start


def _gradients(model: nn.Module, batches: Batches) -> list[Tensor | None]:
    """Sums over the batches, as the importance of Torch-Pruning wants them."""
    model.eval().zero_grad()
    for images, labels in batches:
        F.cross_entropy(model(images), labels).backward()
    return [parameter.grad for parameter in model.parameters()]


def _pruned(
    model: nn.Module, gradients: Sequence[Tensor | None], image: Tensor, ratio: float, scope: Scope, round_to: int
) -> nn.Module:
    import torch_pruning

    smaller: Any = copy.deepcopy(model)
    for parameter, gradient in zip(smaller.parameters(), gradients, strict=True):
        parameter.grad = gradient
    attentions = [module for module in smaller.modules() if isinstance(module, Attention)]
    pruner = torch_pruning.pruner.BasePruner(
        smaller,
        image,
        importance=torch_pruning.importance.GroupTaylorImportance(),
        global_pruning=scope != "local",
        isomorphic=scope == "isomorphic",
        pruning_ratio=ratio,
        round_to=round_to if round_to > 1 else None,
        ignored_layers=[smaller.get_classifier()],
        num_heads={attention.qkv: attention.num_heads for attention in attentions},
        in_channel_groups={},  # its defaults are one dictionary for all
        out_channel_groups={},
    )
    pruner.step()
    for attention in attentions:  # as its example for timm does
        attention.num_heads = pruner.num_heads[attention.qkv]
        attention.attn_dim = attention.qkv.out_features // 3
        attention.head_dim = attention.attn_dim // attention.num_heads
    smaller.zero_grad()
    with torch.no_grad():
        smaller(image)
    return smaller
