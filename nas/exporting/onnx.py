"""ONNX with a dynamic batch: input `images` (batch, 3, R, R) normalized float32, output `logits` (batch, classes).

Input and output are float32 in every precision. Float16 and int8 files are made of the float32 one by ONNX Runtime's
own tools.

The exporter is `torch.onnx.export(dynamo=True)`: the older tracing exporter, given a dynamic batch, leaves the shapes
around each attention to be computed at run time. On an AMD EPYC (Zen 4), ONNX Runtime 1.31, one thread, after ONNX
Runtime's optimization: largest nano network 244 nodes and 0.886 ms instead of 308 and 0.933 ms, S0 at 224 px 211 nodes
and 11.68 ms instead of 257 and 11.87 ms. Both are right at any batch. It takes 4 s instead of 0.6 s to export.
"""

from __future__ import annotations

import ast
import io
import math
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from latency_lut.backends.onnxruntime import quantize_onnx, session_options
from nas.exporting.parity import Answers, Parity, compare, example_images, limit, normalized, normalized_first
from nas.objective.precisions import Precision
from nas.runs import RunInfo
from search_spaces import UserError
from search_spaces.command import quiet

BATCH_SIZES = (1, 3, 12)
TRACED_OPSET = 17
SCOPES = "pkg.torch.onnx.name_scopes"  # the exporter's note on a node: the modules that it is in, from the outermost
# Of the largest logit (at least of 1): float32 arithmetic in another order stays well below, float16 has 3 digits.
# What int8 loses is for the accuracy to say.
TOLERANCE = {"float32": 1e-4, "float16": 0.05, "int8": math.inf}


def write_onnx(model: nn.Module, path: Path, image_size: int, metadata: Mapping[str, str], opset: int | None) -> None:
    """Writes `model`, in evaluation mode, with `metadata` as properties of the file.

    Args:
        opset: version of the operator set; None for the exporter's own choice.

    Raises:
        UserError: the network cannot be expressed in that operator set.
    """
    images = torch.zeros(2, 3, image_size, image_size)  # a batch of 1 would be taken for a constant
    save_onnx(to_onnx(model, images, ["logits"], {0: torch.export.Dim("batch")}, opset), path, metadata)


def to_onnx(
    model: nn.Module, images: Tensor, outputs: Sequence[str], dynamic: Mapping[int, Any] | None, opset: int | None
) -> Any:
    """The ONNX model of a network in evaluation mode; its nodes are named after the modules that they are of.

    Args:
        images: an example of the input, which is called `images`.
        outputs: their names.
        dynamic: axes of the input that may have any length; None if none may.
        opset: as `write_onnx` has it, errors too.
    """
    with quiet():
        program = torch.onnx.export(
            model,
            (images,),
            dynamo=True,
            input_names=["images"],
            output_names=list(outputs),
            dynamic_shapes=(dynamic,),
            opset_version=opset,
            verbose=False,
        )
    assert program is not None
    proto = program.model_proto
    version = next(entry.version for entry in proto.opset_import if entry.domain == "")
    if opset not in (None, version):
        raise UserError(f"--opset is {opset}, which the exporter cannot do; leave the flag out or give {version}")
    _name_after_modules(proto.graph)
    _strip(proto)
    return proto


def traced_onnx(model: nn.Module, images: Tensor, outputs: Sequence[str]) -> Any:
    """As `to_onnx`, by the older exporter, which follows what is computed of the example.

    It is for networks of which torch.export cannot say what they compute without the image, as it tells how many
    places remain after NMS: torchvision's detectors have their own ways through this exporter.
    """
    import onnx

    file = io.BytesIO()
    with quiet(), warnings.catch_warnings():  # of shapes that are constants, which they are meant to be
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model,
            (images,),
            file,  # type: ignore[arg-type]
            dynamo=False,
            input_names=["images"],
            output_names=list(outputs),
            opset_version=TRACED_OPSET,
        )
    proto = onnx.load_from_string(file.getvalue())
    _strip(proto)
    return proto


