"""Networks of other mixes of attention and FFN layers, and the page of which operators take their time."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import timm
import torch

from latency_lut.backends.base import Job, OperatorTime
from scripts.device_studies import attention
from scripts.device_studies.attention import Mix, Times
from scripts.device_studies.mixes import AttentionLayer, FfnLayer, depths, mixed, shared_out
from search_spaces import UserError
from tests.latency_lut.profiling.test_profile import FakeProfiler, timed

VIT, SWIN = "test_vit", "swin_tiny_patch4_window7_224"


def test_as_many_of_both_are_timms_network() -> None:
    stages = depths(VIT)
    torch.manual_seed(0)
    ours = mixed(VIT, stages, stages).eval()
    torch.manual_seed(0)
    theirs = timm.create_model(VIT).eval()
    x = torch.rand(1, 3, 160, 160)
    with torch.no_grad():
        assert torch.equal(ours(x), theirs(x))


def test_a_swin_has_more_layers_of_one_kind_in_stages_than_blocks() -> None:
    with torch.device("meta"):
        model = mixed(SWIN, (1, 1, 2, 0), (3, 3, 7, 2))
        assert model(torch.zeros(1, 3, 224, 224)).shape == (1, 1000)
    kinds = [type(module) for module in model.modules() if isinstance(module, AttentionLayer | FfnLayer)]
    assert (kinds.count(AttentionLayer), kinds.count(FfnLayer)) == (4, 15)
    assert kinds[:4] == [FfnLayer, AttentionLayer, FfnLayer, FfnLayer], "spread evenly"


@pytest.mark.parametrize(("total", "expected"), [(12, (2, 2, 6, 2)), (4, (1, 1, 2, 0)), (0, (0, 0, 0, 0))])
def test_layers_are_shared_out_as_the_stages_have_them(total: int, expected: tuple[int, ...]) -> None:
    assert shared_out(total, (2, 2, 6, 2)) == expected


def test_the_nearest_mix_has_the_share_and_the_time() -> None:
    times = Times.of(12, whole=37.0, without_attention=13.0, without_ffn=25.0)
    assert times == Times(1.0, 2.0, 1.0)
    assert times.nearest(0.2, 1 + 3 * 2 + 12, 12) == Mix(3, 12)
    assert times.nearest(0.6, 1 + 6 * 2 + 4, 12) == Mix(6, 4)


def one_each(job: Job) -> tuple[OperatorTime, ...]:
    """1 ms for each layer, half of it in a softmax for each attention."""
    layers = [type(module) for module in job.module().modules()]
    attending = [("MatMul", 0.5), ("Softmax", 0.5)] * layers.count(AttentionLayer)
    return timed(("Conv", 0.5), *attending, *[("MatMul", 1.0)] * layers.count(FfnLayer))


def test_the_page_shows_how_much_is_memory_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(attention, "make_backend", lambda *_, **__: FakeProfiler(operators=one_each))
    out = tmp_path / "a.html"
    attention.main(["--models", VIT, "--backends", "fake", "--repeats", "2", "--out", str(out)])
    printed, page = capsys.readouterr().out, out.read_text(encoding="utf-8")
    (report,) = json.loads(out.with_suffix(".json").read_text())["studies"]
    for network in report["networks"]:
        softmaxes = sum(operator["kind"] == "softmax" for operator in network["operators"])
        assert network["memory_bound"]["ms"] == pytest.approx(0.5 * softmaxes)
    assert [network["name"] for network in report["networks"]][1:] == [
        f"{speed}x, {share} MHSA" for speed in ("1.25", "1.5") for share in ("20%", "40%", "60%")
    ]
    assert "1.25x as fast, time in memory-bound operators: the less attention, the less" in printed
    assert "softmax (memory-bound)" in page
    assert '["whole","1.25x, 20% MHSA"' in page.replace('", "', '","'), "named as in the table"
    assert '<abbr title="multi-head self-attention' in page


def test_a_runtime_that_is_not_installed_is_left_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(self: object) -> None:
        raise UserError("openvino is not installed; pip install openvino")

    monkeypatch.setattr("latency_lut.backends.openvino.OpenVinoBackend.describe", missing)
    found = attention.backends(attention.Config(backends=("openvino", "torch")))
    assert [backend.name for backend in found] == ["torch"]
    assert "without openvino: openvino is not installed" in capsys.readouterr().out
    with pytest.raises(UserError, match="none of --backends openvino runs here"):
        attention.backends(attention.Config(backends=("openvino",)))
