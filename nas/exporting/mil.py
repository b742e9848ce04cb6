"""Executes Core ML's intermediate language (MIL) in PyTorch, operator by operator, where Core ML cannot run.

Meanings are those of coremltools' operator reference (`coremltools.converters.mil.mil.ops.defs`); constants and casts
carry their precision, so a float16 program is computed in float16. It knows the operators our networks convert to.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

Values = dict[str, Any]


class Interpreter:
    """A program, its constants read and its compressed weights expanded once."""

    def __init__(self, program: Any) -> None:
        self._function = program.functions["main"]
        self._constants: dict[Any, Any] = {}
        for op in self._function.operations:
            if op.op_type == "const":
                self._constants[op.outputs[0]] = _constant(op.outputs[0].val)
            elif op.op_type.startswith("constexpr_"):
                self._constants[op.outputs[0]] = _operator(op)(self._arguments(op, {}))

    def __call__(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """The tensors that the program ends in; those of a classifier are named `probabilities`.

        Raises:
            NotImplementedError: an operator that this module does not know yet, by name.
        """
        values: dict[Any, Any] = {self._function.inputs[name]: tensor for name, tensor in inputs.items()}
        for op in self._function.operations:
            if op.op_type.startswith("const"):
                continue
            arguments = self._arguments(op, values)
            if op.op_type == "classify":
                return {"probabilities": arguments["probabilities"]}
            result = _operator(op)(arguments)
            for output, tensor in zip(op.outputs, result if isinstance(result, tuple) else (result,), strict=True):
                assert tuple(tensor.shape) == tuple(output.shape), (op.name, tensor.shape, output.shape)
                values[output] = tensor
        return {output.name: values[output] for output in self._function.outputs}

    def _arguments(self, op: Any, values: dict[Any, Any]) -> Values:
        return {name: self._argument(source, values) for name, source in op.inputs.items()}

    def _argument(self, source: Any, values: dict[Any, Any]) -> Any:
        if isinstance(source, list | tuple):  # of variables
            return [self._argument(item, values) for item in source]
        if source in values:
            return values[source]
        if source not in self._constants:
            self._constants[source] = _constant(source.val)
        return self._constants[source]


def _operator(op: Any) -> Callable[[Values], Tensor | tuple[Tensor, ...]]:
    if op.op_type not in OPERATORS:
        raise NotImplementedError(
            f"the Core ML program has an operator {op.op_type}, which only a Mac can run (here: nas/exporting/mil.py); "
            "export it there"
        )
    return OPERATORS[op.op_type]


def _constant(value: Any) -> Any:
    """Weights as tensors, all else as Python values."""
    if isinstance(value, np.ndarray | np.generic) and np.issubdtype(value.dtype, np.floating):
        return torch.from_numpy(np.array(value))
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value


def _dequantized(a: Values) -> Tensor:
    """int8 weights times the scale of their channel, in the scale's precision."""
    scale, x = a["scale"], torch.as_tensor(a["quantized_data"])
    shape = [-1 if axis == a["axis"] else 1 for axis in range(x.ndim)]
    zero = torch.as_tensor(a["zero_point"]).reshape(shape if np.ndim(a["zero_point"]) else [])
    return (x.to(scale.dtype) - zero.to(scale.dtype)) * (scale.reshape(shape) if scale.ndim else scale)


def _from_palette(a: Values) -> Tensor:
    """Values of a palette of 2**n at the places that are packed in n bits each, the lowest bit first."""
    palette, count = a["lut"], math.prod(a["shape"])
    width = (len(palette) - 1).bit_length()
    bits = np.unpackbits(np.asarray(a["indices"], dtype=np.uint8), bitorder="little")[: count * width]
    places = bits.reshape(count, width) @ (1 << np.arange(width))
    return palette[torch.from_numpy(places)].reshape(a["shape"])


def _padding(a: Values) -> Any:
    """On each side of each axis, or what torch calls "same" too."""
    if a["pad_type"] == "same":
        return "same"
    kind, pad = a["pad_type"], a["pad"] if a["pad_type"] == "custom" else [0] * len(a["pad"])
    assert kind in ("custom", "valid") and pad[::2] == pad[1::2], kind
    return list(pad[::2])


def _conv(a: Values) -> Tensor:
    conv = {3: F.conv1d, 4: F.conv2d}[a["x"].ndim]
    return conv(a["x"], a["weight"], a.get("bias"), a["strides"], _padding(a), a["dilations"], a["groups"])


