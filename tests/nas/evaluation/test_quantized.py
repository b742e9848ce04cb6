"""Simulated int8 against the file that ONNX Runtime's quantizer makes, and where it rounds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn
from torch.nn import functional as F

from latency_lut.backends.ranges import spanned
from nas.evaluation.quantized import Grid, Quantized, quantized
from nas.exporting.onnx import write_int8, write_onnx
from supernet import recalibrate

SIZE, WIDTH = 8, 12


class Everything(nn.Module):
    """An operator of every rule: convolutions with norms, gates, attentions, norms by themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.bn = nn.Conv2d(3, WIDTH, 3, 2, 1, bias=False), nn.BatchNorm2d(WIDTH)
        self.depthwise, self.scale = nn.Conv2d(WIDTH, WIDTH, 3, 1, 1, groups=WIDTH), nn.Parameter(torch.ones(WIDTH))
        self.gate = nn.Conv2d(WIDTH, WIDTH, 1)
        self.norm, self.qkv, self.proj = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.bias = nn.Parameter(torch.ones(1, 1, 16, 16))
        self.last, self.head = nn.BatchNorm2d(WIDTH), nn.Linear(WIDTH, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu6(self.bn(self.stem(x)), inplace=True)
        x = x + self.depthwise(x) * self.scale[:, None, None]
        x = F.silu(x) * torch.sigmoid(self.gate(F.gelu(x.mean((2, 3), keepdim=True))))
        x = torch.cat([F.avg_pool2d(x[:, :4], 3, 1, 1), F.max_pool2d(x[:, 4:], 3, 1, 1)], dim=1)
        tokens = self.norm(x.flatten(2).transpose(1, 2))
        q, k, v = self.qkv(tokens).reshape(-1, 16, 3, 2, WIDTH // 2).permute(2, 0, 3, 1, 4).unbind()
        tokens = F.scaled_dot_product_attention(q, k, v) + (q @ k.transpose(-2, -1) * 0.3 + self.bias).softmax(-1) @ v
        x = x + self.proj(tokens.transpose(1, 2).flatten(2)).transpose(1, 2).reshape(x.shape)
        return self.head(self.last(x).mean((2, 3))) / 2


def network() -> Everything:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = Everything()
        for parameter in net.parameters():
            if parameter.ndim == 1 or parameter is net.bias:
                nn.init.uniform_(parameter, 0.5, 1.5)
        recalibrate(net, [images(0)])
        return net


def images(seed: int) -> Tensor:
    return torch.randn(16, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("int8")
    write_onnx(network(), folder / "whole.onnx", SIZE, {}, None)
    write_int8(folder / "whole.onnx", folder / "int8.onnx", [image[None].numpy() for image in images(1)], ())
    return folder / "int8.onnx"


def logits(file: Path, x: Tensor) -> np.ndarray:
    """As the operators are defined, rather than as they are fused."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(file, options, ["CPUExecutionProvider"])
    return np.asarray(session.run(["logits"], {"images": x.numpy()})[0])


def rms(x: Any) -> float:
    return float(np.sqrt(np.square(x).mean()))


def test_it_answers_as_the_file(file: Path) -> None:
    net, x = network(), images(2)
    simulated, found = quantized(net, [images(1)])(x).numpy(), logits(file, x)
    with torch.no_grad():
        error = rms(net(x).numpy() - found)
    assert error > 1e-4 and rms(simulated - found) < 0.2 * error  # a number between two steps may go either way


def test_it_rounds_what_the_file_rounds_to_the_same_grids(file: Path) -> None:
    simulated, graph = quantized(network(), [images(1)]), onnx.load(file).graph
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    rounding = [node.input for node in graph.node if node.op_type == "QuantizeLinear"]
    there = {(float(values[scale]), int(values[zero])) for _, scale, zero in rounding}
    grids = {(grid.scale, grid.zero) for grid in (Grid.over(*r) for r in simulated._ranges)} | {(1 / 255, 0)}
    assert len(grids) == len(there)
    for (scale, zero), (own, own_zero) in zip(sorted(there), sorted(grids), strict=True):
        assert own == pytest.approx(scale, rel=1e-4) and abs(own_zero - zero) <= 1


def num_rounded(module: nn.Module, *, size: int = 4) -> int:
    part = Quantized(module.eval())
    part.observe([torch.randn(2, 3, size, size)])
    return len(part._ranges)


@pytest.mark.parametrize("act", [nn.ReLU(), nn.ReLU(inplace=True), nn.ReLU6(inplace=True), nn.Hardtanh(0, 6)])
def test_a_convolution_its_norm_and_relu_are_rounded_once(act: nn.Module) -> None:
    assert num_rounded(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), act)) == 2  # input and output


def test_what_is_no_operator_of_int8_is_left_alone() -> None:
    assert num_rounded(nn.GELU()) == num_rounded(nn.Hardswish()) == 0
    assert num_rounded(nn.Sequential(nn.Conv2d(3, 4, 1), nn.GELU(), nn.AdaptiveAvgPool2d(1))) == 2


def test_in_place_operators_change_what_others_hold() -> None:
    class InPlace(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            y = x + 1.0
            F.silu(y, inplace=True)
            return y

    part = Quantized(InPlace())
    x = torch.linspace(-2, 2, 48).reshape(1, 3, 4, 4)
    part.observe([x])
    assert torch.allclose(part(x), F.silu(x + 1), atol=0.05)


def test_parts_in_sequence_are_the_whole() -> None:
    net, x = network(), images(2)
    convolution, norm = Quantized(net.stem), Quantized(nn.Sequential(nn.SiLU(), net.depthwise))
    (middle,) = convolution.observe([images(1)])
    norm.observe([middle])
    together = quantized(nn.Sequential(net.stem, nn.SiLU(), net.depthwise), [images(1)])
    assert torch.equal(norm(convolution(x)), together(x))


def test_ranges_leave_out_rare_images_also_where_an_image_is_in_windows() -> None:
    class Windows(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.sigmoid(x.unflatten(2, (2, 2)).transpose(1, 2).flatten(0, 1))

    x = torch.randn(60, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    x[7] *= 100
    part = Quantized(Windows())
    part.observe([x[:20], x[20:]])
    each = x.flatten(1).amin(1).numpy(), x.flatten(1).amax(1).numpy()
    assert part._ranges[0] == spanned(*each) and part._ranges[0][1] < x[7].max()


def test_a_grid_has_zero_on_it() -> None:
    assert Grid.over(1.0, 2.0) == Grid(2 / 255, 0) and Grid.over(-1.0, 0.0) == Grid(1 / 255, 255)
    assert Grid.over(0.0, 0.0).round(torch.zeros(2)).tolist() == [0, 0]
    ends = Grid.over(-1.0, 1.0).round(torch.tensor([-9.0, 0.0, 9.0])).tolist()
    assert ends == pytest.approx([-1, 0, 1], abs=0.5 / 127)
