"""LiteRT and ExecuTorch, converted and quantized as for their latency tables: batch 1, normalized float32 to logits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from torch import Tensor, nn

from latency_lut.backends.base import FileBackend, Job
from latency_lut.backends.registry import make_backend
from nas.exporting.parity import Answers, Parity, compare, example_images, limit, normalized, normalized_first
from nas.exporting.winner import Exportable
from nas.objective.precisions import Precision
from nas.runs import RunInfo
from search_spaces import UserError

Mobile = Literal["litert", "executorch"]
NUM_IMAGES = 8
# Of the largest logit (at least of 1): XNNPACK orders sums in ways of its own, float16 has 3 digits. What int8 loses is
# for the accuracy to say.
TOLERANCE = {"float32": 1e-3, "float16": 0.05, "int8": math.inf}


class _Half(nn.Module):
    """Computes in float16 between float32 ends."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.half()

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x.half()).float()


def backend(name: Mobile, precision: Precision, threads: int = 1) -> FileBackend:
    made = make_backend(name, threads, "int8" if precision == "int8" else "float32")  # which runs float16 as it is
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

    def build() -> nn.Module:
        return _Half(network.model()).eval() if precision == "float16" else network.model()

    backend(name, precision).export(Job((3, size, size), build, images=images, float_ends=True), path)


def answers(name: Mobile, path: Path, info: RunInfo, threads: int = 1) -> Answers:
    """What the file answers in its own runtime, an image at a time.

    Args:
        threads: of the runtime; ExecuTorch has one number of them in a process, also for what is timed.
    """
    run = backend(name, "float32", threads).answering(path)

    def answer(images: Tensor) -> np.ndarray:
        return np.concatenate([run(image[None].numpy()) for image in normalized(images, info.mean, info.std)])

    return answer


def check_mobile(name: Mobile, path: Path, network: Exportable, precision: Precision, threads: int = 1) -> Parity:
    """The file in its runtime, with so many threads, against the network.

    Raises:
        UserError: the logits differ by more than TOLERANCE.
    """
    info = network.info
    images, reference = example_images(NUM_IMAGES, info.image_size), normalized_first(network.model(), info)
    parity = compare(answers(name, path, info, threads), reference, [images])
    if parity.max_abs_diff > (allowed := limit(TOLERANCE[precision], reference, images)):
        beyond = "; activations or weights are beyond float16" if precision == "float16" else ""
        differ = f"its logits differ from PyTorch's by {parity.max_abs_diff:.2g}"
        raise UserError(f"{differ}, allowed is {allowed:.2g}{beyond}")
    return parity
