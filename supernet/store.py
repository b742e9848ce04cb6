"""The supernet: the largest network's weights, and the rule by which every other network is a slice of them.

A tensor of a subnet is the prefix slice, by its own shape, of the store's tensor of the same name. Normalization is
kept per width (Li et al. 2023, Section 3.6, after slimmable networks): each norm has one whole set of entries for
each variant of its block, so its name in the store carries the variant:

    stages.2.blocks.5.mlp.fc1.conv.weight           sliced
    stages.2.blocks.5.mlp.fc1.bn.w96e3.weight       whole, used at width 96 and expansion 3

With `norm="shared"` norms are sliced like everything else. Their running statistics are then those of no network in
particular and are not kept: `recalibrate` measures them for one.

A subnet runs as the sequence of its blocks, each a module without tensors of its own that is called on views of
the store. There are no elastic layers and there is no current subnet.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from search_spaces import Arch, BlockSpec, SearchSpace

Norm = Literal["width", "shared"]


@dataclass(frozen=True)
class _Skeleton:
    """A block's module without tensors of its own: where each tensor goes, its name, shape, and is it a norm's."""

    module: nn.Module
    places: tuple[tuple[dict[str, Tensor | None], str], ...]
    tensors: tuple[tuple[str, torch.Size, bool], ...]

    def __call__(self, tensors: Iterable[Tensor | None], x: Tensor) -> Tensor:
        """Runs the module on these tensors, in the order of `tensors`.

        What `torch.func.functional_call` does, without resolving every name at every call (5 % of the time of a
        small network's training step).
        """
        for (place, leaf), tensor in zip(self.places, tensors, strict=True):
            place[leaf] = tensor
        try:
            return self.module(x)
        finally:
            for place, leaf in self.places:
                place[leaf] = None


@cache
@torch.inference_mode(False)  # kept for training too, whoever asks first
def _skeleton(block: BlockSpec, device: torch.device) -> _Skeleton:
    with torch.device("meta"):
        module = block.build()
    _materialize_buffers(module, device)
    norms = {name for name, part in module.named_modules() if isinstance(part, _BatchNorm)}
    places, tensors = [], []
    for name, tensor in module.state_dict().items():
        owner, _, leaf = name.rpartition(".")
        part: Any = module.get_submodule(owner)
        places.append((part._parameters if leaf in part._parameters else part._buffers, leaf))
        tensors.append((name, tensor.shape, owner in norms))
    return _Skeleton(module, tuple(places), tuple(tensors))


class _Plan:
    """How a block runs on a store: its skeleton, the tensors it is made of, and which of these to slice at each call.

    Parameters are whole, as autograd wants its leaves; running statistics are already the views of their slices.
    """

    def __init__(self, skeleton: _Skeleton, whole: list[Tensor]) -> None:
        self.skeleton, self.tensors = skeleton, whole.copy()
        self.sliced: list[int] = []
        self.statistics: list[int] = []
        for i, (_, shape, _) in enumerate(skeleton.tensors):
            if not isinstance(whole[i], nn.Parameter):
                self.statistics.append(i)
                self.tensors[i] = _prefix(whole[i], shape)
            elif whole[i].shape != shape:
                self.sliced.append(i)
        self.shapes = [skeleton.tensors[i][1] for i in self.sliced]


class _Slices(torch.autograd.Function):
    """Contiguous copies of prefix slices, all of a block's as one node of the graph."""

    @staticmethod
    def forward(ctx: Any, shapes: Sequence[torch.Size], *full: Tensor) -> tuple[Tensor, ...]:
        ctx.shapes = shapes
        ctx.full = [(tensor.shape, tensor.stride()) for tensor in full]
        return tuple(_prefix(tensor, shape).clone() for tensor, shape in zip(full, shapes, strict=True))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        padded = []
        for grad, shape, (full_shape, stride) in zip(grads, ctx.shapes, ctx.full, strict=True):
            full = grad.new_empty_strided(full_shape, stride).zero_()
            _prefix(full, shape).copy_(grad)
            padded.append(full)
        return None, *padded


def _materialize_buffers(module: nn.Module, device: torch.device) -> None:
    """Gives non-persistent buffers, which no state dict holds, their memory and (by timm's protocol) their values."""
    for part in module.modules():
        names = part._non_persistent_buffers_set
        for name in names:
            part._buffers[name] = torch.empty_like(part.get_buffer(name), device=device)
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
        norm: one set of normalization entries for each variant of a block, or one for all, sliced.
        checkpoint_activations: keep only the inputs of blocks while training, and run each once more in the backward
            pass.
    """

    def __init__(
        self,
        space: SearchSpace,
        drop_path_rate: float = 0.0,
        norm: Norm = "width",
        checkpoint_activations: bool = False,
    ) -> None:
        super().__init__()
        self.space, self.normalization, self.checkpoint_activations = space, norm, checkpoint_activations
        self._frozen = False
        largest: Any = space.build(space.largest)
        template = largest.state_dict()
        self._undecayed = frozenset(largest.no_weight_decay()) if hasattr(largest, "no_weight_decay") else frozenset()
        modules = space.module_names(space.largest)
        blocks = space.lower(space.largest)
        for block in blocks:
            for name, _, is_norm in _skeleton(replace(block, name=""), torch.device("cpu")).tensors:
                if not is_norm:
                    _register(self, _join(block.name, name), template[_join(modules[block.name], name)], True)
        # not a set: the order of parameters must be the same in every process
        every = dict.fromkeys(block for slot in space.slots for block in space.slot_blocks(slot))
        for block in every if norm == "width" else blocks:
            for name, shape, is_norm in _skeleton(replace(block, name=""), torch.device("cpu")).tensors:
                if is_norm:
                    value, trained = _NORM_ENTRIES[name.rpartition(".")[2]]
                    _register(self, self._norm_name(block, name), value(shape), trained)
        self._drop_prob = {b.name: drop_path_rate * i / (len(blocks) - 1) for i, b in enumerate(blocks)}
        self._index()

    def _index(self) -> None:
        self._plans: dict[BlockSpec, _Plan] = {}
        self._tensors: dict[str, Tensor] = {**dict(self.named_parameters()), **dict(self.named_buffers())}

    def _norm_name(self, block: BlockSpec, name: str) -> str:
        if self.normalization == "shared":
            return _join(block.name, name)
        norm, _, entry = name.rpartition(".")
        return f"{_join(block.name, norm)}.{block.variant}.{entry}"

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Supernet:
        super()._apply(fn, recurse)
        self._index()
        return self

    def no_weight_decay(self) -> frozenset[str]:
        """Parameters that the family trains without weight decay, for timm's optimizer factory."""
        return self._undecayed

    @property
    def device(self) -> torch.device:
        return next(iter(self._tensors.values())).device

    def _plan(self, block: BlockSpec) -> _Plan:
        if block not in self._plans:
            skeleton = _skeleton(replace(block, name=""), self.device)
            whole = [
                self._tensors[self._norm_name(block, name) if is_norm else _join(block.name, name)]
                for name, _, is_norm in skeleton.tensors
            ]
            self._plans[block] = _Plan(skeleton, whole)
        return self._plans[block]

    def tensors(self, block: BlockSpec) -> Iterator[tuple[str, Tensor]]:
        """(name within the block, view of the store) of each of the block's tensors."""
        plan = self._plan(block)
        for (name, shape, _), tensor in zip(plan.skeleton.tensors, plan.tensors, strict=True):
            yield name, _prefix(tensor, shape)

    def run_block(self, block: BlockSpec, x: Tensor) -> Tensor:
        plan = self._plan(block)
        module: Any = plan.skeleton.module
        if module.training != self.training:
            module.train(self.training)
        if block.chainable:
            module.drop_prob = self._drop_prob[block.name]
        tensors: list[Tensor | None] = [*plan.tensors]
        if plan.sliced:
            slices = _Slices.apply(plan.shapes, *(tensors[i] for i in plan.sliced))
            for i, part in zip(plan.sliced, slices, strict=True):
                tensors[i] = part
        if self.training and (self._frozen or self.normalization == "shared"):
            for i in plan.statistics:  # a checkpointed block must save as many tensors in its second run: a copy
                tensors[i] = None if self.normalization == "shared" else plan.tensors[i].clone()
        return plan.skeleton(tensors, x)

    def forward(self, x: Tensor, arch: Arch) -> Tensor:
        again = self.checkpoint_activations and self.training and torch.is_grad_enabled()
        for block in self.space.lower(arch):
            if again:
                x = checkpoint(self.run_block, block, x, use_reentrant=False, context_fn=self._second_run)
            else:
                x = self.run_block(block, x)
        return x

    def _second_run(self) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        """Contexts of a checkpointed block's first and second run: statistics must not be updated twice."""
        return nullcontext(), self.frozen_statistics()

    @contextmanager
    def frozen_statistics(self) -> Iterator[None]:
        """Networks run in training mode leave the running statistics as they are."""
        before, self._frozen = self._frozen, True
        try:
            yield
        finally:
            self._frozen = before

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


def _join(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix else name


def _prefix(tensor: Tensor, shape: torch.Size) -> Tensor:
    """The view of the first `shape[d]` entries of each dimension d."""
    return tensor.as_strided(shape, tensor.stride(), tensor.storage_offset())


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
