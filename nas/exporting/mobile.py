"""LiteRT and ExecuTorch, converted and quantized as for their latency tables: batch 1, normalized float32 to logits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from torch import Tensor

from latency_lut.backends.base import FileBackend, Job
from latency_lut.backends.registry import make_backend
from nas.exporting.parity import Answers, Parity, compare, example_images, limit, normalized, normalized_first
from nas.exporting.winner import Exportable
from nas.objective.precisions import Precision
from nas.runs import RunInfo
from search_spaces import UserError

Mobile = Literal["litert", "executorch"]
NUM_IMAGES = 8
TOLERANCE = 1e-3  # of the largest logit (at least of 1) of a float32 file: XNNPACK orders sums in ways of its own


def backend(name: Mobile, precision: Precision, threads: int = 1) -> FileBackend:
    made = make_backend(name, threads, precision)
    assert isinstance(made, FileBackend)
    return made


def write_mobile(
    name: Mobile, network: Exportable, path: Path, precision: Precision, images: Sequence[np.ndarray]
) -> None:
    """Writes a .tflite or .pte file.

    Args:
        images: to calibrate int8 on, each (1, 3, R, R) normalized.

    Raises:
        UserError: the converter is not installed here.
    """
    size = network.info.image_size
    backend(name, precision).export(Job((3, size, size), network.model, images=images, float_ends=True), path)


def answers(name: Mobile, path: Path, info: RunInfo) -> Answers:
    """What the file answers in its own runtime, an image at a time."""
    run = backend(name, "float32").answering(path)

    def answer(images: Tensor) -> np.ndarray:
        return np.concatenate([run(image[None].numpy()) for image in normalized(images, info.mean, info.std)])

    return answer


def check_mobile(name: Mobile, path: Path, network: Exportable, precision: Precision) -> Parity:
    """The file in its runtime against the network.

    Raises:
        UserError: the logits of a float32 file differ by more than TOLERANCE.
    """
    info = network.info
    images, reference = example_images(NUM_IMAGES, info.image_size), normalized_first(network.model(), info)
    parity = compare(answers(name, path, info), reference, [images])
    if precision == "float32" and parity.max_abs_diff > (allowed := limit(TOLERANCE, reference, images)):
        raise UserError(f"its logits differ from PyTorch's by {parity.max_abs_diff:.2g}, allowed is {allowed:.2g}")
    return parity
