"""A network under the arithmetic of an int8 file: as ONNX Runtime's static quantizer, called as `nas.export` calls it
(`latency_lut.backends.onnxruntime.quantize_onnx`), would have it computed.

Tensors are rounded where that quantizer puts QuantizeLinear and DequantizeLinear around operators, and computed with in
floating point: the sums of an int8 kernel are exact, so it finds the same numbers but for its own last rounding.

- Activations: 8 bits, one grid a tensor, over zero and the values that it has on calibration images in floating point
  (all but the rarest: `spanned`).
  Most operators' inputs and outputs are rounded; others (GELU, means) take and give what their neighbours round.
- Weights: 7 bits (`reduce_range`), symmetric, a scale for each output channel. What scales a convolution's channels,
  batch normalization for one, is merged into its weights by the runtime. As each channel's grid scales with it, that is
  rounding the weights as they are, and the sum after it is scaled.
- ReLU and its like merge with the operator before: only what they give is rounded.
- Other constants: 7 bits, one grid a tensor. A linear layer of tokens is a product and a sum, both rounded. Biases have
  32 bits and lose nothing.

Operators are seen as PyTorch dispatches them, so any module can be asked and none has to be traced: under inference
mode they are those of `torch.nn.functional`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.weak import WeakTensorKeyDictionary

from latency_lut.backends.ranges import spanned
from search_spaces.deployed import deployed, merges

WEIGHT_STEPS, CONSTANT_STEPS = 64, 127  # from zero to the largest magnitude; from the least to the largest
Extremes = tuple[Tensor, Tensor]  # (images,) least and largest values that an activation has on each
aten: Any = torch.ops.aten


@dataclass(frozen=True)
class Grid:
    """The numbers `scale · (q - zero)` of whole q from 0 to 255."""

    scale: float
    zero: int

    @classmethod
    def over(cls, least: float, largest: float, steps: int = 255) -> Grid:
        """So many steps from `least` to `largest`, which are widened to have zero between them."""
        least, largest = min(least, 0.0), max(largest, 0.0)
        scale = (largest - least) / steps
        return cls(scale, round(-least / scale)) if scale >= torch.finfo(torch.float32).tiny else cls(1.0, 0)

    def round(self, x: Tensor) -> Tensor:
        """As ONNX defines it. PyTorch's own `fake_quantize_per_tensor_affine` takes six times as long on a CPU."""
        return (x / self.scale).round_().clamp_(-self.zero, 255 - self.zero).mul_(self.scale)


UNIT = Grid.over(0.0, 1.0)  # softmax's


@dataclass(frozen=True)
class Activation:
    """How far a tensor that follows from the images is rounded.

    Args:
        rounded: it is, or would be where ranges are only observed.
        value: rounded, where the tensor itself is not.
        grid: that it is rounded to; None where ranges are only observed.
        pending: it is to be rounded before anything but a ReLU takes it.
        foldable: it is pending, and what scales its channels still comes before that.
    """

    rounded: bool = False
    value: Tensor | None = None
    grid: Grid | None = None
    pending: bool = False
    foldable: bool = False


PENDING, FOLDABLE = Activation(pending=True), Activation(pending=True, foldable=True)


class Quantized(nn.Module):
    """A module in int8, once `observe` has found the ranges of its activations.

    Args:
        module: in evaluation mode, as it is deployed.
        grids: of what one part of a network hands to the next, shared by its parts.
    """

    def __init__(self, module: nn.Module, grids: WeakTensorKeyDictionary | None = None) -> None:
        super().__init__()
        self.module = module
        self._grids = WeakTensorKeyDictionary() if grids is None else grids
        self._ranges: list[tuple[float, float]] = []  # in the order in which activations are rounded

    def forward(self, x: Any) -> Any:
        return self._run(x)

    def observe(self, batches: Iterable[Any]) -> list[Any]:
        """The outputs in floating point; ranges become those of these batches."""
        extremes: list[list[Extremes]] = []
        outputs = [self._run(batch, extremes) for batch in batches]
        self._ranges = [spanned(*(torch.cat(ends).numpy() for ends in zip(*of, strict=True))) for of in extremes]
        return outputs

    @torch.inference_mode()
    def _run(self, x: Any, extremes: list[list[Extremes]] | None = None) -> Any:
        arithmetic = _Arithmetic(self._ranges, extremes, len(tree_leaves(x)[0]))
        for tensor in tree_leaves(x):
            arithmetic.activations[tensor] = self._grids.get(tensor, Activation())
        with arithmetic:
            y = self.module(x)
        y = tree_map_only(Tensor, arithmetic.settled, y)
        for tensor in tree_leaves(y):
            self._grids[tensor] = arithmetic.activations[tensor]
        return y


