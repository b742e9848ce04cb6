"""Operators by kind: real ones of ONNX Runtime, known ones of a fake runtime, and what is concluded from them."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import search_spaces
from latency_lut.backends.base import Job, OperatorTime, Session, network_job
from latency_lut.backends.onnxruntime import OnnxRuntimeBackend, _operator_times
from latency_lut.backends.openvino import OpenVinoBackend
from latency_lut.backends.operator_kinds import KINDS, MEMORY_BOUND, operator_kind
from latency_lut.backends.protocol import Settings
from latency_lut.measurement.timm_models import timm_job
from latency_lut.profile import main
from latency_lut.profiling import profile
from latency_lut.profiling.report import Network, Profile
from search_spaces import SearchSpace, UserError, get_space
from tests.latency_lut.conftest import make_tiny
from tests.latency_lut.fake import FakeMachine


def timed(*rows: tuple[str, float]) -> tuple[OperatorTime, ...]:
    return tuple(OperatorTime(f"/{i}/{type_name}", type_name, ms) for i, (type_name, ms) in enumerate(rows))


def attention_only_in_memory(job: Job) -> tuple[OperatorTime, ...]:
    """1 ms of convolution and 0.5 ms of reshaping in every network, 0.25 ms of softmax for each attention block."""
    blocks = sum(block.kind == "attention" for block in job.blocks)
    return timed(("Conv", 1.0), ("Transpose", 0.5), *[("Softmax", 0.25)] * blocks)


@dataclass
class FakeProfiler(FakeMachine):
    """Reports these operators, each longer by what profiling takes.

    Args:
        slowdown: of two in three runs without profiling.
    """

    operators: Any = attention_only_in_memory
    profiling_ms: float = 0.0
    slowdown: float = 1.0
    runs: int = 0
    profiled: list[int] = field(default_factory=list)
    timed: list[int] = field(default_factory=list)

    def prepare(self, job: Job) -> Session:
        total_ns = round(1e6 * sum(operator.ms for operator in self.operators(job)))

        def run(repeats: int) -> None:
            self.runs += 1
            self.timed.append(repeats)
            self._now_ns += round(repeats * total_ns * (self.slowdown if self.runs % 3 else 1))

        return Session(run)

    def profile(self, job: Job, repeats: int) -> tuple[OperatorTime, ...]:
        self.profiled.append(repeats)
        return tuple(OperatorTime(o.name, o.type, o.ms + self.profiling_ms, o.detail) for o in self.operators(job))


def use(backend: FakeMachine, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setitem(search_spaces.SPACES, "tiny", make_tiny)
    monkeypatch.setattr(profile.ProfileConfig, "make_backend", lambda _: backend)
    monkeypatch.chdir(folder)


def run_json(argv: list[str], capsys: pytest.CaptureFixture[str]) -> Any:
    main([*argv, "--json"])
    return json.loads(capsys.readouterr().out)


def test_the_network_is_timed_by_means_as_its_operators_are(tiny: SearchSpace, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = FakeProfiler()
    monkeypatch.setattr(FakeProfiler, "settings", lambda _, samples: Settings(samples, min_sample_ms=9.9))
    (made,), _ = profile.profile_networks([Network("smallest", network_job(tiny, tiny.smallest))], backend, repeats=3)
    together = -(-9.9 // made.network_ms)
    assert backend.timed[-2:] == [together, together] and together > 1


# ---- kinds


class ConvsAndAttention(nn.Module):
    """One operator of every kind that a convolution can be, and an attention that cannot be fused away."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = nn.Conv2d(3, 16, 3, padding=1)
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.grouped = nn.Conv2d(16, 16, 3, padding=1, groups=2)
        self.pointwise = nn.Conv2d(16, 16, 1)
        self.fc = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pointwise(self.grouped(self.depthwise(self.dense(x))))
        tokens = x.flatten(2).transpose(1, 2)
        attention = (tokens @ tokens.transpose(1, 2)).softmax(-1)
        return self.fc(torch.sigmoid((attention @ tokens).mean(1)))


