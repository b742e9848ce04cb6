"""The supernet: one store of weights, and the rule by which every network of the space is a slice of them.

A tensor of a subnet is a part of the store's tensor of the same name: the first units of every size (`slices`). The
store's tensor is the smallest that holds those of all blocks of the space. Normalization is
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

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from functools import cache
from itertools import islice
from typing import Any, Literal

import torch
from timm.layers import drop_path
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from search_spaces import Arch, BlockSpec, SearchSpace
from supernet.convolutions import mend_convolutions
from supernet.losses import Logits
from supernet.slices import Extent, Part, Slices

Norm = Literal["width", "shared"]
CPU = torch.device("cpu")


@dataclass(frozen=True)
class _Skeleton:
    """A block's module without tensors of its own: where each tensor goes, its name, extent, and is it a norm's."""

    module: nn.Module
    places: tuple[tuple[dict[str, Tensor | None], str], ...]
    tensors: tuple[tuple[str, Extent, bool], ...]

    def __call__(self, tensors: Iterable[Tensor | None], x: Tensor) -> Any:
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


def _skeleton_of(block: BlockSpec, device: torch.device = CPU) -> _Skeleton:
    return _skeleton(replace(block, name=""), device)


@cache
@torch.inference_mode(False)  # kept for training too, whoever asks first
def _skeleton(block: BlockSpec, device: torch.device) -> _Skeleton:
    with torch.device("meta"):
        module = mend_convolutions(block.build())
    _materialize_buffers(module, device)
    norms = {name for name, part in module.named_modules() if isinstance(part, _BatchNorm)}
    places, tensors, layout = [], [], block.layout()
    for name, tensor in module.state_dict().items():
        owner, _, leaf = name.rpartition(".")
        part: Any = module.get_submodule(owner)
        places.append((part._parameters if leaf in part._parameters else part._buffers, leaf))
        tensors.append((name, Extent.of(name, tensor.shape, layout), owner in norms))
    return _Skeleton(module, tuple(places), tuple(tensors))


class _Plan:
    """How a block runs on a store: its skeleton, the tensors it is made of, and which of these to slice at each call.

    Parameters are whole, as autograd wants its leaves; running statistics are already their parts.
    """

    def __init__(self, skeleton: _Skeleton, whole: list[Tensor], parts: list[Part]) -> None:
        self.skeleton, self.tensors, self.parts = skeleton, whole.copy(), parts
        self.sliced: list[int] = []
        self.statistics: list[int] = []
        for i, part in enumerate(parts):
            if not isinstance(whole[i], nn.Parameter):
                self.tensors[i] = part.of(whole[i])
                if skeleton.tensors[i][2]:
                    self.statistics.append(i)
            elif whole[i].shape != part.shape:
                self.sliced.append(i)
        self.sliced_parts = [parts[i] for i in self.sliced]

    def named_parts(self) -> Iterator[tuple[str, Tensor]]:
        """(name within the block, its part of the store) of each tensor."""
        for i, (name, _, _) in enumerate(self.skeleton.tensors):
            yield name, self.parts[i].of(self.tensors[i]) if i in self.sliced else self.tensors[i]


def _sliced(plans: Sequence[_Plan]) -> list[tuple[Tensor, ...]]:
    """The slices of each plan, copied; of all together as one node of the graph, for every node takes its time."""
    parts = [part for plan in plans for part in plan.sliced_parts]
    if not parts:
        return [() for _ in plans]
    copies = iter(Slices.apply(parts, *(plan.tensors[i] for plan in plans for i in plan.sliced)))
    return [tuple(islice(copies, len(plan.sliced))) for plan in plans]


def _materialize_buffers(module: nn.Module, device: torch.device) -> None:
    """Gives non-persistent buffers, which no state dict holds, their values, by timm's protocol: where weights are."""
    for part in module.modules():
        if names := part._non_persistent_buffers_set:
            made: Any = copy.deepcopy(part).to_empty(device=device)
            made.init_non_persistent_buffers()
            part._buffers.update({name: made._buffers[name] for name in names})


