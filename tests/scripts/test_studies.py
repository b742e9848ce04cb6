from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from timm.models.mobilevit import MobileVitBlock
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import flop_registry

from latency_lut.backends.base import Backend, DeviceGone, Job, Runtime, Session
from latency_lut.backends.onnxruntime import OnnxRuntimeBackend
from latency_lut.backends.registry import Target
from scripts import study_blocks, study_models, study_patches
from scripts.device_studies import nets, studies
from scripts.device_studies.nets import ACTIVATIONS, DynamicReLU, DynamicShiftMax, Pair, thirty_layers
from scripts.device_studies.studies import Network, StudyConfig, count, report, run_study
from search_spaces import UserError
from tests.contracts.space import fvcore_macs
from tests.rounding import assert_equal_but_for_rounding

WIDTHS = [32, *(width for width, _ in nets.PAIRS)]
LAYER_WIDTHS = [32, *(width for before_and_after in pairwise(WIDTHS) for width in before_and_after)]


@dataclass
class FakeDevice(Backend):
    """A run takes a nanosecond for each parameter of the module, by a clock that only runs advance.

    Args:
        refuses: what this device cannot run a network with.
        refusal: what it raises then.
        gone_at: number of the run at which it is disconnected.
        wait_share: of a run's time, in which it waits for a core; None: it cannot tell.
        slowdown: of all runs after 20 ms, as by heat.
    """

    refuses: type[nn.Module] | None = None
    refusal: type[Exception] = RuntimeError
    gone_at: int | None = None
    wait_share: float | None = 0.0
    slowdown: float = 1.0
    runs: int = 0
    name: str = "fake"
    precision: str = "float32"
    _now_ns: int = 0

    @property
    def clock(self) -> FakeDevice:  # type: ignore[override]
        return self

    def describe(self) -> Runtime:
        return Runtime("fake device", "fake os", "Fake", "1", "cpu", self.precision, 1)

    def prepare(self, job: Job) -> Session:
        module = job.module()
        if self.refuses and any(isinstance(part, self.refuses) for part in module.modules()):
            raise self.refusal(f"no operator {self.refuses.__name__}\nin this runtime")
        duration_ns = sum(parameter.numel() for parameter in module.parameters())

        def run(repeats: int) -> None:
            self.runs += 1
            if self.runs == self.gone_at:
                raise DeviceGone("the fake device does not answer any more")
            self._now_ns += repeats * int(duration_ns * (self.slowdown if self._now_ns > 2 * 10**7 else 1))

        return Session(run, {"fake": 1.0})

    def now_ns(self) -> int:
        return self._now_ns

    def wait_ns(self) -> int | None:
        return None if self.wait_share is None else int(self._now_ns * self.wait_share)


@pytest.fixture(autouse=True)
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Results of the test go here."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> FakeDevice:
    """What every command of the test measures on."""
    device = FakeDevice()
    monkeypatch.setattr(Target, "make_backend", lambda _: device)
    return device


def path_of(study: str) -> Path:
    return studies.STUDIES / f"{study}-fake-float32-1t.json"


def result_of(study: str) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(path_of(study).read_text(encoding="utf-8"))
    return result


def run(rows: dict[str, Network], device: FakeDevice, samples: int) -> dict[str, Any]:
    result, _ = run_study("test", rows, device, StudyConfig(samples=samples))
    return result


def linear(inputs: int, outputs: int) -> Network:
    """A network of inputs x outputs parameters and as many multiply-accumulates."""
    flat = lambda: nn.Sequential(nn.Flatten(), nn.Linear(inputs, outputs, bias=False))  # noqa: E731
    return Network(Job((inputs, 1, 1), flat), "base", paper_ms=2.0 * outputs)


# ---- activations against their formulas


def coefficients(hyper_function: nn.Module, x: Tensor) -> Tensor:
    """Of images (n, c, h, w): (n, number of coefficients) before they are squashed."""
    squeeze, expand = (module for module in hyper_function.modules() if isinstance(module, nn.Conv2d))
    hidden = F.relu(F.linear(x.mean((2, 3)), squeeze.weight[:, :, 0, 0], squeeze.bias))
    return F.linear(hidden, expand.weight[:, :, 0, 0], expand.bias)


