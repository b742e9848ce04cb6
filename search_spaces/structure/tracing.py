"""Layouts of a network of any family, found by running it once and following its channels from layer to layer.

Each tensor on the way carries, on one of its axes, the numbers of the channels that lie there (`Channels`). Layers
begin new ones; operators that work on each number alone connect those of their operands; operators that only move
numbers (reshape, concatenate, …) are asked to move the channels' numbers in the same way. What is none of these keeps
all its channels, so a network is described in so far as it is understood. Whether it is described right is found by
running it without some units (`verify`).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_map

from search_spaces.structure.channels import Channels, End
from search_spaces.structure.layouts import Layouts

NONE = -1  # the number of a place without a channel that may go


def words(text: str) -> frozenset[str]:
    return frozenset(text.split())


ELEMENT_WISE = words(
    "abs add addcmul celu clamp clip clone contiguous detach div double dropout dropout2d elu exp float gelu half "
    "hardsigmoid hardswish hardtanh iadd idiv imul isub itruediv leaky_relu log maximum minimum mish mul multiply neg "
    "pow radd reciprocal relu relu6 rmul rsqrt rsub rtruediv selu sigmoid silu softplus sqrt square sub subtract tanh "
    "to true_divide truediv type_as where"
)
REDUCTIONS = words("amax amin max mean min std sum var var_mean")
POOLS = words("adaptive_avg_pool2d adaptive_max_pool2d avg_pool2d interpolate max_pool2d upsample")
MOVES = words(
    "cat chunk concat expand expand_as flatten flip getitem index_select movedim narrow pad permute pixel_shuffle "
    "pixel_unshuffle repeat reshape reshape_as roll select split squeeze stack swapaxes tensor_split transpose unbind "
    "unflatten unfold unsqueeze view view_as"
)


@dataclass(frozen=True)
class _Track:
    """Which channels lie on an axis of a tensor."""

    axis: int
    channels: np.ndarray


@torch.no_grad()
def trace(model: nn.Module, image_size: int) -> Layouts:
    """What can be told of the network."""
    model = copy.deepcopy(model).eval()
    channels = Channels(model)
    tracer = _Tracer(model, channels)
    image = torch.zeros(1, 3, image_size, image_size)
    with tracer:
        output = model(image)
    tracer.fix(output)
    return channels.layouts()


def operator(function: Callable[..., Any]) -> str:
    """Its name, the same in place and as a method."""
    name = function.__name__.strip("_")
    return "attribute" if name in ("get", "set") else name


class _Tracer(TorchFunctionMode):
    def __init__(self, model: nn.Module, channels: Channels) -> None:
        super().__init__()
        self._channels = channels
        self._tracks: dict[int, _Track] = {}
        self._alive: list[Tensor] = []  # a number of a tensor's that is gone would be given to another
        self._layers: dict[int, str] = {}  # the layer that a weight is of
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            owner, _, leaf = name.rpartition(".")
            if (owner, "out") in channels.sizes and leaf in ("weight", "running_mean"):
                self._layers[id(tensor)] = owner
        for name, parameter in model.named_parameters():
            if (name, "out") in channels.sizes:  # of no layer
                at = len(channels.tensors[name]) - 1
                self._set(parameter, _Track(at, channels.of((name, "out"))))

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        found = function(*args, **kwargs)
        name = operator(function)
        operands = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, Tensor)]
        results = [x for x in tree_flatten(found)[0] if isinstance(x, Tensor)]
        if results and operands:
            self._alive += operands + results
            self._follow(name, function, args, kwargs, operands, results, found)
        return found

    def _follow(
        self,
        name: str,
        function: Callable[..., Any],
        args: Sequence[Any],
        kwargs: dict[str, Any],
        operands: list[Tensor],
        results: list[Tensor],
        found: Any,
    ) -> None:
        if handler := getattr(self, f"_of_{name}", None):
            named = {"x" if key == "input" else key: value for key, value in kwargs.items()}
            handler(results[0], *args, **named)
        elif name in ELEMENT_WISE:
            self._set(results[0], self._joined(operands, results[0]))
        elif not any(id(operand) in self._tracks for operand in operands):
            return
        elif name in ("cat", "concat") and (track := self._beside(operands, *args[1:], **kwargs)):
            self._set(results[0], track)
        elif name in MOVES:
            self._move(function, args, kwargs, results)
        elif name in POOLS:
            self._set(results[0], self._on_axis(args[0], -3, results[0]))
        elif name in REDUCTIONS:
            self._reduce(results, *args, **kwargs)
        elif any(result is not operand for result in results for operand in operands):
            for operand in operands:
                self.fix(operand)

    # ---- tracks

    def _set(self, tensor: Tensor, track: _Track | None) -> None:
        self._alive.append(tensor)
        if track is None:
            self._tracks.pop(id(tensor), None)
        else:
            assert tensor.shape[track.axis] == len(track.channels), (tensor.shape, track)
            self._tracks[id(tensor)] = track

    def _get(self, tensor: Tensor) -> _Track | None:
        return self._tracks.get(id(tensor))

    def fix(self, value: Any) -> None:
        """All channels of all tensors in there stay."""
        for tensor in tree_flatten(value)[0]:
            if isinstance(tensor, Tensor) and (track := self._get(tensor)):
                self._channels.fix(track.channels)

    def _on_axis(self, tensor: Tensor, axis: int, result: Tensor) -> _Track | None:
        """What passes an operator that treats the channels on that axis alike, and each by itself."""
        track = self._get(tensor)
        if track is not None and track.axis != axis % tensor.ndim:
            self.fix(tensor)
            return None
        return track and _Track(axis % result.ndim, track.channels)

    # ---- operators

    def _layer(self, weight: Any) -> str | None:
        return self._layers.get(id(weight))

    def _through(self, result: Tensor, x: Tensor, weight: Any, axis: int) -> None:
        """A convolution or linear layer: the end of one group of channels, and the beginning of another."""
        layer, track = self._layer(weight), self._on_axis(x, axis, x)
        if layer is None:
            self.fix((x, weight))
            return
        into: End = (layer, "in")
        if track is None:
            self._channels.fix(self._channels.of(into))
        else:
            self._channels.connect(self._channels.of(into), track.channels)
        self._channels.made(out := (layer, "out"))
        self._set(result, _Track(axis % result.ndim, self._channels.of(out)))

    def _of_conv2d(self, result: Tensor, x: Tensor, weight: Tensor, *_: Any, **__: Any) -> None:
        self._through(result, x, weight, -3)

    def _of_linear(self, result: Tensor, x: Tensor, weight: Tensor, *_: Any, **__: Any) -> None:
        self._through(result, x, weight, -1)

    def _norm(self, result: Tensor, x: Tensor, weight: Any, axis: int) -> None:
        track = self._on_axis(x, axis, result)
        if (layer := self._layer(weight)) is not None:
            channels = self._channels.of((layer, "out"))
            if track is None:
                self._channels.fix(channels)
            else:
                self._channels.connect(channels, track.channels)
        elif weight is not None and weight.numel() > 1:
            self.fix((x, weight))
            track = None
        self._set(result, track)

    def _of_batch_norm(
        self, result: Tensor, x: Tensor, running_mean: Any, running_var: Any, weight: Any = None, *_: Any, **__: Any
    ) -> None:
        self._norm(result, x, running_mean if weight is None else weight, 1)

    def _of_layer_norm(
        self, result: Tensor, x: Tensor, normalized_shape: Sequence[int], weight: Any = None, *_: Any, **__: Any
    ) -> None:
        if len(normalized_shape) > 1:
            self.fix((x, weight))
            return
        self._norm(result, x, weight, -1)

    _of_rms_norm = _of_layer_norm

    def _of_norm(
        self, result: Tensor, x: Tensor, p: Any = None, dim: Any = None, keepdim: bool = False, **_: Any
    ) -> None:
        self._reduce([result], x, dim, keepdim)

    def _of_normalize(self, result: Tensor, x: Tensor, *_: Any, **__: Any) -> None:
        self._set(result, self._get(x))

    def _of_group_norm(
        self, result: Tensor, x: Tensor, num_groups: int, weight: Any = None, *_: Any, **__: Any
    ) -> None:
        if num_groups > 1:
            self.fix(x)
            return
        self._norm(result, x, weight, 1)

    def _of_prelu(self, result: Tensor, x: Tensor, weight: Tensor) -> None:
        self._norm(result, x, weight, 1)

    def _of_softmax(self, result: Tensor, x: Tensor, dim: int | None = None, *_: Any, **__: Any) -> None:
        track = self._get(x)
        if track is not None and (dim is None or dim % x.ndim == track.axis):
            self.fix(x)
            track = None
        self._set(result, track)

    def _joined(self, operands: list[Tensor], result: Tensor) -> _Track | None:
        """Of an element-wise operator, whose operands are broadcast."""
        found: _Track | None = None
        for operand in operands:
            if (track := self._get(operand)) is None:
                continue
            at = track.axis + result.ndim - operand.ndim
            if found is None and result.shape[at] == len(track.channels):
                found = _Track(at, track.channels)
            elif found is not None and at == found.axis and len(found.channels) == len(track.channels):
                self._channels.connect(found.channels, track.channels)
            else:
                self.fix(operands)
                return None
        if found is not None and any(self._varies(operand, found.axis - result.ndim) for operand in operands):
            self._channels.fix(found.channels)
            return None
        return found

    def _varies(self, operand: Tensor, axis: int) -> bool:
        """Whether it has numbers of its own for each channel on the axis, counted from the end, that no unit has."""
        return self._get(operand) is None and -axis <= operand.ndim and operand.shape[axis] > 1

    def _beside(self, operands: list[Tensor], dim: int = 0, **_: Any) -> _Track | None:
        """Of tensors that are concatenated along another axis than their channels': as one token beside others."""
        tracks = [track for operand in operands if (track := self._get(operand))]
        if len(tracks) < len(operands) or len({t.axis for t in tracks}) > 1 or tracks[0].axis == dim % operands[0].ndim:
            return None
        for track in tracks[1:]:
            self._channels.connect(tracks[0].channels, track.channels)
        return tracks[0]

    def _reduce(self, results: list[Tensor], x: Tensor, dim: Any = None, keepdim: bool = False, **_: Any) -> None:
        track = self._get(x)
        if track is None:
            return
        dims = [dim] if isinstance(dim, int) else dim
        gone = sorted(d % x.ndim for d in dims) if isinstance(dims, (list, tuple)) and dims else list(range(x.ndim))
        if track.axis in gone:  # over all channels that there are, as a norm
            return
        at = track.axis if keepdim else track.axis - sum(d < track.axis for d in gone)
        for result in results:
            self._set(result, _Track(at, track.channels))

    def _move(self, function: Callable[..., Any], args: Any, kwargs: Any, results: list[Tensor]) -> None:
        """Moves the channels' numbers as the operator moves the tensor's."""

        def numbers(x: Any) -> Any:
            if not isinstance(x, Tensor) or not x.is_floating_point():
                return x
            full = torch.zeros(x.shape, dtype=torch.float64)  # not all operators move integers
            if track := self._get(x):
                shape = [-1 if i == track.axis else 1 for i in range(x.ndim)]
                full += torch.from_numpy(track.channels - NONE).reshape(shape)
            return full  # 0 where there is none, as what padding adds

        with torch._C.DisableTorchFunction():
            moved = function(*tree_map(numbers, args), **tree_map(numbers, kwargs))
        numbered = (x.long() for x in tree_flatten(moved)[0] if isinstance(x, Tensor))
        for result, full in zip(results, numbered, strict=True):
            track = _track_of(full + NONE)
            if track is None:
                self._channels.fix((full + NONE).unique().numpy())
            self._set(result, track)


def _track_of(full: Tensor) -> _Track | None:
    """The axis along which alone channels differ; where there is none, they do not lie side by side."""
    for axis in range(full.ndim):
        table = full.movedim(axis, 0).flatten(1) if full.ndim > 1 else full[:, None]
        most = table.amax(1)
        if bool(((table == most[:, None]) | (table == NONE)).all()) and len(most) > 1 and bool((most > NONE).any()):
            return _Track(axis, most.numpy())
    return None