def quantized(model: nn.Module, batches: Sequence[Tensor]) -> Quantized:
    """The network as an int8 file of it computes, with the ranges of these normalized images, on their device.

    Args:
        model: in evaluation mode, with the norms that it is to have.
    """
    network = Quantized(as_deployed(model, batches[0].device))
    network.observe(batches)
    return network


def as_deployed(module: nn.Module, device: torch.device) -> nn.Module:
    """`deployed`, on the device, channels last; the module itself where that changes nothing."""
    if not merges(module):
        return module
    return deployed(module).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]


class _Arithmetic(TorchDispatchMode):
    """Rounds, or observes the ranges of, what operators take and give; `activations` are those on the way.

    Args:
        extremes: to observe them: of each activation, what is added to.
        num_images: of the batch.
    """

    def __init__(
        self, ranges: list[tuple[float, float]], extremes: list[list[Extremes]] | None, num_images: int
    ) -> None:
        super().__init__()
        self.activations: Any = WeakTensorKeyDictionary()
        self.observing = extremes is not None
        self._extremes = [] if extremes is None else extremes
        self._ranges, self._num_images, self._count = ranges, num_images, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not any(isinstance(leaf, Tensor) and leaf in self.activations for leaf in tree_leaves(args)):
            return func(*args, **kwargs or {})  # of constants
        operator = func.overloadpacket
        if not func._schema.is_mutable or (operator in RULES and not self.activations[args[0]].rounded):
            return RULES.get(operator, _other)(self, func, *args, **kwargs or {})
        functional = getattr(aten, operator.__name__.removesuffix("_"))
        result = RULES.get(functional, _other)(self, functional, *args, **kwargs or {})
        return self.gives(args[0].copy_(result), replace(self.activations[result], value=None))

    def gives(self, result: Any, activation: Activation) -> Any:
        for tensor in tree_leaves(result):
            self.activations[tensor] = activation
        return result

    def rounded(self, x: Any) -> Any:
        """What an operator takes that rounds its inputs; numbers and whole numbers as they are."""
        if not isinstance(x, Tensor) or not x.is_floating_point():
            return x
        if x not in self.activations:
            return self._rounded_constant(x)
        activation = self.activations[x]
        if activation.rounded:
            return x if activation.value is None else activation.value
        return self.rounded_to(x, self._grid(x))

    def settled(self, x: Any) -> Any:
        """What any other operator takes: rounded if that is pending."""
        activation = self.activations.get(x) if isinstance(x, Tensor) else None
        return self.rounded(x) if activation and (activation.pending or activation.rounded) else x

    def rounded_to(self, x: Tensor, grid: Grid | None) -> Tensor:
        value = x if self.observing or grid is None else grid.round(x)
        self.activations[value] = activation = Activation(rounded=True, grid=grid)
        if value is not x:
            self.activations[x] = replace(activation, value=value)
        return value

    def weight(self, weight: Tensor) -> Tensor:
        """(output channels, …) weights, a grid for each of these."""
        if self.observing or weight in self.activations:
            return self.rounded(weight)
        scales = weight.abs().amax(dim=tuple(range(1, weight.dim())), keepdim=True) / WEIGHT_STEPS
        scales = torch.where(scales < torch.finfo(scales.dtype).tiny, 1.0, scales)
        return (weight / scales).round_().mul_(scales)

    def norm_weight(self, weight: Tensor | None) -> Tensor | None:
        return weight if weight is None or self.observing else self.weight(weight[None])[0]

    def _rounded_constant(self, x: Tensor) -> Tensor:
        return x if self.observing else Grid.over(x.min().item(), x.max().item(), CONSTANT_STEPS).round(x)

    def _grid(self, x: Tensor) -> Grid | None:
        """The next one; while observing, what `x` has on each image is added to what its range will be of."""
        position, self._count = self._count, self._count + 1
        if not self.observing:
            return Grid.over(*self._ranges[position])
        if position == len(self._extremes):
            self._extremes.append([])
        inner = tuple(range(1, x.dim()))
        least, largest = (x.amin(inner), x.amax(inner)) if inner else (x, x)
        count = self._num_images if len(x) % self._num_images == 0 else 1  # windows of an image lie side by side
        ends = least.reshape(count, -1).amin(1), largest.reshape(count, -1).amax(1)
        self._extremes[position].append((ends[0].cpu(), ends[1].cpu()))
        return None