class Supernet(nn.Module):
    """Weight store of a search space.

    `supernet(images, arch)` maps (batch, channels, height, width) to (batch, classes) logits with the weights of
    `arch`; in training mode gradients and running statistics land in the store, and in distilled training the logits
    are those of both classifiers, where the head has two. For repeated evaluation take
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
        self._frozen = self._distilled_training = False
        largest: Any = space.build(space.largest)
        self._undecayed = frozenset(self._undecayed_of(largest))
        self._extents: dict[str, Extent] = {}  # no set: all processes must have the same order of parameters
        every = dict.fromkeys(block for slot in space.slots for block in space.slot_blocks(slot))
        weights, norms = self._tensors_of(every, norms=False), self._tensors_of(every, norms=True)
        state, buffers = largest.state_dict(), dict(largest.named_buffers())
        sources = {_join(b.name, own): name for name, b, own, _ in _tensors_in(space, space.largest)}
        for name, (block, own) in weights.items():
            fresh = _initial(state.get(source := sources.get(name, "")), self._extents[name].shape, block, own)
            _register(self, name, fresh, source not in buffers)
        for name, (block, own) in norms.items():
            owner, _, entry = own.rpartition(".")
            value, trained = _NORM_ENTRIES[entry]
            _register(self, name, value(self._extents[name].shape, block.norm_start(owner)), trained)
        rates = {b.name: i / (len(space.slots) - 1) for i, s in enumerate(space.slots) for b in space.slot_blocks(s)}
        self._drop_prob = {name: drop_path_rate * rate for name, rate in rates.items()}
        self._index()

    def _tensors_of(self, blocks: Iterable[BlockSpec], norms: bool) -> dict[str, tuple[BlockSpec, str]]:
        """Of all tensors of these blocks that are norms' or are not, by stored name: the block that has most of it, and
        its name there; notes the least extents that hold them."""
        found: dict[str, tuple[BlockSpec, str]] = {}
        for block in blocks:
            for own, extent, is_norm in _skeleton_of(block).tensors:
                if is_norm == norms:
                    name = self._stored_name(block, own, is_norm)
                    before = self._extents.setdefault(name, extent)
                    self._extents[name] = joined = before.joined(extent)
                    if name not in found or joined == extent:
                        found[name] = block, own
        return found

    def _index(self) -> None:
        self._plans: dict[BlockSpec, _Plan] = {}
        self._tensors: dict[str, Tensor] = {**dict(self.named_parameters()), **dict(self.named_buffers())}

    def _stored_name(self, block: BlockSpec, name: str, is_norm: bool) -> str:
        if not is_norm or self.normalization == "shared":
            return _join(block.name, name)
        norm, _, entry = name.rpartition(".")
        return f"{_join(block.name, norm)}.{block.variant}.{entry}"

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Supernet:
        super()._apply(fn, recurse)
        self._index()
        return self

    def _undecayed_of(self, largest: Any) -> Iterator[str]:
        """What that network, which may name patterns, trains without weight decay, by its names and those here."""
        patterns = largest.no_weight_decay() if hasattr(largest, "no_weight_decay") else ()
        yield from patterns
        for name, block, own, is_norm in _tensors_in(self.space, self.space.largest):
            if any(fnmatch(name, pattern) for pattern in patterns):
                yield self._stored_name(block, own, is_norm)

    def no_weight_decay(self) -> frozenset[str]:
        """Parameters that the family trains without weight decay, for timm's optimizer factory."""
        return self._undecayed

    def set_distilled_training(self, enable: bool = True) -> None:
        """As of timm's networks: while training, heads of two classifiers return the logits of each."""
        self._distilled_training = enable

    def group_matcher(self, coarse: bool = False) -> Callable[[str], int]:
        """The place of a parameter's block in the network, for timm's layer-wise decay of the learning rate."""
        places = {block.name: i for i, slot in enumerate(self.space.slots) for block in self.space.slot_blocks(slot)}

        def place(name: str) -> int:
            while name not in places:
                name = name.rpartition(".")[0]
            return places[name]

        return place

    @property
    def device(self) -> torch.device:
        return next(iter(self._tensors.values())).device

    def _plan(self, block: BlockSpec) -> _Plan:
        if block not in self._plans:
            skeleton = _skeleton_of(block, self.device)
            names = [self._stored_name(block, name, is_norm) for name, _, is_norm in skeleton.tensors]
            extents = [extent for _, extent, _ in skeleton.tensors]
            parts = [e.within(self._extents[n], self.device) for n, e in zip(names, extents, strict=True)]
            self._plans[block] = _Plan(skeleton, [self._tensors[name] for name in names], parts)
        return self._plans[block]

    def tensors(self, block: BlockSpec) -> Iterator[tuple[str, Tensor]]:
        """(name within the block, its part of the store) of each of the block's tensors."""
        return self._plan(block).named_parts()

    def run_block(self, block: BlockSpec, x: Tensor, slices: Sequence[Tensor] | None = None) -> Any:
        """What the block makes of x.

        Args:
            slices: of its tensors, where a network's are made together.
        """
        plan = self._plan(block)
        module: Any = plan.skeleton.module
        if module.training != self.training:
            module.train(self.training)
        drop_prob = self._drop_prob[block.name] if block.residual else 0.0
        if hasattr(module, "drop_prob"):
            module.drop_prob, drop_prob = drop_prob, 0.0
        for part in module.modules() if block.two_classifiers else ():
            if hasattr(part, "distilled_training"):
                part.distilled_training = self._distilled_training
        tensors: list[Tensor | None] = [*plan.tensors]
        for i, part in zip(plan.sliced, _sliced([plan])[0] if slices is None else slices, strict=True):
            tensors[i] = part
        if self.training and (self._frozen or self.normalization == "shared"):
            for i in plan.statistics:  # a checkpointed block must save as many tensors in its second run: a copy
                tensors[i] = None if self.normalization == "shared" else plan.tensors[i].clone()
        y = plan.skeleton(tensors, x)
        # of a block that does not drop paths itself: what it adds to its input
        return x + drop_path(y - x, drop_prob, training=True) if self.training and drop_prob else y

    def forward(self, x: Tensor, arch: Arch) -> Logits:
        again = self.checkpoint_activations and self.training and torch.is_grad_enabled()
        blocks = self.space.lower(arch)
        for block, slices in zip(blocks, _sliced([self._plan(block) for block in blocks]), strict=True):
            if again:
                x = checkpoint(self.run_block, block, x, slices, use_reentrant=False, context_fn=self._second_run)
            else:
                x = self.run_block(block, x, slices)
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
    def load_network(self, arch: Arch, state: Mapping[str, Tensor]) -> None:
        """Takes over the weights of a network of the space, named as `space.build(arch)` names them.

        Norms of other variants of its blocks start as its own, cut to them; blocks that it lacks stay as they are, but
        for their layer scales: these are 0, so that such a block begins as the identity.
        """
        blocks = {(block.kind, block.name): block for block in self.space.lower(arch)}
        for block, prefix in zip(self.space.lower(arch), self.space.prefixes(arch), strict=True):
            plan = self._plan(block)
            for i, (own, _, is_norm) in enumerate(plan.skeleton.tensors):
                value = state[_join(prefix, own)].to(self.device)
                plan.parts[i].write(self._tensors[self._stored_name(block, own, is_norm)], value)
        for other in dict.fromkeys(block for slot in self.space.slots for block in self.space.slot_blocks(slot)):
            if loaded := blocks.get((other.kind, other.name)):
                self._load_variant(other, loaded)
            else:
                self._silence(other)

    def _load_variant(self, block: BlockSpec, loaded: BlockSpec) -> None:
        """Norms that are the block's alone become those of the loaded one, where they are a part of them."""
        if self.normalization == "shared" or block.variant == loaded.variant:
            return
        extents = {own: extent for own, extent, is_norm in _skeleton_of(loaded).tensors if is_norm}
        for own, extent, is_norm in _skeleton_of(block).tensors:
            if is_norm and own in extents and extent.joined(extents[own]) == extents[own]:
                part = extent.within(extents[own], self.device)
                source = self._tensors[self._stored_name(loaded, own, True)]
                self._tensors[self._stored_name(block, own, True)].copy_(part.of(source))

    def _silence(self, block: BlockSpec) -> None:
        for own, _, is_norm in _skeleton_of(block).tensors:
            if block.residual and own.rpartition(".")[2] == "gamma":
                self._tensors[self._stored_name(block, own, is_norm)].zero_()

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
        state = {
            _join(prefix, name): _copy(tensor)
            for block, prefix in zip(self.space.lower(arch), self.space.prefixes(arch), strict=True)
            for name, tensor in self.tensors(block)
        }
        model.load_state_dict(state, assign=True)
        _materialize_buffers(model, self.device)
        return model.eval()