@pytest.mark.parametrize("per_channel", [False, True])
def test_dynamic_relu_is_its_formula(per_channel: bool) -> None:
    activation, x = DynamicReLU(16, per_channel=per_channel), 5 * torch.randn(2, 16, 3, 3)
    theta = 2 * coefficients(activation.coefficients, x).sigmoid() - 1
    theta = theta.reshape(2, 4, -1)  # a1, a2, b1, b2 of each channel, or of all
    expected = torch.empty_like(x)
    for n in range(2):
        for c in range(16):
            a1, a2, b1, b2 = theta[n, :, c if per_channel else 0]
            expected[n, c] = torch.max((1 + a1) * x[n, c] + b1 / 2, a2 * x[n, c] + b2 / 2)
    torch.testing.assert_close(activation(x), expected)


def test_dynamic_relu_a_shares_its_coefficients_over_the_channels_and_b_does_not() -> None:
    x = torch.randn(1, 1, 4, 4).expand(1, 16, 4, 4)
    for per_channel in (False, True):
        y = DynamicReLU(16, per_channel=per_channel)(x)
        assert torch.equal(y, y[:, :1].expand_as(y)) is not per_channel


def test_dynamic_shift_max_is_its_formula() -> None:
    groups, channels = 4, 16
    activation, x = DynamicShiftMax(channels, groups), 5 * torch.randn(2, channels, 3, 3)
    theta = 4 * F.hardsigmoid(coefficients(activation.coefficients, x)) - 2
    theta = theta.reshape(2, 2, 2, channels)  # image, k, j, channel
    theta[:, 0, 0] += 1
    expected = torch.empty_like(x)
    for n in range(2):
        for i in range(channels):
            fusions = [
                sum(theta[n, k, j, i] * x[n, (i + j * channels // groups) % channels] for j in range(2))
                for k in range(2)
            ]
            expected[n, i] = torch.maximum(torch.as_tensor(fusions[0]), torch.as_tensor(fusions[1]))
    torch.testing.assert_close(activation(x), expected)


@pytest.mark.parametrize("name", ["dynamic_shift_max", "dynamic_relu_a", "dynamic_relu_b"])
def test_dynamic_activations_without_dynamics_are_relu(name: str) -> None:
    activation, x = ACTIVATIONS[name](16), torch.randn(1, 16, 3, 3)
    for parameter in activation.parameters():
        nn.init.zeros_(parameter)
    torch.testing.assert_close(activation(x), x.relu())


def test_se_relu_gates_channels() -> None:
    activation, x = ACTIVATIONS["se_relu"](32), torch.randn(1, 32, 4, 4)
    gates = activation(x).sum((2, 3)) / x.relu().sum((2, 3))
    assert ((gates > 0) & (gates < 1)).all()
    assert len(set(gates.flatten().tolist())) == 32


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_are_exported_with_plain_operators(name: str, tmp_path: Path) -> None:
    import onnx
    import onnxruntime

    job, x, path = Job((32, 8, 8), lambda: ACTIVATIONS[name](32)), torch.randn(1, 32, 8, 8), tmp_path / "model.onnx"
    OnnxRuntimeBackend().export(job, path)
    plain = (
        "Add Concat Constant Conv Gelu GlobalAveragePool HardSigmoid Max Mul ReduceMean Relu Sigmoid Slice Split Sub"
    )
    assert {node.op_type for node in onnx.load(path).graph.node} <= set(plain.split())
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (y,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    assert_equal_but_for_rounding(torch.from_numpy(y), job.module()(x), job.module())


# ---- networks


def test_the_network_has_30_layers() -> None:
    network = thirty_layers()
    layers = [part for part in network.modules() if isinstance(part, nn.Conv2d | nn.Linear)]
    assert len(layers) == nets.NUM_LAYERS == 30
    assert [layer.out_channels for layer in layers if isinstance(layer, nn.Conv2d)] == LAYER_WIDTHS
    assert sum(isinstance(part, nn.ReLU) for part in network.modules()) == 29


@pytest.mark.parametrize(
    ("activation", "extra"),
    [
        ("gelu", lambda c: (0, 0)),
        ("silu", lambda c: (0, 0)),
        ("se_relu", lambda c: (2 * c * (c // 16), c // 16 + c)),
        ("dynamic_relu_a", lambda c: (c * (c // 8) + c // 8 * 4, c // 8 + 4)),
        ("dynamic_relu_b", lambda c: (c * (c // 8) + c // 8 * 4 * c, c // 8 + 4 * c)),
        ("dynamic_shift_max", lambda c: (c * (c // 4) + c // 4 * 4 * c, c // 4 + 4 * c)),
    ],
)
def test_variants_differ_in_their_activations_only(activation: str, extra: Callable[[int], tuple[int, int]]) -> None:
    rows = study_blocks.networks(32)
    weights, biases = (sum(extra(width)[i] for width in LAYER_WIDTHS) for i in range(2))
    (num_params, macs), (plain_params, plain_macs) = count(rows[activation].job), count(rows["relu"].job)
    assert num_params - plain_params == weights + biases
    assert macs - plain_macs == weights, "each weight of a hyper function is used once"


def test_skips_add_the_input_where_shapes_agree() -> None:
    pairs = [part for part in thirty_layers(skip=True).modules() if isinstance(part, Pair)]
    assert [pair.skip for pair in pairs] == [
        stride == 1 and before == after for before, (after, stride) in zip(WIDTHS, nets.PAIRS, strict=False)
    ]
    assert sum(pair.skip for pair in pairs) == 9
    pair, x = next(pair for pair in pairs if pair.skip).eval(), torch.randn(1, 128, 4, 4)
    torch.testing.assert_close(pair(x), x + pair.pointwise(pair.depthwise(x)))
    assert not Pair(8, 8, 2, ACTIVATIONS["relu"], skip=True).skip
    assert not any(part.skip for part in thirty_layers().modules() if isinstance(part, Pair))


@pytest.mark.parametrize("name", ["se_relu", "dynamic_shift_max", "relu + skips"])
def test_half_precision_holds_all_values(name: str) -> None:
    largest = []
    network = study_blocks.networks(64)[name].job.module()
    for part in network.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.register_forward_hook(lambda _module, _inputs, output: largest.append(float(output.abs().max())))
    with torch.no_grad():
        network(torch.randn(1, 3, 64, 64))
    assert len(largest) == 29
    assert 0.1 < min(largest) <= max(largest) < 10_000


def test_patch_sizes_are_those_of_the_three_stages() -> None:
    seen = []
    model = study_patches.mobilevit("mobilevit_xxs", (8, 4, 2)).eval()
    for part in model.modules():
        if isinstance(part, MobileVitBlock):
            part.transformer.register_forward_hook(lambda _m, inputs, _o: seen.append(tuple(inputs[0].shape[:2])))
    with torch.no_grad():
        model(torch.randn(1, 3, 256, 256))
    assert seen == [(64, 16), (16, 16), (4, 16)], "pixels of a patch, number of patches"


@pytest.mark.heavy
def test_patches_of_2_are_the_published_network_and_larger_ones_cost_less() -> None:
    import timm

    rows = study_patches.networks()
    published, large = rows["mobilevit_xxs 2,2,2"].job, rows["mobilevit_xxs 8,4,2"].job
    x = torch.randn(1, *published.input_shape)
    theirs = Job(published.input_shape, lambda: timm.create_model("mobilevit_xxs")).module()
    with torch.no_grad():
        assert torch.equal(published.module()(x), theirs(x))
    assert count(published)[0] == count(large)[0]
    assert count(published)[1] > count(large)[1]


@pytest.mark.parametrize(("name", "millions"), [("mobileone_s0", (2.1, 275)), ("mobileone_s1", (4.8, 825))])
def test_mobileone_is_in_its_inference_form(name: str, millions: tuple[float, int]) -> None:
    num_params, macs = count(study_models.make_job(name))
    assert (round(num_params / 1e6, 1), round(macs / 1e6)) == millions, "MobileOne, Table 8"


def test_fused_attention_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    monkeypatch.delitem(flop_registry, fused, raising=False)  # as before torch 2.15
    tokens, width, depth = 197, 192, 12
    linear_layers = depth * 12 * width**2 * tokens + 768 * width * (tokens - 1) + width * 1000
    _, macs = count(study_models.make_job("deit_tiny_patch16_224"))
    assert macs == linear_layers + depth * 2 * tokens**2 * width


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("convit_tiny", marks=pytest.mark.heavy),
        "mobilenetv3_small_100",
        pytest.param("torchvision/shufflenet_v2_x1_0", marks=pytest.mark.heavy),
    ],
)
def test_the_count_is_fvcores(name: str) -> None:
    job = study_models.make_job(name)
    assert count(job)[1] == fvcore_macs(job.module(), torch.zeros(1, *job.input_shape))


def test_networks_are_as_the_paper_timed_them() -> None:
    assert study_models.make_job("mobilevit_xs").input_shape == (3, 256, 256)
    parts = {type(part) for part in study_models.make_job("mobilenetv3_small_100").module().modules()}
    assert nn.ReLU in parts
    assert nn.Hardswish not in parts
    assert count(study_models.make_job("torchvision/shufflenet_v2_x1_0"))[0] == pytest.approx(2.3e6, rel=0.02)


def test_torchvision_is_for_its_own_networks_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)
    assert study_models.make_job("lcnet_050").input_shape == (3, 224, 224)


def test_the_papers_list_exists() -> None:
    assert len(study_models.networks(tuple(study_models.PUBLISHED_MS))) == 22


# ---- a study


def test_ratios_are_of_minima_to_the_baseline() -> None:
    rows = {"base": linear(8, 100), "twice": linear(8, 200)}
    result = run(rows, FakeDevice(slowdown=1.04), samples=10)
    base, twice = result["networks"]
    assert (base["ratio"], twice["ratio"]) == (1, pytest.approx(2))
    assert (base["num_params"], base["macs"], base["min_ms"]) == (800, 800, pytest.approx(800e-6))
    assert (twice["paper_ms"], twice["paper_ratio"]) == (400, 2)
    assert twice["devices"] == {"fake": 1.0}
    assert not result["busy"]
    assert "WARNING" not in report(result, "", "phone")


def test_what_a_runtime_cannot_run_is_listed_with_the_reason() -> None:
    silu = Network(Job((8, 1, 1), lambda: nn.Sequential(nn.Flatten(), nn.Linear(8, 8), nn.SiLU())), "base", 1.0)
    result = run({"base": linear(8, 100), "silu": silu}, FakeDevice(refuses=nn.SiLU), samples=2)
    base, other = result["networks"]
    assert (base["error"], other["error"]) == (None, "no operator SiLU")
    assert (other["min_ms"], other["ratio"], other["paper_ratio"]) == (None, None, 1 / 200)
    assert "not run: no operator SiLU" in report(result, "", "phone")


def test_without_its_baseline_a_network_has_no_ratio() -> None:
    silu = Network(Job((8, 1, 1), lambda: nn.Sequential(nn.Flatten(), nn.Linear(8, 8), nn.SiLU())), "base")
    rows = {"base": silu, "other": linear(8, 100)}
    _, other = run(rows, FakeDevice(refuses=nn.SiLU), samples=2)["networks"]
    assert other["min_ms"] > 0
    assert (other["ratio"], other["paper_ratio"]) == (None, None)


def test_a_runtime_that_runs_nothing_is_an_error() -> None:
    with pytest.raises(UserError, match="fake runs none of the networks: no operator Linear"):
        run({"base": linear(8, 8)}, FakeDevice(refuses=nn.Linear), samples=2)


def test_a_device_that_is_gone_ends_the_study() -> None:
    silu = Network(Job((8, 1, 1), lambda: nn.Sequential(nn.Flatten(), nn.Linear(8, 8), nn.SiLU())), "base")
    device = FakeDevice(refuses=nn.SiLU, refusal=DeviceGone)
    with pytest.raises(DeviceGone, match="silu: no operator SiLU"):
        run({"base": linear(8, 100), "silu": silu}, device, samples=2)
    assert device.runs == 0


def test_an_interrupted_study_goes_on() -> None:
    rows, whole = {"base": linear(8, 100), "twice": linear(8, 200)}, FakeDevice()
    expected = run(rows, whole, samples=10)
    with pytest.raises(DeviceGone):
        run(rows, FakeDevice(gone_at=whole.runs - 3), samples=10)
    with pytest.raises(UserError, match="was begun with networks"):
        run({"base": linear(16, 100)}, FakeDevice(), samples=10)
    rest = FakeDevice()
    assert run(rows, rest, samples=10)["networks"] == expected["networks"]
    assert rest.runs < whole.runs / 2
    assert [path.name for path in studies.STUDIES.iterdir()] == ["test-fake-float32-1t.json"]


@pytest.mark.parametrize("device", [FakeDevice(wait_share=0.5), FakeDevice(wait_share=None, slowdown=1.5)])
def test_a_busy_machine_is_named(device: FakeDevice) -> None:
    result = run({"base": linear(8, 100)}, device, samples=10)
    assert result["busy"]
    assert "WARNING: the machine was busy" in report(result, "", "phone")


# ---- rank correlations


def row(name: str, ms: float | None, macs: int, num_params: int) -> dict[str, Any]:
    return {"name": name, "min_ms": ms, "macs": macs, "num_params": num_params}


def test_rank_correlations() -> None:
    rows = [row("a", 1.0, 10, 4), row("b", 2.0, 20, 3), row("c", 3.0, 40, 2), row("d", 4.0, 30, 1)]
    (found,) = study_models.correlations([*rows, row("not run", None, 5, 5)])
    assert (found["latency"], found["num_models"]) == ("measured", 4)
    assert found["macs"]["spearman"] == pytest.approx(0.8)  # 1 - 6 * 2 / (4 * 15)
    assert found["macs"]["p_value"] == pytest.approx(0.2)
    assert found["macs"]["kendall"] == pytest.approx(2 / 3)
    assert found["num_params"]["spearman"] == pytest.approx(-1)


def test_published_latencies_are_correlated_for_the_same_networks() -> None:
    names = ["mobilenetv2_100", "efficientnet_b0", "mobileone_s0", "mobileone_s4", "mobilevit_xs"]
    rows = [row(name, 1.0 + i, i, -i) for i, name in enumerate(names)] + [row("resnet18", 9.0, 9, 9)]
    found = {f["latency"]: f for f in study_models.correlations(rows)}
    assert {label: f["num_models"] for label, f in found.items()} == {
        "measured": 6,
        "measured, without MobileOne": 4,
        "iPhone 12, Table 8": 5,
        "iPhone 12, Table 8, without MobileOne": 3,
        "Xeon, Table 8": 5,
        "Xeon, Table 8, without MobileOne": 3,
    }
    assert found["measured"]["macs"]["spearman"] == pytest.approx(1)
    # 0.98, 1.72, 0.79, 1.86, 6.97 against 0, 1, 2, 3, 4: ranks 2, 3, 1, 4, 5
    assert found["iPhone 12, Table 8"]["macs"]["spearman"] == pytest.approx(1 - 6 * (1 + 1 + 4) / (5 * 24))
    # 13.65, 28.71, 10.55, 26.60, 27.21: ranks 2, 5, 1, 3, 4
    assert found["Xeon, Table 8"]["num_params"]["spearman"] == pytest.approx(-(1 - 6 * (1 + 9 + 4 + 1 + 1) / 120))


@pytest.mark.filterwarnings("ignore:An input array is constant")
def test_equal_networks_have_no_rank_correlation() -> None:
    (found,) = study_models.correlations([row(name, 1.0 + i, 7, i) for i, name in enumerate("abc")])
    assert found["macs"] == {"spearman": None, "p_value": None, "kendall": None}
    assert "all equal" in study_models.correlation_report([found])


# ---- commands


@pytest.mark.parametrize("module", [study_models, study_blocks, study_patches])
def test_the_commands_name_is_the_modules(module: ModuleType) -> None:
    assert module.__name__ == module.MODULE
    assert f"python -m {module.MODULE}" in str(module.__doc__)


@pytest.mark.heavy
def test_study_models(device: FakeDevice, capsys: pytest.CaptureFixture[str]) -> None:
    names = ["mobilenetv2_100", "mobilenetv3_small_100", "mobileone_s0", "torchvision/shufflenet_v2_x1_0", "lcnet_050"]
    study_models.main(["--samples", "2", "--models", *names])
    (path,) = studies.STUDIES.iterdir()
    result = json.loads(path.read_text(encoding="utf-8"))
    assert [r["name"] for r in result["networks"]] == names
    assert result["command"] == f"python -m scripts.study_models --samples 2 --models {' '.join(names)}"
    assert result["correlations"][0]["num_params"]["spearman"] == pytest.approx(1), "the device's time is parameters"
    out = capsys.readouterr().out
    assert "0.47 (0.03)" in out
    assert "Table 8, without MobileOne" in out
    assert f"{0.79 / 0.98:.2f}" in next(line for line in out.splitlines() if line.startswith("mobileone_s0"))


def test_other_networks_have_another_file(device: FakeDevice) -> None:
    names = ["lcnet_035", "lcnet_050", "lcnet_075"]
    for some in (names, names[::-1]):
        study_models.main(["--samples", "2", "--models", *some])
    assert len(list(studies.STUDIES.glob("models-3-*.json"))) == 2


@pytest.mark.heavy
def test_study_blocks(device: FakeDevice, capsys: pytest.CaptureFixture[str]) -> None:
    study_blocks.main(["--samples", "2", "--image-size", "32"])
    rows = {r["name"]: r for r in result_of("blocks-32px")["networks"]}
    assert len(rows) == 9
    assert rows["dynamic_relu_b"]["ratio"] == pytest.approx(
        rows["dynamic_relu_b"]["num_params"] / rows["relu"]["num_params"]
    )
    assert rows["dynamic_relu_b"]["paper_ratio"] == pytest.approx(242.14 / 1.53)
    assert rows["relu + skips"]["paper_ms"] is None
    assert "158.26" in capsys.readouterr().out


def test_study_patches(device: FakeDevice, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    xs = {"mobilevit_xs": study_patches.PAPER_MS["mobilevit_xs"]}
    monkeypatch.setattr(study_patches, "PAPER_MS", xs)
    study_patches.main(["--samples", "2"])
    base, large = result_of("patches")["networks"]
    assert (base["baseline"], large["baseline"]) == ("mobilevit_xs 2,2,2", "mobilevit_xs 2,2,2")
    assert large["ratio"] == pytest.approx(1), "the device's time is parameters"
    assert large["paper_ratio"] == pytest.approx(5.93 / 7.28)
    assert "5.93" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--models", "mobilenetv2_10", "a", "b"],
            r"timm has no model 'mobilenetv2_10'; did you mean timm/mobilenetv2_1",
        ),
        (["--models", "mobilenetv2_100", "???", "b"], r"timm has no model '\?\?\?'; timm\.models\.list_models\(\)"),
        (
            ["--models", "torchvision/resnet19", "a", "b"],
            r"torchvision has no model 'resnet19'; did you mean torchvision/resnet1\d",
        ),
        (
            ["--models", "lcnet_050.none", "a", "b"],
            r"timm has no model 'lcnet_050.none'; did you mean timm/lcnet_\d",
        ),
        (["--models", "lcnet_050", "timm/lcnet_050", "lcnet_075"], "--models has 2 networks; give at least 3"),
        (["--samples", "1"], "--samples is 1; give a number at least 2"),
    ],
)
def test_mistakes_are_answered_before_anything_is_measured(
    device: FakeDevice, arguments: list[str], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        study_models.main(arguments)
    assert device.now_ns() == 0
    assert not studies.STUDIES.exists()


def test_an_unknown_backend_is_named() -> None:
    with pytest.raises(UserError, match="--backend is 'ncnn'"):
        study_blocks.main(["--backend", "ncnn"])
