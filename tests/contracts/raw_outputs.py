"""What a model of boxes or masks must do with its raw outputs: be a file that computes the same."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from tests.rounding import assert_equal_but_for_rounding


def assert_exports(model: nn.Module, size: int, folder: Path) -> None:
    """In ONNX Runtime, for images of that height and width."""
    import onnxruntime

    images = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = model(images)
    torch.onnx.export(model, (images,), folder / "model.onnx", dynamo=False, input_names=["images"])
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    found = session.run(None, {"images": images.numpy()})
    outputs = expected if isinstance(expected, tuple) else (expected,)
    assert len(found) == len(outputs)
    for made, wanted in zip(found, outputs, strict=True):
        assert_equal_but_for_rounding(torch.from_numpy(made), wanted, model)
