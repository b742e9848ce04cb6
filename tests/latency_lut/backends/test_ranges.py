"""What int8 has as the range of an activation, and that ONNX Runtime's files have it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime

from latency_lut.backends.onnxruntime import OnnxRuntimeBackend
from latency_lut.backends.ranges import ONE_IN, spanned
from tests.latency_lut.rare_images import errors_of_rare_images


def test_one_image_in_fifty_is_left_out_at_each_end() -> None:
    rng = np.random.default_rng(0)
    least, largest = rng.permutation(np.arange(-100.0, 0.0)), rng.permutation(np.arange(1.0, 101.0))
    assert spanned(least, largest) == (-98.0, 98.0)
    assert spanned(np.array([-3.0, -1.0]), np.array([4.0, 9.0])) == (-3.0, 9.0)
    few = np.arange(ONE_IN - 1.0)
    assert spanned(few, few) == (0.0, ONE_IN - 2)


def test_an_onnx_file_answers_all_but_the_rarest_image(tmp_path: Path) -> None:
    def output(path: Path, image: np.ndarray) -> np.ndarray:
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        return np.asarray(session.run(None, {session.get_inputs()[0].name: image})[0])

    ten, hundred = errors_of_rare_images(OnnxRuntimeBackend(precision="int8"), tmp_path / "int8.onnx", output)
    assert ten < 0.05 and hundred > 0.5