def _conv_transpose(a: Values) -> Tensor:
    conv = {3: F.conv_transpose1d, 4: F.conv_transpose2d}[a["x"].ndim]
    full = conv(a["x"], a["weight"], a.get("bias"), a["strides"], 0, 0, a["groups"], a["dilations"])
    assert a["pad_type"] in ("custom", "valid"), a["pad_type"]
    pad = a["pad"] if a["pad_type"] == "custom" else [0] * len(a["pad"])
    for axis, (before, after) in enumerate(zip(pad[::2], pad[1::2], strict=True), 2):
        full = full.narrow(axis, before, full.shape[axis] - before - after)
    shape = a.get("output_shape")
    assert shape is None or list(shape) == list(full.shape), shape
    return full


def _max_pool(a: Values) -> Tensor:
    pool = {3: F.max_pool1d, 4: F.max_pool2d}[a["x"].ndim]
    return pool(a["x"], a["kernel_sizes"], a["strides"], _padding(a), ceil_mode=a["ceil_mode"])


def _avg_pool(a: Values) -> Tensor:
    counted = not a["exclude_padding_from_average"]
    pool = {3: F.avg_pool1d, 4: F.avg_pool2d}[a["x"].ndim]
    return pool(a["x"], a["kernel_sizes"], a["strides"], _padding(a), a["ceil_mode"], counted)


def _upsample_bilinear(a: Values) -> Tensor:
    return F.interpolate(a["x"], scale_factor=_scale(a), mode="bilinear", align_corners=a["align_corners"])


def _upsample_nearest(a: Values) -> Tensor:
    return F.interpolate(a["x"], scale_factor=_scale(a), mode="nearest")


def _scale(a: Values) -> tuple[float, float]:
    return float(a["scale_factor_height"]), float(a["scale_factor_width"])


def _batch_norm(a: Values) -> Tensor:
    return F.batch_norm(a["x"], a["mean"], a["variance"], a["gamma"], a["beta"], eps=float(a["epsilon"]))


def _matmul(a: Values) -> Tensor:
    x = a["x"].transpose(-1, -2) if a["transpose_x"] else a["x"]
    return x @ (a["y"].transpose(-1, -2) if a["transpose_y"] else a["y"])


def _gelu(a: Values) -> Tensor:
    assert a["mode"] == "EXACT"
    return F.gelu(a["x"])


def _layer_norm(a: Values) -> Tensor:
    shape = [a["x"].shape[axis] for axis in a["axes"]]
    assert sorted(axis % a["x"].ndim for axis in a["axes"]) == list(range(a["x"].ndim - len(shape), a["x"].ndim))
    return F.layer_norm(a["x"], shape, a.get("gamma"), a.get("beta"), float(a["epsilon"]))


def _split(a: Values) -> tuple[Tensor, ...]:
    axis = a["axis"]
    sizes = a.get("split_sizes") or [a["x"].shape[axis] // a["num_splits"]] * a["num_splits"]
    return tuple(a["x"].split(list(sizes), dim=axis))


def _concat(a: Values) -> Tensor:
    """One after another, or, `interleave`, the first of each, then the second of each, and so on."""
    axis = a["axis"] % a["values"][0].ndim
    if a.get("interleave"):
        return torch.stack(a["values"], dim=axis + 1).flatten(axis, axis + 1)
    return torch.cat(a["values"], dim=axis)


def _slice(a: Values) -> Tensor:
    x, rank = a["x"], a["x"].ndim
    none = [False] * rank
    starts, ends = (a.get(name) or none for name in ("begin_mask", "end_mask"))
    steps, squeezed = a.get("stride") or [1] * rank, a.get("squeeze_mask") or none
    index: list[Any] = []
    for i in range(rank):
        if squeezed[i]:
            index.append(a["begin"][i])
            continue
        assert steps[i] > 0, "torch has no backward slices"
        index.append(slice(None if starts[i] else a["begin"][i], None if ends[i] else a["end"][i], steps[i]))
    return x[tuple(index)]


def _pad(a: Values) -> Tensor:
    pairs = list(zip(a["pad"][::2], a["pad"][1::2], strict=True))  # of the last axes; torch takes the last first
    while pairs[0] == (0, 0) and len(pairs) > 1:
        del pairs[0]
    amounts = [amount for pair in reversed(pairs) for amount in pair]
    if a["mode"] == "constant":
        return F.pad(a["x"], amounts, value=float(a["constant_val"]))
    return F.pad(a["x"], amounts, a["mode"])


def _expand_dims(a: Values) -> Tensor:
    x, rank = a["x"], a["x"].ndim + len(a["axes"])
    for axis in sorted(axis % rank for axis in a["axes"]):
        x = x.unsqueeze(axis)
    return x


def _gather(a: Values) -> Tensor:
    """Indices of any shape take the place of the axis; negative ones count from its end."""
    x, axis, indices = a["x"], a["axis"] % a["x"].ndim, torch.as_tensor(a["indices"]).long()
    assert not a.get("batch_dims"), a["batch_dims"]
    found = x.index_select(axis, (indices % x.shape[axis]).flatten())
    return found.reshape(*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])