# By name: the fresh tensor, of its shape and what the norm begins with, and whether it is trained.
_NORM_ENTRIES: dict[str, tuple[Callable[[torch.Size, tuple[float, float]], Tensor], bool]] = {
    "weight": (lambda shape, start: torch.full(shape, start[0]), True),
    "bias": (lambda shape, start: torch.full(shape, start[1]), True),
    "running_mean": (lambda shape, _: torch.zeros(shape), False),
    "running_var": (lambda shape, _: torch.ones(shape), False),
    "num_batches_tracked": (lambda *_: torch.tensor(0), False),
}


def _join(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix else name


def _tensors_in(space: SearchSpace, arch: Arch) -> Iterator[tuple[str, BlockSpec, str, bool]]:
    """Of each tensor of a network its name, its block and the name in that, and whether it is a norm's."""
    for block, prefix in zip(space.lower(arch), space.prefixes(arch), strict=True):
        for own, _, is_norm in _skeleton_of(block).tensors:
            yield _join(prefix, own), block, own, is_norm


def _initial(largest: Tensor | None, shape: torch.Size, block: BlockSpec, name: str) -> Tensor:
    """The largest network's tensor; where another block needs a larger one, numbers distributed as a block's own."""
    if largest is not None and largest.shape == shape:
        return largest
    own = block.build().state_dict()[name]
    if own.numel() == 1 or own.min() == own.max():
        return own.flatten()[0].expand(shape)
    return own.mean() + own.std() * torch.randn(shape)


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
