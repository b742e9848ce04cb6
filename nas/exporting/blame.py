"""Which parts of a network cost an int8 file its accuracy: each in turn is left in float32."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from latency_lut.backends.onnxruntime import session_options
from nas.exporting.onnx import module_of

WORST = 3  # that are named
NUM_IMAGES = 64


@dataclass(frozen=True)
class Blame:
    """The share of the squared error of int8 logits that goes when a module alone stays float32, the worst first."""

    shares: dict[str, float]

    def __str__(self) -> str:
        worst = ", ".join(f"{name} ({100 * share:.0f} %)" for name, share in self.shares.items())
        return f"most of int8's error comes from {worst}: --keep-float {' '.join(self.shares)} leaves them in float32"


def blame(float32: Path, int8: Path, images: np.ndarray) -> Blame:
    """The modules that cost an int8 file most, one pass of leaving one out.

    Args:
        float32: the file that `int8` was made of, with nodes named after modules; another is written beside it.
        images: (count, 3, R, R) normalized.
    """
    import onnx
    from onnxruntime.quantization.shape_inference import quant_pre_process

    images = images[:: max(1, len(images) // NUM_IMAGES)]
    prepared = float32.with_name("prepared.onnx")
    quant_pre_process(float32, prepared, skip_symbolic_shape=True)
    whole, quantized = onnx.load(prepared), onnx.load(int8)
    wanted = _logits(whole, images)
    full = _error(quantized, images, wanted)
    shares = {
        module: 1 - _error(_with_float(quantized, whole, module), images, wanted) / full
        for module in dict.fromkeys(module_of(node.name) for node in whole.graph.node)
        if any(is_quantized(node) for node in quantized.graph.node if module_of(node.name) == module)
    }
    worst = sorted(shares, key=lambda module: shares[module], reverse=True)[:WORST]
    return Blame({module: shares[module] for module in worst})


def is_quantized(node: Any) -> bool:
    """Whether a node of an ONNX file takes what was in int8."""
    return any(name.endswith("_DequantizeLinear_Output") for name in node.input)


def _with_float(quantized: Any, whole: Any, module: str) -> Any:
    """A copy in which the nodes of a module take what they take in the float32 file."""
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(quantized)
    inputs = {node.name: list(node.input) for node in whole.graph.node if module_of(node.name) == module}
    there = {tensor.name for tensor in copy.graph.initializer} | {n for node in copy.graph.node for n in node.output}
    for node in copy.graph.node:
        if node.name in inputs:
            del node.input[:]
            node.input.extend(inputs[node.name])
    needed = {name for names in inputs.values() for name in names} - there
    copy.graph.initializer.extend(tensor for tensor in whole.graph.initializer if tensor.name in needed)
    return copy


def _error(proto: Any, images: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.square(_logits(proto, images) - wanted).mean())


def _logits(proto: Any, images: np.ndarray) -> np.ndarray:
    import onnxruntime

    session = onnxruntime.InferenceSession(proto.SerializeToString(), session_options(1), ["CPUExecutionProvider"])
    return np.asarray(session.run(["logits"], {"images": images})[0])