OPERATORS: dict[str, Callable[[Values], Tensor | tuple[Tensor, ...]]] = {
    "abs": lambda a: a["x"].abs(),
    "add": lambda a: a["x"] + a["y"],
    "avg_pool": _avg_pool,
    "batch_norm": _batch_norm,
    "cast": lambda a: a["x"].to({"fp16": torch.float16, "fp32": torch.float32, "int32": torch.int32}[a["dtype"]]),
    "clip": lambda a: a["x"].clamp(float(a["alpha"]), float(a["beta"])),
    "concat": _concat,
    "constexpr_affine_dequantize": _dequantized,
    "constexpr_lut_to_dense": _from_palette,
    "conv": _conv,
    "conv_transpose": _conv_transpose,
    "elu": lambda a: F.elu(a["x"], float(a["alpha"])),
    "erf": lambda a: a["x"].erf(),
    "exp": lambda a: a["x"].exp(),
    "expand_dims": _expand_dims,
    "gather": _gather,
    "gelu": _gelu,
    "layer_norm": _layer_norm,
    "leaky_relu": lambda a: F.leaky_relu(a["x"], float(a["alpha"])),
    "linear": lambda a: F.linear(a["x"], a["weight"], a.get("bias")),
    "log": lambda a: (a["x"] + a["epsilon"]).log(),
    "matmul": _matmul,
    "max_pool": _max_pool,
    "maximum": lambda a: a["x"].maximum(a["y"]),
    "minimum": lambda a: a["x"].minimum(a["y"]),
    "mul": lambda a: a["x"] * a["y"],
    "pad": _pad,
    "pow": lambda a: a["x"].pow(a["y"]),
    "prelu": lambda a: F.prelu(a["x"], a["alpha"]),
    "real_div": lambda a: a["x"] / a["y"],
    "reduce_argmax": lambda a: a["x"].argmax(a["axis"], keepdim=a["keep_dims"]),
    "reduce_l2_norm": lambda a: a["x"].norm(dim=a["axes"], keepdim=a["keep_dims"]),
    "reduce_max": lambda a: a["x"].amax(a["axes"], keepdim=a["keep_dims"]),
    "reduce_mean": lambda a: a["x"].mean(a["axes"], keepdim=a["keep_dims"]),
    "reduce_sum": lambda a: a["x"].sum(a["axes"], keepdim=a["keep_dims"]),
    "relu": lambda a: a["x"].relu(),
    "relu6": lambda a: F.relu6(a["x"]),
    "reshape": lambda a: a["x"].reshape(a["shape"]),
    "rsqrt": lambda a: (a["x"] + a["epsilon"]).rsqrt(),
    "sigmoid": lambda a: a["x"].sigmoid(),
    "sigmoid_hard": lambda a: (float(a["alpha"]) * a["x"] + float(a["beta"])).clamp(0, 1),
    "silu": lambda a: F.silu(a["x"]),
    "slice_by_index": _slice,
    "softmax": lambda a: a["x"].softmax(a["axis"]),
    "softplus": lambda a: F.softplus(a["x"]),
    "split": _split,
    "sqrt": lambda a: a["x"].sqrt(),
    "square": lambda a: a["x"].square(),
    "squeeze": lambda a: a["x"].squeeze(a["axes"]),
    "stack": lambda a: torch.stack(a["values"], dim=a["axis"]),
    "sub": lambda a: a["x"] - a["y"],
    "tanh": lambda a: a["x"].tanh(),
    "thresholded_relu": lambda a: a["x"].where(a["x"] >= float(a["alpha"]), 0),
    "tile": lambda a: a["x"].tile(a["reps"]),
    "transpose": lambda a: a["x"].permute(a["perm"]),
    "upsample_bilinear": _upsample_bilinear,
    "upsample_nearest_neighbor": _upsample_nearest,
}