# ---- operators: each takes the arithmetic, the operator and its arguments


def _both(arithmetic: _Arithmetic, operator: Any, *args: Any, **kwargs: Any) -> Any:
    """Its inputs and outputs are rounded."""
    args = tuple(_each(arithmetic.rounded, arg) for arg in args)
    return arithmetic.gives(operator(*args, **kwargs), PENDING)


def _other(arithmetic: _Arithmetic, operator: Any, *args: Any, **kwargs: Any) -> Any:
    """Neither is."""
    args = tuple(_each(arithmetic.settled, arg) for arg in args)
    return arithmetic.gives(operator(*args, **kwargs), Activation())


def _each(function: Callable[[Any], Any], arg: Any) -> Any:
    return [function(one) for one in arg] if isinstance(arg, list | tuple) else function(arg)


def _moved(arithmetic: _Arithmetic, operator: Any, *args: Any, **kwargs: Any) -> Any:
    """It only moves numbers: they stay on the grid that they are on, if they are."""
    args = tuple(_each(arithmetic.settled, arg) for arg in args)
    activation = arithmetic.activations.get(args[0], Activation())  # a constant may be moved by an activation
    return arithmetic.gives(operator(*args, **kwargs), activation)


def _averaged(arithmetic: _Arithmetic, operator: Any, x: Tensor, *args: Any, **kwargs: Any) -> Any:
    """What it gives is rounded to the grid of what it takes, if that is on one."""
    x = arithmetic.settled(x)
    activation, y = arithmetic.activations[x], operator(x, *args, **kwargs)
    return arithmetic.rounded_to(y, activation.grid) if activation.rounded else arithmetic.gives(y, activation)


def _kept(arithmetic: _Arithmetic, operator: Any, x: Tensor, *args: Any, **kwargs: Any) -> Any:
    """It does nothing, and is in no file."""
    activation = arithmetic.activations[x]
    x = arithmetic.rounded(x) if activation.rounded else x
    return arithmetic.gives(operator(x, *args, **kwargs), replace(activation, value=None))


def _clipped(arithmetic: _Arithmetic, operator: Any, x: Tensor, *args: Any, **kwargs: Any) -> Any:
    """It merges with the operator that its input is of."""
    activation = arithmetic.activations[x]
    if activation.rounded:
        return _both(arithmetic, operator, x, *args, **kwargs)
    return arithmetic.gives(operator(x, *args, **kwargs), replace(activation, foldable=False))


def _convolved(arithmetic: _Arithmetic, operator: Any, x: Tensor, weight: Tensor, *args: Any, **kwargs: Any) -> Any:
    y = operator(arithmetic.rounded(x), arithmetic.weight(weight), *args, **kwargs)
    return arithmetic.gives(y, FOLDABLE)


