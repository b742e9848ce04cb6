"""Torch-Pruning (Fang et al. 2023) on our networks, in a process of its own: on some it does not come to an end."""

from __future__ import annotations

import copy
import importlib.util
import io
import multiprocessing
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from timm.layers import Attention
from torch import Tensor, nn

from nas.fvcore_macs import fvcore_macs
from search_spaces.command import quiet

INSTALL = "pip install torch-pruning==1.6.1"
TRIALS = 20  # of the pruning ratio, on the way to a number of MACs
NEAR = 0.01  # of it: near enough

Batches = Sequence[tuple[Tensor, Tensor]]
Scope = Literal["local", "global", "isomorphic"]


class PeerFailed(Exception):  # noqa: N818
    """Torch-Pruning raised, did not come to an end, or left a network that does not run."""


class Peer:
    """The process; a call that takes longer than `limit_s` ends it, the next one starts another."""

    def __init__(self, limit_s: float) -> None:
        self.limit_s = limit_s
        self._pool: Any = None

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        """What the function returns. PeerFailed if it raises or takes too long."""
        if self._pool is None:
            self._pool = multiprocessing.get_context("spawn").Pool(1)
        try:
            answer = self._pool.apply_async(_answer, (function, _packed(args), torch.get_num_threads()))
            return _unpacked(answer.get(self.limit_s))
        except multiprocessing.TimeoutError:
            self.close()
            raise PeerFailed(f"not finished after {self.limit_s:g} s") from None

    def close(self) -> None:
        if self._pool is not None:
            self._pool.terminate()
            self._pool = None


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


def _answer(function: Callable[..., Any], args: bytes, threads: int) -> bytes:
    """In the process: exceptions come back as their text, they may not be such that they can be sent."""
    torch.set_num_threads(threads)
    try:
        with quiet():
            return _packed(function(*_unpacked(args)))
    except Exception as error:
        return _packed(PeerFailed(f"{type(error).__name__}: {error}"[:200]))


def _packed(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def _unpacked(data: bytes) -> Any:
    value = torch.load(io.BytesIO(data), weights_only=False)  # from our own process
    if isinstance(value, PeerFailed):
        raise value
    return value