def test_real_operators_are_told_apart() -> None:
    operators = OnnxRuntimeBackend().profile(Job((3, 8, 8), ConvsAndAttention), repeats=4)
    kinds = [operator_kind(operator) for operator in operators]
    convolutions = [kind for kind in kinds if kind.endswith("convolution")]
    assert convolutions == ["convolution", "depthwise convolution", "convolution", "pointwise convolution"]
    assert kinds.count("softmax") == kinds.count("activation") == 1
    assert kinds.count("linear, matrix product") == 3
    assert kinds.index("softmax") < kinds.index("activation"), "in order of execution"
    assert "reshape, copy" in kinds and "other" not in kinds
    assert all(operator.ms >= 0 and operator.name for operator in operators)
    made = Profile(Network("net", Job((3, 8, 8), ConvsAndAttention)), 0.01, operators)
    assert sum(row.operators for row in made.kinds) == len(operators)
    for share in ("share", "corrected_share"):
        assert sum(getattr(row, share) for row in made.kinds) == pytest.approx(1)


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_every_operator_of_the_spaces_is_known(precision: str, tiny: SearchSpace) -> None:
    operators = OnnxRuntimeBackend(precision=precision).profile(network_job(tiny, tiny.largest), repeats=2)
    kinds = {operator_kind(operator) for operator in operators}
    assert "other" not in kinds
    assert {"depthwise convolution", "pointwise convolution", "convolution", "softmax", "reshape, copy"} <= kinds


