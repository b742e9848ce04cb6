"""The supernet: the largest network's weights, and the rule by which every other network is a slice of them.

A tensor of a subnet is the prefix slice, by its own shape, of the store's tensor of the same name. Normalization is
kept per width (Li et al. 2023, Section 3.6, after slimmable networks): each norm has one whole set of entries for
each variant of its block, so its name in the store carries the variant:

    stages.2.blocks.5.mlp.fc1.conv.weight           sliced
    stages.2.blocks.5.mlp.fc1.bn.w96e3.weight       whole, used at width 96 and expansion 3

A subnet runs as the sequence of its blocks, each a module without tensors of its own that is called on views of
the store. There are no elastic layers and there is no current subnet.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm

from search_spaces import Arch, BlockSpec, SearchSpace


@dataclass(frozen=True)
class _Skeleton:
    """A block's module on the meta device and the (name, shape, is a norm's) of each of its tensors."""

    module: nn.Module
    tensors: tuple[tuple[str, torch.Size, bool], ...]


@lru_cache(maxsize=None)
def _skeleton(block: BlockSpec, device: torch.device) -> _Skeleton:
    with torch.device("meta"):
        module = block.build()
    _materialize_buffers(module, device)
    norms = {name for name, part in module.named_modules() if isinstance(part, _BatchNorm)}
    state = module.state_dict()
    return _Skeleton(module, tuple((n, t.shape, n.rpartition(".")[0] in norms) for n, t in state.items()))


def _materialize_buffers(module: nn.Module, device: torch.device) -> None:
    """Gives non-persistent buffers, which no state dict holds, their memory and (by timm's protocol) their values."""
    for part in module.modules():
        names = part._non_persistent_buffers_set
        for name in names:
            part._buffers[name] = torch.empty_like(part._buffers[name], device=device)
        if names:
            part.init_non_persistent_buffers()  # type: ignore[operator]


class Supernet(nn.Module):
    """Weight store of a search space.

    `supernet(images, arch)` maps (batch, channels, height, width) to (batch, classes) logits with the weights of
    `arch`; in training mode gradients and running statistics land in the store. For repeated evaluation take
    `extract` or `block_module`, whose weights are contiguous.

    Args:
        space: gives the geometry, the number of classes and the initialization (that of `space.build(largest)`).
        drop_path_rate: of the last block while training; rises linearly with depth from 0.
    """

    def __init__(self, space: SearchSpace, drop_path_rate: float = 0.0) -> None:
        super().__init__()
        self.space = space
        template = space.build(space.largest).state_dict()
        modules = space.module_names(space.largest)
        blocks = space.lower(space.largest)
        for block in blocks:
            for name, _, is_norm in _skeleton(_anonymous(block), torch.device("cpu")).tensors:
                if not is_norm:
                    _register(self, _join(block.name, name), template[_join(modules[block.name], name)], True)
        for block in {block for slot in space.slots for block in space.slot_blocks(slot)}:
            for name, shape, is_norm in _skeleton(_anonymous(block), torch.device("cpu")).tensors:
                if is_norm:
                    value, trained = _NORM_ENTRIES[name.rpartition(".")[2]]
                    _register(self, _norm_name(block, name), value(shape), trained)
        self._drop_prob = {b.name: drop_path_rate * i / (len(blocks) - 1) for i, b in enumerate(blocks)}
        self._index()

    def _index(self) -> None:
        self._tensors: dict[str, Tensor] = {**dict(self.named_parameters()), **dict(self.named_buffers())}

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Supernet:
        super()._apply(fn, recurse)
        self._index()
        return self

    def tensors(self, block: BlockSpec) -> Iterator[tuple[str, Tensor]]:
        """(name within the block, view of the store) of each of the block's tensors."""
        for name, shape, is_norm in _skeleton(_anonymous(block), self.device).tensors:
            if is_norm:
                yield name, self._tensors[_norm_name(block, name)]
            else:
                yield name, _prefix(self._tensors[_join(block.name, name)], shape)

    @property
    def device(self) -> torch.device:
        return next(iter(self._tensors.values())).device

    def run_block(self, block: BlockSpec, x: Tensor) -> Tensor:
        module: Any = _skeleton(_anonymous(block), x.device).module
        if module.training != self.training:
            module.train(self.training)
        if block.chainable:
            module.drop_prob = self._drop_prob[block.name]
        return functional_call(module, dict(self.tensors(block)), (x,), tie_weights=False)

    def forward(self, x: Tensor, arch: Arch) -> Tensor:
        for block in self.space.lower(arch):
            x = self.run_block(block, x)
        return x

    @torch.no_grad()
    def block_module(self, block: BlockSpec) -> nn.Module:
        """A copy of the block with contiguous weights of its own, in evaluation mode."""
        with torch.device("meta"):
            module = block.build()
        module.load_state_dict({n: _copy(t) for n, t in self.tensors(block)}, assign=True)
        _materialize_buffers(module, self.device)
        return module.eval()

    @torch.no_grad()
    def extract(self, arch: Arch) -> nn.Module:
        """The subnet as the family's ordinary model (timm's own class), with a copy of its weights, in eval mode."""
        with torch.device("meta"):
            model = self.space.build(arch)
        modules = self.space.module_names(arch)
        state = {
            _join(modules[block.name], name): _copy(tensor)
            for block in self.space.lower(arch)
            for name, tensor in self.tensors(block)
        }
        model.load_state_dict(state, assign=True)
        _materialize_buffers(model, self.device)
        return model.eval()


_NORM_ENTRIES: dict[str, tuple[Callable[[torch.Size], Tensor], bool]] = {
    "weight": (torch.ones, True),
    "bias": (torch.zeros, True),
    "running_mean": (torch.zeros, False),
    "running_var": (torch.ones, False),
    "num_batches_tracked": (lambda _: torch.tensor(0), False),
}


def _anonymous(block: BlockSpec) -> BlockSpec:
    return replace(block, name="")


def _join(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix else name


def _norm_name(block: BlockSpec, name: str) -> str:
    norm, _, entry = name.rpartition(".")
    return f"{_join(block.name, norm)}.{block.variant}.{entry}"


def _prefix(tensor: Tensor, shape: torch.Size) -> Tensor:
    for dim, length in enumerate(shape):
        if tensor.shape[dim] != length:
            tensor = tensor.narrow(dim, 0, length)
    return tensor


def _copy(tensor: Tensor) -> Tensor:
    return tensor.detach().clone(memory_format=torch.contiguous_format)


def _register(root: nn.Module, name: str, tensor: Tensor, trained: bool) -> None:
    """Puts a tensor at a dotted name, making modules on the way, so that `state_dict` has that name."""
    *path, leaf = name.split(".")
    for part in path:
        if not hasattr(root, part):
            root.add_module(part, nn.Module())
        root = getattr(root, part)
    if trained:
        root.register_parameter(leaf, nn.Parameter(tensor.detach().clone()))
    else:
        root.register_buffer(leaf, tensor.detach().clone())
