"""Executes Core ML's intermediate language (MIL) in PyTorch, operator by operator, where Core ML cannot run.

Meanings are those of coremltools' operator reference (`coremltools.converters.mil.mil.ops.defs`); constants and casts
carry their precision, so a float16 program is computed in float16. It knows the operators our networks convert to.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

Values = dict[str, Any]


def run_program(program: Any, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors that the program ends in; those of a classifier are named `probabilities`.

    Raises:
        NotImplementedError: an operator that this module does not know yet, by name.
    """
    function = program.functions["main"]
    values: dict[Any, Any] = {function.inputs[name]: tensor for name, tensor in inputs.items()}
    for op in function.operations:
        if op.op_type == "const":
            continue
        arguments = {name: _argument(source, values) for name, source in op.inputs.items()}
        if op.op_type == "classify":
            return {"probabilities": arguments["probabilities"]}
        if op.op_type not in OPERATORS:
            raise NotImplementedError(f"MIL operator {op.op_type}; add it to nas/mil.py")
        (output,) = op.outputs
        result = OPERATORS[op.op_type](arguments)
        assert tuple(result.shape) == tuple(output.shape), (op.name, result.shape, output.shape)
        values[output] = result
    return {output.name: values[output] for output in function.outputs}


def _argument(source: Any, values: dict[Any, Any]) -> Any:
    """A tensor computed before, or a constant: weights as tensors, all else as Python values."""
    if source in values:
        return values[source]
    if not hasattr(source, "val"):  # a tuple of variables
        return [_argument(item, values) for item in source]
    value = source.val
    if isinstance(value, np.ndarray | np.generic) and np.issubdtype(value.dtype, np.floating):
        return torch.from_numpy(np.array(value))
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value


def _conv(a: Values) -> Tensor:
    top, bottom, left, right = a["pad"] if a["pad_type"] == "custom" else (0, 0, 0, 0)
    assert a["pad_type"] in ("custom", "valid") and (top, left) == (bottom, right), a["pad_type"]
    return F.conv2d(a["x"], a["weight"], a.get("bias"), a["strides"], (top, left), a["dilations"], a["groups"])


def _avg_pool(a: Values) -> Tensor:
    assert not any(a["pad"]) and not a["ceil_mode"]
    return F.avg_pool2d(a["x"], a["kernel_sizes"], a["strides"])


def _upsample(a: Values) -> Tensor:
    scale = (float(a["scale_factor_height"]), float(a["scale_factor_width"]))
    return F.interpolate(a["x"], scale_factor=scale, mode="bilinear", align_corners=a["align_corners"])


def _batch_norm(a: Values) -> Tensor:
    return F.batch_norm(a["x"], a["mean"], a["variance"], a["gamma"], a["beta"], eps=float(a["epsilon"]))


def _matmul(a: Values) -> Tensor:
    x = a["x"].transpose(-1, -2) if a["transpose_x"] else a["x"]
    return x @ (a["y"].transpose(-1, -2) if a["transpose_y"] else a["y"])


def _gelu(a: Values) -> Tensor:
    assert a["mode"] == "EXACT"
    return F.gelu(a["x"])


OPERATORS: dict[str, Callable[[Values], Tensor]] = {
    "add": lambda a: a["x"] + a["y"],
    "avg_pool": _avg_pool,
    "batch_norm": _batch_norm,
    "cast": lambda a: a["x"].to({"fp16": torch.float16, "fp32": torch.float32}[a["dtype"]]),
    "conv": _conv,
    "gelu": _gelu,
    "linear": lambda a: F.linear(a["x"], a["weight"], a.get("bias")),
    "matmul": _matmul,
    "mul": lambda a: a["x"] * a["y"],
    "reduce_mean": lambda a: a["x"].mean(a["axes"], keepdim=a["keep_dims"]),
    "reshape": lambda a: a["x"].reshape(a["shape"]),
    "softmax": lambda a: a["x"].softmax(a["axis"]),
    "sub": lambda a: a["x"] - a["y"],
    "transpose": lambda a: a["x"].permute(a["perm"]),
    "upsample_bilinear": _upsample,
}
