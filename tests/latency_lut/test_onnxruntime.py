"""The real runtime: the contract, parity with torch, and the two commands on a tiny space."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

import search_spaces
from latency_lut import build, validate
from latency_lut.networks import measure_networks, measure_onnx
from latency_lut.onnxruntime_backend import OnnxRuntimeBackend
from latency_lut.protocol import SystemClock
from latency_lut.table import LatencyTable
from search_spaces import SearchSpace, UserError
from tests.contracts.backend import BackendContract
from tests.latency_lut.conftest import make_tiny


class TestOnnxRuntime(BackendContract):
    @classmethod
    def make_backend(cls) -> tuple[OnnxRuntimeBackend, SystemClock]:
        return OnnxRuntimeBackend(threads=1), SystemClock()


@torch.no_grad()
def assert_same(model: bytes, module: nn.Module, shape: tuple[int, ...]) -> None:
    images = torch.randn(1, *shape)
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    (output,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    np.testing.assert_allclose(output, module.eval()(images).numpy(), rtol=1e-4, atol=1e-5)


def test_the_exported_graph_is_the_network(tiny: SearchSpace) -> None:
    model = OnnxRuntimeBackend(1).export_network(tiny, tiny.largest)
    torch.manual_seed(0)
    assert_same(model, tiny.build(tiny.largest), (3, 32, 32))


def test_the_exported_chain_is_the_blocks_with_weights_of_their_own(tiny: SearchSpace) -> None:
    attention = next(block for block in tiny.lower(tiny.largest) if block.kind == "attention")
    model = OnnxRuntimeBackend(1).export_blocks([attention] * 3)
    torch.manual_seed(0)
    modules = [attention.build() for _ in range(3)]
    first, second = (module.get_parameter("token_mixer.q.conv.weight") for module in modules[:2])
    assert not torch.equal(first, second)
    assert_same(model, nn.Sequential(*modules), attention.input_shape())


def test_exporting_leaves_random_state_and_threads_alone(tiny: SearchSpace) -> None:
    before = torch.get_rng_state()
    torch.set_num_threads(2)
    try:
        OnnxRuntimeBackend(1).export_blocks(tiny.lower(tiny.smallest)[:2])
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    assert torch.equal(before, torch.get_rng_state())


def test_build_and_validate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(search_spaces.SPACES, "tiny", make_tiny)
    monkeypatch.chdir(tmp_path)
    build.main(["--space", "tiny", "--samples", "3"])
    path = Path(f"runs/tables/tiny-32px-{make_tiny().num_classes}c-onnxruntime-1t.json")
    assert capsys.readouterr().out.splitlines()[-1] == str(path)
    table = LatencyTable.load(path)
    table.check(make_tiny())
    assert table.provenance.runtime_version == onnxruntime.__version__
    assert 0.01 < table.latency_ms(make_tiny(), make_tiny().largest) < 100

    validate.main(["--num-archs", "4", "--samples", "3"])
    text = capsys.readouterr().out
    assert all(word in text for word in ("MAPE", "Spearman", "Kendall", "same networks again", "MACs", "parameters"))
    validate.main(["--table", str(path), "--num-archs", "4", "--samples", "3", "--seed", "2", "--json"])
    result = json.loads(capsys.readouterr().out)
    assert result == json.loads(path.with_suffix(".validation.json").read_text())
    assert result["num_archs"] == len(result["networks"]) == 4


def test_networks_are_timed_in_the_order_given(tiny: SearchSpace) -> None:
    timings = measure_networks(tiny, [tiny.largest, tiny.smallest], samples=3)
    assert [len(timing.samples_ms) for timing in timings] == [3, 3]
    assert timings[0].min_ms > timings[1].min_ms, "four blocks and two attentions more"


def test_an_onnx_file_is_timed(tiny: SearchSpace, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(OnnxRuntimeBackend(1).export_network(tiny, tiny.smallest))
    minimum, median = measure_onnx(path, threads=1, samples=3)
    assert 0 < minimum <= median < 100


def test_a_file_that_is_no_onnx_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no file"):
        measure_onnx(tmp_path / "none.onnx")
    (tmp_path / "bad.onnx").write_text("hello")
    with pytest.raises(UserError, match="no ONNX model") as error:
        measure_onnx(tmp_path / "bad.onnx")
    assert "\n" not in str(error.value)
