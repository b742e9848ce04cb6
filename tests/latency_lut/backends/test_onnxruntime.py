"""The real runtime: the contract, parity with torch, and the two commands on a tiny space."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

import search_spaces
from latency_lut import build, validate
from latency_lut.backends.base import FileBackend, Job, Session, blocks_job, network_job
from latency_lut.backends.onnxruntime import OnnxRuntimeBackend, _provider_shares
from latency_lut.backends.protocol import Measurement, Timing
from latency_lut.measurement.networks import measure_file
from latency_lut.tables.table import LatencyTable
from search_spaces import SearchSpace, UserError
from tests.contracts.backend import FileBackendContract
from tests.toy_family import ToySpace


class TestOnnxRuntime(FileBackendContract):
    @classmethod
    def make_backend(cls) -> FileBackend:
        return OnnxRuntimeBackend()


@pytest.mark.heavy
class TestOnnxRuntimeInt8(FileBackendContract):
    @classmethod
    def make_backend(cls) -> FileBackend:
        return OnnxRuntimeBackend(precision="int8")


def outputs(path: Path, job: Job) -> tuple[np.ndarray, np.ndarray]:
    """Of the exported model and of the module, on the same images."""
    images = torch.randn(1, *job.input_shape)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (output,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    with torch.no_grad():
        return output, job.module()(images).numpy()


@pytest.mark.parametrize("which", ["network", "chain"])
def test_the_exported_graph_is_the_module(which: str, tiny: SearchSpace, tmp_path: Path) -> None:
    attention = next(block for block in tiny.lower(tiny.largest) if block.kind == "attention")
    job = network_job(tiny, tiny.largest) if which == "network" else blocks_job([attention] * 3)
    OnnxRuntimeBackend().export(job, tmp_path / "model.onnx")
    np.testing.assert_allclose(*outputs(tmp_path / "model.onnx", job), rtol=1e-4, atol=1e-5)


class Masked(torch.nn.Module):
    """As timm's EVA and DINOv3: an argument beside the image must be no tensor."""

    def forward(self, x: torch.Tensor, is_causal: bool = False) -> torch.Tensor:
        return torch.nn.functional.scaled_dot_product_attention(x, x, x, is_causal=is_causal)


def test_arguments_beside_the_image_keep_their_defaults(tmp_path: Path) -> None:
    OnnxRuntimeBackend().export(Job((2, 8, 4), Masked), path := tmp_path / "masked.onnx")
    session = onnxruntime.InferenceSession(path)
    x = np.random.default_rng(0).standard_normal((1, 2, 8, 4), dtype=np.float32)
    (found,) = session.run(None, {session.get_inputs()[0].name: x})
    np.testing.assert_allclose(found, Masked()(torch.from_numpy(x)), rtol=1e-4, atol=1e-5)


def test_the_shares_of_execution_providers_are_told(tiny: SearchSpace) -> None:
    job = blocks_job([tiny.lower(tiny.smallest)[0]])
    assert OnnxRuntimeBackend().prepare(job).devices == {"cpu": 1.0}
    assert _provider_shares(object()) == {}, "a session of an older version"


def test_the_blocks_of_a_chain_have_weights_of_their_own(tiny: SearchSpace) -> None:
    attention = next(block for block in tiny.lower(tiny.largest) if block.kind == "attention")
    module = blocks_job([attention] * 2).module()
    first, second = (module.get_parameter(f"{i}.token_mixer.q.conv.weight") for i in range(2))
    assert not torch.equal(first, second)


def test_int8_is_quantized_and_still_the_network(tiny: SearchSpace, tmp_path: Path) -> None:
    job, path = network_job(tiny, tiny.largest), tmp_path / "model.onnx"
    OnnxRuntimeBackend(precision="int8").export(job, path)
    types = Counter(node.op_type for node in onnx.load(path).graph.node)
    assert types["QuantizeLinear"] >= types["Conv"] > 0
    int8 = [tensor for tensor in onnx.load(path).graph.initializer if tensor.data_type == onnx.TensorProto.INT8]
    assert len(int8) >= types["Conv"], "the weights of every convolution"
    quantized, whole = outputs(path, job)
    assert 0 < np.abs(quantized - whole).max() < 0.5 * np.abs(whole).max()


class FirstBlockStays(ToySpace):
    """A stem and a classifier alone, as in ToySpace, may cost less than a busy machine's noise."""

    def __init__(self, image_size: int = 32, num_classes: int = 3) -> None:
        super().__init__(image_size, num_classes)
        self.choices = tuple(
            replace(c, options=(1,)) if (c.field, c.index) == ("kept", (0,)) else c for c in self.choices
        )


def test_build_and_validate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    space = FirstBlockStays()
    monkeypatch.setitem(search_spaces.SPACES, "toy", FirstBlockStays)
    monkeypatch.chdir(tmp_path)
    build.main(["--space", "toy", "--samples", "3"])
    path = Path(f"runs/tables/toy-32px-{space.num_classes}c-onnxruntime-float32-1t.json")
    assert capsys.readouterr().out.splitlines()[-2:] == [
        str(path),
        f"next: python -m latency_lut.validate --table {path}",
    ]
    table = LatencyTable.load(path)
    table.check(space)
    assert table.provenance.runtime.runtime_version == onnxruntime.__version__
    assert table.latency_ms(space, space.largest) > 0

    validate.main(["--num-archs", "4", "--samples", "3"])
    text = capsys.readouterr().out
    assert all(word in text for word in ("MAPE", "Spearman", "Kendall", "same networks again", "MACs", "parameters"))
    validate.main(["--table", str(path), "--num-archs", "4", "--samples", "3", "--seed", "2", "--json"])
    result = json.loads(capsys.readouterr().out)
    assert result == json.loads(path.with_suffix(".validation.json").read_text())
    assert result["num_archs"] == len(result["networks"]) == 4


def test_an_onnx_file_is_timed(tiny: SearchSpace, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    OnnxRuntimeBackend().export(network_job(tiny, tiny.smallest), path)
    minimum, median, _ = measure_file(path, OnnxRuntimeBackend(), samples=3)
    assert 0 < minimum <= median


@pytest.mark.parametrize(("usual_ms", "busy"), [(1.1, False), (1.5, True)])
def test_uneven_times_of_an_onnx_file_are_a_busy_machines(
    usual_ms: float, busy: bool, tiny: SearchSpace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, timing = tmp_path / "model.onnx", Timing((usual_ms, 1.0, usual_ms))
    OnnxRuntimeBackend().export(network_job(tiny, tiny.smallest), path)

    def uneven(sessions: dict[str, Session], *_: object) -> Measurement:
        return Measurement(dict.fromkeys(sessions, timing), None, 0, anchor_spread=usual_ms)

    monkeypatch.setattr("latency_lut.measurement.networks.measure_sessions", uneven)
    assert measure_file(path, OnnxRuntimeBackend()) == (1.0, usual_ms, busy)


def test_a_file_that_is_no_onnx_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no file"):
        measure_file(tmp_path / "none.onnx", OnnxRuntimeBackend())
    (tmp_path / "bad.onnx").write_text("hello")
    with pytest.raises(UserError, match="no model that onnxruntime can load") as error:
        measure_file(tmp_path / "bad.onnx", OnnxRuntimeBackend())
    assert "\n" not in str(error.value)