def save_onnx(proto: Any, path: Path, metadata: Mapping[str, str]) -> None:
    """Checks the model and writes it, with `metadata` as properties of the file."""
    import onnx

    images_are = "pixels of 0 to 1, less mean, over std; preprocessing says which"
    onnx.helper.set_model_props(proto, {**metadata, "input": images_are})
    onnx.checker.check_model(proto, full_check=True)
    onnx.save(proto, path)


def _name_after_modules(graph: Any) -> None:
    """Calls each node by the module that it is of, and its type: "blocks.0.0.bn1/Conv". Batch normalization that is
    folded into a convolution leaves its own name.
    """
    count: Counter[str] = Counter()
    for node in graph.node:
        scopes = next((entry.value for entry in node.metadata_props if entry.key == SCOPES), "[]")
        modules = [name for name in ast.literal_eval(scopes)[:-1] if name]
        name = f"{modules[-1] if modules else 'network'}/{node.op_type}"
        count[name] += 1
        node.name = name if count[name] == 1 else f"{name}_{count[name]}"


def write_float16(source: Path, target: Path) -> None:
    """The float32 file `source` with weights and arithmetic in float16."""
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    with quiet(), warnings.catch_warnings():  # of weights that float16 has no number for: check_onnx tells
        warnings.simplefilter("ignore")
        onnx.save(convert_float_to_float16(onnx.load(source), keep_io_types=True), target)


def write_int8(source: Path, target: Path, images: Sequence[np.ndarray], keep_float: Sequence[str]) -> None:
    """The float32 file `source` in QDQ form: weights and activations in int8.

    Args:
        images: to calibrate on, each (1, 3, R, R) normalized.
        keep_float: modules that stay as they are, e.g. "blocks.2" or "classifier".

    Raises:
        UserError: the network has no such module.
    """
    import onnx

    names = [node.name for node in onnx.load(source).graph.node]
    kept = {module: [name for name in names if is_of(name, module)] for module in keep_float}
    if unknown := [module for module, found in kept.items() if not found]:
        some = ", ".join(dict.fromkeys(map(module_of, names)))
        raise UserError(f"--keep-float is {unknown[0]!r}, which the network does not have; its modules are {some}")
    quantize_onnx(source, target, images, [name for found in kept.values() for name in found])
    proto, facts = onnx.load(target), onnx.load(source).metadata_props
    onnx.helper.set_model_props(proto, {entry.key: entry.value for entry in facts})
    onnx.save(proto, target)


def module_of(node: str) -> str:
    """The module that a node of that name, as `_name_after_modules` gives them, is of."""
    return node.split("/")[0]


def is_of(node: str, module: str) -> bool:
    """Whether a node of that name belongs to the module, or to one within it."""
    return module_of(node) == module or node.startswith(f"{module}.")


def _strip(proto: Any) -> None:
    """Drops the exporter's notes on every node: they hold file paths of this machine, and a sixth of a small file."""
    graph = proto.graph
    for item in (*graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer, graph):
        del item.metadata_props[:]
        item.doc_string = ""


def answers(path: Path, info: RunInfo) -> Answers:
    """What the file answers in ONNX Runtime."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, session_options(threads=0), ["CPUExecutionProvider"])

    def answer(images: Tensor) -> np.ndarray:
        return np.asarray(session.run(["logits"], {"images": normalized(images, info.mean, info.std).numpy()})[0])

    return answer


def check_onnx(path: Path, model: nn.Module, info: RunInfo, precision: Precision = "float32") -> Parity:
    """The file in ONNX Runtime against `model`, at every batch of BATCH_SIZES.

    Raises:
        UserError: they differ by more than TOLERANCE.
    """
    images = example_images(sum(BATCH_SIZES), info.image_size)
    reference = normalized_first(model, info)
    parity = compare(answers(path, info), reference, images.split(BATCH_SIZES))
    if parity.max_abs_diff > (allowed := limit(TOLERANCE[precision], reference, images)):
        remedy = "try another --opset" if precision == "float32" else "activations or weights are beyond float16"
        differ = f"ONNX Runtime's logits differ from PyTorch's by {parity.max_abs_diff:.2g}"
        raise UserError(f"{differ}, allowed is {allowed:.2g}; {remedy}")
    return parity