def _linear(arithmetic: _Arithmetic, operator: Any, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Any:
    """Of vectors one operator; of tokens a product, and the bias added to it."""
    x, weight = arithmetic.rounded(x), arithmetic.weight(weight)
    if bias is None or x.dim() == 2:
        return arithmetic.gives(operator(x, weight, bias), PENDING)
    product = arithmetic.gives(operator(x, weight), PENDING)
    return _both(arithmetic, aten.add, product, bias)


def _batch_norm(
    arithmetic: _Arithmetic, operator: Any, x: Tensor, weight: Tensor | None, *args: Any, **kwargs: Any
) -> Any:
    if arithmetic.activations[x].foldable:
        return arithmetic.gives(operator(x, weight, *args, **kwargs), FOLDABLE)
    y = operator(arithmetic.rounded(x), arithmetic.norm_weight(weight), *args, **kwargs)
    return arithmetic.gives(y, PENDING)


def _layer_norm(
    arithmetic: _Arithmetic, operator: Any, x: Tensor, shape: Any, weight: Tensor | None = None, *args: Any, **kw: Any
) -> Any:
    y = operator(arithmetic.rounded(x), shape, arithmetic.norm_weight(weight), *args, **kw)
    return arithmetic.gives(y, PENDING)


def _scaled(arithmetic: _Arithmetic, operator: Any, one: Any, other: Any, *args: Any, **kwargs: Any) -> Any:
    """A sum or a product; that of a convolution and a constant for each channel is a part of the convolution."""
    activations = arithmetic.activations
    for x, constant in ((one, other), (other, one)):
        is_constant = isinstance(constant, Tensor) and constant not in activations
        if is_constant and activations[x].foldable and constant.shape[-3:] == (constant.numel(), 1, 1):
            return arithmetic.gives(operator(one, other, *args, **kwargs), FOLDABLE)
    return _both(arithmetic, operator, one, other, *args, **kwargs)


def _silu(arithmetic: _Arithmetic, _: Any, x: Tensor) -> Any:
    return _both(arithmetic, aten.mul, x, _both(arithmetic, aten.sigmoid, x))


def _softmax(arithmetic: _Arithmetic, operator: Any, x: Tensor, *args: Any, **kwargs: Any) -> Any:
    return arithmetic.rounded_to(operator(arithmetic.rounded(x), *args, **kwargs), UNIT)


def _attention(
    arithmetic: _Arithmetic,
    _: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None = None,
    *_dropout: Any,
    scale: float | None = None,
) -> Any:
    """As it is exported: both factors are scaled by the root of the scale."""
    root = (scale or query.shape[-1] ** -0.5) ** 0.5
    query = _both(arithmetic, aten.mul, query, root)
    key = _both(arithmetic, aten.mul, _moved(arithmetic, aten.transpose, key, -2, -1), root)
    logits = _both(arithmetic, aten.matmul, query, key)
    if mask is not None:
        logits = _both(arithmetic, aten.add, logits, mask)
    return _both(arithmetic, aten.matmul, _softmax(arithmetic, aten.softmax, logits, -1), value)


# Those that are in no table take and give floating point. In-place ones count as those of the same name.
_NAMES: dict[Callable[..., Any], str] = {
    _convolved: "conv1d conv2d conv3d",
    _linear: "linear",
    _batch_norm: "batch_norm",
    _layer_norm: "layer_norm group_norm",
    _scaled: "add mul",
    _both: "sigmoid cat concat matmul bmm leaky_relu",
    _silu: "silu",
    _softmax: "softmax",
    _attention: "scaled_dot_product_attention",
    _clipped: "relu relu_ relu6 relu6_ hardtanh hardtanh_ clamp clamp_",
    _averaged: "avg_pool2d upsample_nearest2d upsample_bilinear2d upsample_bicubic2d",
    _kept: "alias clone contiguous detach dropout",
    _moved: "chunk expand flatten gather index index_select max_pool2d narrow pad permute reshape roll select slice "
    "split split_with_sizes squeeze t transpose unbind unflatten unsqueeze view",
}
RULES: dict[Any, Callable[..., Any]] = {getattr(aten, n): rule for rule, names in _NAMES.items() for n in names.split()}
