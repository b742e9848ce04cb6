"""What a model takes of a real process's memory."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch import nn

from latency_lut.backends.base import Job
from latency_lut.backends.onnxruntime import OnnxRuntimeBackend, export_onnx
from latency_lut.measurement import memory
from latency_lut.measurement.memory import peak_memory


def export(path: Path, width: int) -> Path:
    export_onnx(Job((3, 8, 8), lambda: nn.Sequential(nn.Flatten(), nn.Linear(192, width), nn.Linear(width, 64))), path)
    return path


@pytest.mark.skipif(not memory.RESET.exists(), reason="not on Linux")
def test_weights_count_and_the_runtime_does_not(tmp_path: Path) -> None:
    backend = OnnxRuntimeBackend()
    small, large = export(tmp_path / "small.onnx", 8), export(tmp_path / "large.onnx", 50_000)
    little, much = peak_memory(small, backend), peak_memory(large, backend)
    assert little is not None and much is not None
    assert 0 < little < 40e6
    assert large.stat().st_size < much - little + 10e6 < 5 * large.stat().st_size


def test_where_it_cannot_be_told_nothing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert peak_memory(tmp_path / "none.onnx", OnnxRuntimeBackend()) is None
    monkeypatch.setattr(memory, "RESET", tmp_path / "none")
    assert peak_memory(tmp_path / "none.onnx", OnnxRuntimeBackend()) is None
