"""ONNX with a dynamic batch: input `images` (batch, 3, R, R) normalized float32, output `logits` (batch, classes).

The exporter is `torch.onnx.export(dynamo=True)`: the older tracing exporter, given a dynamic batch, leaves the shapes
around each attention to be computed at run time. On an AMD EPYC (Zen 4), ONNX Runtime 1.31, one thread, after ONNX
Runtime's optimization: largest nano network 244 nodes and 0.886 ms instead of 308 and 0.933 ms, S0 at 224 px 211 nodes
and 11.68 ms instead of 257 and 11.87 ms. Both are right at any batch. It takes 4 s instead of 0.6 s to export.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nas.exporting.parity import Parity, compare, example_images, normalized
from nas.runs import RunInfo
from search_spaces import UserError
from search_spaces.command import quiet

BATCH_SIZES = (1, 3, 12)
TOLERANCE = 1e-4  # of the largest logit (at least of 1): float32 arithmetic in another order stays well below


def write_onnx(model: nn.Module, path: Path, image_size: int, metadata: Mapping[str, str], opset: int | None) -> None:
    """Writes `model`, in evaluation mode, with `metadata` as properties of the file.

    Args:
        opset: version of the operator set; None for the exporter's own choice.

    Raises:
        UserError: the network cannot be expressed in that operator set.
    """
    import onnx

    images = torch.zeros(2, 3, image_size, image_size)  # a batch of 1 would be taken for a constant
    batch = {0: torch.export.Dim("batch")}
    with quiet():
        program = torch.onnx.export(
            model,
            (images,),
            dynamo=True,
            input_names=["images"],
            output_names=["logits"],
            dynamic_shapes=(batch,),
            opset_version=opset,
            verbose=False,
        )
    assert program is not None
    proto = program.model_proto
    version = next(entry.version for entry in proto.opset_import if entry.domain == "")
    if opset not in (None, version):
        raise UserError(f"--opset is {opset}, which the exporter cannot do; leave the flag out or give {version}")
    _strip(proto)
    images_are = "pixels of 0 to 1, less mean, over std; preprocessing says which"
    onnx.helper.set_model_props(proto, {**metadata, "input": images_are})
    onnx.checker.check_model(proto, full_check=True)
    onnx.save(proto, path)


def _strip(proto: Any) -> None:
    """Drops the exporter's notes on every node: they hold file paths of this machine, and a sixth of a small file."""
    graph = proto.graph
    for item in (*graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer, graph):
        del item.metadata_props[:]
        item.doc_string = ""


def check_onnx(path: Path, model: nn.Module, info: RunInfo) -> Parity:
    """The file in ONNX Runtime against `model`, at every batch of BATCH_SIZES.

    Raises:
        UserError: they differ by more than TOLERANCE.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def run(batch: Tensor) -> np.ndarray:
        return np.asarray(session.run(["logits"], {"images": batch.numpy()})[0])

    images = normalized(example_images(sum(BATCH_SIZES), info.image_size), info.mean, info.std)
    parity = compare(run, model, images.split(BATCH_SIZES))
    with torch.inference_mode():
        limit = TOLERANCE * max(1.0, float(model(images).abs().max()))
    if parity.max_abs_diff > limit:
        raise UserError(
            f"ONNX Runtime's logits differ from PyTorch's by {parity.max_abs_diff:.2g}, allowed is {limit:.2g}; "
            "try another --opset"
        )
    return parity