class ComputedWeights(nn.Module):
    """A convolution whose weights depend on the image, as in CondConv."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 3, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight * x.mean())


def test_a_convolution_of_unknown_weights_has_no_detail() -> None:
    operators = OnnxRuntimeBackend().profile(Job((3, 8, 8), ComputedWeights), repeats=2)
    assert [operator.detail for operator in operators if "Conv" in operator.type] == [""]


def test_disturbed_runs_and_first_runs_do_not_count() -> None:
    args: dict[str, Any] = {"cat": "Node", "args": {"op_name": "Conv", "node_index": "7"}}
    kernels = [{**args, "name": "/c_kernel_time", "dur": us} for us in (900, 6, 5000, 5, 4)]
    others = [{"cat": "Session", "name": "run", "dur": 9000}, {**args, "name": "/c_fence_before", "dur": 9000}]
    times = _operator_times([*others, *kernels], 4, {"/c": "dense"})
    assert times == (OperatorTime("/c", "Conv", 0.0045, "dense"),)


def test_attention_that_openvino_fuses_is_no_element_wise_work() -> None:
    pytest.importorskip("openvino")
    operators = OpenVinoBackend().profile(timm_job("timm/vit_tiny_patch16_224", image_size=32), repeats=2)
    fused = [operator for operator in operators if operator.detail == "attention"]
    assert len(fused) == 12, "one a block"
    assert not {operator.type for operator in operators if operator_kind(operator) == "other"}


@pytest.mark.parametrize(
    ("type_name", "detail", "kind"),
    [
        ("FusedConv", "depthwise", "depthwise convolution"),
        ("QLinearConv", "pointwise", "pointwise convolution"),
        ("NhwcFusedConv", "dense", "convolution"),
        ("QuickGelu", "", "activation"),
        ("SkipLayerNormalization", "", "normalization"),
        ("ReorderOutput", "", "reshape, copy"),
        ("Resize", "", "pooling, resizing"),
        ("GroupConvolution", "depthwise", "depthwise convolution"),
        ("Convolution", "grouped", "convolution"),
        ("FullyConnected", "", "linear, matrix product"),
        ("Subgraph", "", "element-wise"),
        ("Subgraph", "attention", "linear, matrix product"),
        ("Eltwise", "", "element-wise"),
        ("MVN", "", "normalization"),
        ("Interpolate", "", "pooling, resizing"),
        ("aten::mkldnn_convolution", "pointwise", "pointwise convolution"),
        ("aten::_conv_depthwise2d", "", "depthwise convolution"),
        ("aten::addmm", "", "linear, matrix product"),
        ("aten::_softmax", "", "softmax"),
        ("aten::add_", "", "element-wise"),
        ("aten::native_batch_norm", "", "normalization"),
        ("aten::clone", "", "reshape, copy"),
        ("mkldnn::_convolution_pointwise", "", "convolution"),
        ("cpp_fused_add_native_layer_norm_3", "", "normalization"),
        ("triton_poi_fused_gelu_mul_0", "", "activation"),
        ("Conveyor", "", "other"),
    ],
)
def test_kinds_of_every_runtime(type_name: str, detail: str, kind: str) -> None:
    assert operator_kind(OperatorTime("", type_name, 1.0, detail)) == kind


def test_kinds_are_listed_once() -> None:
    assert len(set(KINDS)) == len(KINDS)
    assert set(KINDS) > MEMORY_BOUND


# ---- one network


def known(_: Job) -> tuple[OperatorTime, ...]:
    return timed(("Conv", 3.0), ("Gemm", 1.0), ("Softmax", 0.5), ("Add", 0.3), ("Mul", 0.1), ("Frobnicate", 0.1))


def test_the_table_says_what_the_runtime_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use(FakeProfiler(operators=known), monkeypatch, tmp_path)
    main(["--space", "tiny", "--arch", "smallest", "--repeats", "7"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "smallest of tiny at 32 px"
    table = [line.rsplit(maxsplit=4) for line in lines if line.endswith(tuple("123456")) and "%" in line]
    assert [[row[0].strip(), *row[1:]] for row in table] == [
        ["convolution", "3.0000", "60.0%", "60.0%", "1"],
        ["linear, matrix product", "1.0000", "20.0%", "20.0%", "1"],
        ["softmax *", "0.5000", "10.0%", "10.0%", "1"],
        ["element-wise *", "0.4000", "8.0%", "8.0%", "2"],
        ["other", "0.1000", "2.0%", "2.0%", "1"],
        ["* memory-bound", "0.9000", "18.0%", "18.0%", "3"],
    ]
    assert any("unknown kind" in line and line.endswith("Frobnicate") for line in lines)
    slowest = [line.split()[0] for line in lines[lines.index("the 6 slowest of 6 operators:") + 2 :][:6]]
    assert slowest[:3] == ["/0/Conv", "/1/Gemm", "/2/Softmax"]
    assert Path(lines[-1]).is_file() and Path(lines[-1]).with_suffix(".json").is_file()


def test_overhead_of_profiling_is_found_and_taken_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use(FakeProfiler(operators=known, profiling_ms=1.0), monkeypatch, tmp_path)
    (network,) = run_json(["--space", "tiny", "--arch", "smallest"], capsys)["networks"]
    assert network["network_ms"] == pytest.approx(5.0)
    assert network["operators_ms"] == pytest.approx(11.0)
    assert network["overhead_ms_per_operator"] == pytest.approx(1.0)
    assert network["memory_bound"]["share"] == pytest.approx(3.9 / 11)
    assert network["memory_bound"]["corrected_share"] == pytest.approx(0.9 / 5)
    assert sum(row["share"] for row in network["kinds"]) == pytest.approx(1)
    assert sum(row["corrected_ms"] for row in network["kinds"]) == pytest.approx(5)


def test_disturbed_runs_without_profiling_do_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use(FakeProfiler(operators=known, slowdown=1.2), monkeypatch, tmp_path)
    (network,) = run_json(["--space", "tiny", "--arch", "smallest", "--repeats", "3"], capsys)["networks"]
    assert network["network_ms"] == pytest.approx((5 + 1.2 * 5) / 2), "of 5, 6 and 6 ms"


@pytest.mark.parametrize(("slowdown", "busy"), [(1.1, False), (1.5, True)])
def test_a_busy_machine_is_named_where_waiting_is_unknown(
    slowdown: float, busy: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use(FakeProfiler(operators=known, slowdown=slowdown, tells_waits=False), monkeypatch, tmp_path)
    main(["--space", "tiny", "--arch", "smallest"])
    assert ("WARNING: the machine was busy" in capsys.readouterr().out) is busy


def test_time_between_operators_corrects_nothing() -> None:
    made = Profile(Network("net", Job((3, 8, 8), nn.Identity)), 6.0, known(Job((3, 8, 8), nn.Identity)))
    assert made.overhead_ms == 0
    assert made.memory_bound.share == made.memory_bound.corrected_share == pytest.approx(0.18)


# ---- networks of a space


def test_one_block_after_the_other_is_left_out(nano: SearchSpace) -> None:
    series = profile.optional_kinds(nano)
    assert list(series) == [("attention",), ("attention", "ffn"), ("ffn",)], "most attention can be left out"
    archs = series["attention",]
    blocks = [nano.lower(arch) for arch in archs]
    attentions = [sum(block.kind == "attention" for block in b) for b in blocks]
    assert archs[0] == nano.largest
    assert attentions == list(range(attentions[0], -1, -1)) and attentions[0] > 3
    assert all([b for b in some if b.kind != "attention"] == list(blocks[-1]) for some in blocks)
    for larger, smaller in pairwise(map(nano.lower, series["ffn",])):
        (gone,) = [block for block in larger if block not in smaller]
        assert gone.kind == "ffn" and len(smaller) == len(larger) - 1


def test_blocks_that_go_together_are_left_out_together() -> None:
    space = get_space("mobileone-nano")
    series = profile.optional_kinds(space)
    assert list(series) == [("depthwise", "pointwise")]
    for larger, smaller in pairwise(map(space.lower, series["depthwise", "pointwise"])):
        assert [block.kind for block in larger if block not in smaller] == ["depthwise", "pointwise"]
    networks = profile.space_networks(space, (), num_random=0, seed=0)
    counts = [network.varied.blocks for network in networks if network.varied]
    assert counts == list(range(counts[0], counts[-1] - 1, -1)) and len(counts) == len(networks) > 3


def test_less_attention_less_memory_bound_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    backend = FakeProfiler()
    use(backend, monkeypatch, tmp_path)
    result = run_json(["--space", "tiny", "--num-random", "2", "--repeats", "3"], capsys)
    rows = [(n["varied"]["blocks"], n["memory_bound"]["ms"], n["memory_bound"]["share"]) for n in result["networks"]]
    blocks = [row[0] for row in rows[:-2]]
    assert blocks == list(range(blocks[0], -1, -1)) and blocks[0] == 3
    assert all(share == pytest.approx(ms / (1 + ms)) and ms == pytest.approx(0.5 + 0.25 * n) for n, ms, share in rows)
    assert result["trend"] == pytest.approx(
        {"block_ms": 0.25, "block_memory_bound_ms": 0.25, "fewest": 0, "rest_share": 1 / 3}
    )
    assert backend.profiled == [3] * len(rows)
    main(["--space", "tiny"])
    text = capsys.readouterr().out
    assert "memory-bound operators take less time here, and a smaller share" in text
    assert "75.0%" not in text and "55.6%" in text


def test_more_attention_need_not_mean_a_larger_share(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def operators(job: Job) -> tuple[OperatorTime, ...]:
        blocks = sum(block.kind == "attention" for block in job.blocks)
        return timed(("Conv", 1.0), ("Transpose", 0.5), *[("MatMul", 1.0), ("Softmax", 0.1)] * blocks)

    use(FakeProfiler(operators=operators), monkeypatch, tmp_path)
    main(["--space", "tiny"])
    assert "take less time here, and no smaller share" in capsys.readouterr().out


# ---- the page


@pytest.mark.parametrize("argv", [["--arch", "largest"], []], ids=["one network", "networks of a space"])
def test_the_page_holds_the_figures_and_loads_nothing(
    argv: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from plotly.offline import get_plotlyjs

    use(FakeProfiler(), monkeypatch, tmp_path)
    data = run_json([*argv, "--space", "tiny", "--out", "page.html"], capsys)
    assert data == json.loads(Path("page.json").read_text())
    html = Path("page.html").read_text()
    assert get_plotlyjs() in html
    own = html.replace(get_plotlyjs(), "")
    assert "default-src 'none'" in own
    assert not re.search(r"https?://|src=", own)
    figures = map(json.loads, re.findall(r'<script type="application/json" data-plot="\w+">(.*)</script>', own))
    plotted = [value for figure in figures for trace in figure["data"] for value in trace["x"] + trace["y"]]
    kinds = ("convolution", "reshape, copy", "softmax")
    expected = [1.0, 0.5, 0.75, *kinds] if argv else [0.5, 0.75, 1.0, 1.25, 100 / 3, 500 / 9, 0, 1, 2, 3]
    for value in expected:
        assert any(value == pytest.approx(shown) for shown in plotted), value


# ---- bad input


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--model", "timm/mobilevit_xss"], "timm/mobilevit_xxs"),
        (["--model", "hf-hub:someone/model"], "timm has no model"),
        (["--model", "timm/mobilevit_xxs", "--arch", "largest"], "--arch 'largest'; give one of them"),
        (["--model", "timm/mobilevit_xxs", "--space", "tiny"], "--space 'tiny'; give one of them"),
        (["--model", "timm/vit_tiny_patch16_224", "--image-size", "8"], "at 8 x 8 px"),
        (["--space", "tiny", "--arch", "other.json"], "is of space 'efficientformerv2-nano'"),
        (["--space", "tiny", "--arch", "missing"], "missing"),
        (["--space", "tiny", "--backend", "nothing"], "choose from"),
        (["--space", "tiny", "--arch", "largest", "--out", "page.json"], "ends in .html"),
        (["--space", "tiny", "--repeats", "1"], "--repeats"),
        (["--space", "tiny", "--kind", "stem"], "--kind is stem; of tiny give attention"),
        (
            ["--space", "tiny", "--arch", "largest", "--kind", "ffn"],
            "--kind is for networks of a space, and largest is one",
        ),
        (["--model", "timm/mobilevit_xxs", "--kind", "ffn"], "and timm/mobilevit_xxs is one; leave it out"),
    ],
)
def test_bad_input_is_refused_in_one_line(
    argv: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nano: SearchSpace
) -> None:
    monkeypatch.setitem(search_spaces.SPACES, "tiny", make_tiny)
    monkeypatch.chdir(tmp_path)
    Path("other.json").write_text(json.dumps(nano.to_json(nano.largest)))
    with pytest.raises(UserError) as error:
        main(argv)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert not Path("runs").exists()


def test_the_library_of_the_page_is_missed_before_anything_is_profiled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = FakeProfiler()
    use(backend, monkeypatch, tmp_path)
    monkeypatch.setitem(sys.modules, "plotly", None)
    with pytest.raises(UserError, match="plotly is not installed; pip install plotly"):
        main(["--space", "tiny", "--arch", "largest"])
    assert backend.profiled == []


def test_a_runtime_that_does_not_report_operators(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(FakeMachine(), monkeypatch, tmp_path)
    with pytest.raises(UserError, match="fake does not report the time of operators; give --backend onnxruntime"):
        main(["--space", "tiny", "--arch", "largest"])


def test_a_timm_model_of_another_size_and_number_of_classes() -> None:
    job = timm_job("timm/efficientformerv2_s0", image_size=64, num_classes=3)
    with torch.no_grad():
        assert job.module()(torch.zeros(1, *job.input_shape)).shape == (1, 3)
    assert job.input_shape == (3, 64, 64)
    assert timm_job("mobilevit_xxs").input_shape == (3, 256, 256)


def test_a_timm_model_is_profiled_as_it_is_deployed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    def operators(job: Job) -> tuple[OperatorTime, ...]:
        sizes.append(sum(parameter.numel() for parameter in job.module().parameters()))
        return known(job)

    use(FakeProfiler(operators=operators), monkeypatch, tmp_path)
    main(["--model", "timm/mobileone_s0"])
    assert sizes == [pytest.approx(2.1e6, rel=0.02)] * 2, "profiled and not"
