"""Operators of Core ML's intermediate language against PyTorch's own, each in a program of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from nas.exporting.mil import Interpreter

SHAPE = (1, 4, 5, 7)
POOL = {"kernel_sizes": [3, 3], "strides": [2, 2]}
PADDED = {**POOL, "pad_type": "custom", "pad": [1, 1, 1, 1]}
KERNEL = torch.arange(27.0).reshape(1, 1, 27).numpy() / 27

# The builder's call, by `mb` and the images; and what it is in PyTorch.
OPERATORS: dict[str, tuple[Callable[[Any, Any], Any], Callable[[Tensor], Tensor]]] = {
    "abs": (lambda mb, x: mb.abs(x=x), Tensor.abs),
    "avg_pool": (
        lambda mb, x: mb.avg_pool(x=x, **PADDED, exclude_padding_from_average=True),
        lambda x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False),
    ),
    "avg_pool, ceil": (
        lambda mb, x: mb.avg_pool(x=x, kernel_sizes=[2, 2], strides=[2, 2], pad_type="valid", ceil_mode=True),
        lambda x: F.avg_pool2d(x, 2, 2, ceil_mode=True, count_include_pad=False),
    ),
    "avg_pool, one axis": (
        lambda mb, x: mb.avg_pool(x=mb.reshape(x=x, shape=[1, 4, 35]), kernel_sizes=[4], strides=[4], pad_type="valid"),
        lambda x: F.avg_pool1d(x.flatten(2), 4, 4),
    ),
    "cast, whole numbers": (lambda mb, x: mb.cast(x=x, dtype="int32"), lambda x: x.to(torch.int32)),
    "clip": (lambda mb, x: mb.clip(x=x, alpha=-0.25, beta=0.5), lambda x: x.clamp(-0.25, 0.5)),
    "concat, interleaved": (
        lambda mb, x: mb.concat(values=(x, mb.square(x=x)), axis=1, interleave=True),
        lambda x: torch.stack((x, x**2), dim=2).flatten(1, 2),
    ),
    "conv, one axis": (
        lambda mb, x: mb.conv(
            x=mb.reshape(x=x, shape=[1, 1, 140]), weight=KERNEL, pad_type="custom", pad=[13, 13], strides=[1]
        ),
        lambda x: F.conv1d(x.reshape(1, 1, 140), torch.from_numpy(KERNEL), padding=13),
    ),
    "conv, same": (
        lambda mb, x: mb.conv(x=x, weight=KERNEL.reshape(1, 1, 3, 9).repeat(4, 1), pad_type="same"),
        lambda x: F.conv2d(x, torch.from_numpy(KERNEL).reshape(1, 1, 3, 9).repeat(1, 4, 1, 1), padding="same"),
    ),
    "conv_transpose": (
        lambda mb, x: mb.conv_transpose(
            x=x,
            weight=KERNEL.reshape(1, 1, 3, 9).repeat(4, 0),
            strides=[2, 3],
            pad_type="custom",
            pad=[1, 1, 4, 3],
            groups=2,
        ),
        lambda x: F.conv_transpose2d(
            x,
            torch.from_numpy(KERNEL).reshape(1, 1, 3, 9).repeat(4, 1, 1, 1),
            stride=(2, 3),
            padding=(1, 4),
            groups=2,
            output_padding=(0, 1),
        ),
    ),
    "elu": (lambda mb, x: mb.elu(x=x, alpha=0.5), lambda x: F.elu(x, 0.5)),
    "erf": (lambda mb, x: mb.erf(x=x), Tensor.erf),
    "exp": (lambda mb, x: mb.exp(x=x), Tensor.exp),
    "leaky_relu": (lambda mb, x: mb.leaky_relu(x=x, alpha=0.1), lambda x: F.leaky_relu(x, 0.1)),
    "log": (lambda mb, x: mb.log(x=mb.square(x=x), epsilon=0.5), lambda x: (x**2 + 0.5).log()),
    "max_pool": (lambda mb, x: mb.max_pool(x=x, **PADDED), lambda x: F.max_pool2d(x, 3, 2, 1)),
    "max_pool, one axis": (
        lambda mb, x: mb.max_pool(x=mb.reshape(x=x, shape=[1, 4, 35]), kernel_sizes=[4], strides=[4], pad_type="valid"),
        lambda x: F.max_pool1d(x.flatten(2), 4, 4),
    ),
    "max_pool, ceil": (
        lambda mb, x: mb.max_pool(x=x, **POOL, pad_type="valid", ceil_mode=True),
        lambda x: F.max_pool2d(x, 3, 2, ceil_mode=True),
    ),
    "maximum": (lambda mb, x: mb.maximum(x=x, y=0.1), lambda x: x.clamp(min=0.1)),
    "minimum": (lambda mb, x: mb.minimum(x=x, y=0.1), lambda x: x.clamp(max=0.1)),
    "pad, reflected": (
        lambda mb, x: mb.pad(x=x, pad=[0, 0, 0, 0, 1, 2, 3, 0], mode="reflect"),
        lambda x: F.pad(x, (3, 0, 1, 2), "reflect"),
    ),
    "pad, replicated": (
        lambda mb, x: mb.pad(x=x, pad=[1, 2, 3, 0], mode="replicate"),
        lambda x: F.pad(x, (3, 0, 1, 2), "replicate"),
    ),
    "pow": (lambda mb, x: mb.pow(x=x, y=2.0), Tensor.square),
    "prelu": (
        lambda mb, x: mb.prelu(x=x, alpha=np.array([0.1, 0.2, 0.3, 0.4], np.float32)),
        lambda x: F.prelu(x, torch.tensor([0.1, 0.2, 0.3, 0.4])),
    ),
    "real_div": (lambda mb, x: mb.real_div(x=x, y=3.0), lambda x: x / 3),
    "reduce_argmax": (lambda mb, x: mb.reduce_argmax(x=x, axis=1, keep_dims=False), lambda x: x.argmax(dim=1)),
    "reduce_l2_norm": (
        lambda mb, x: mb.reduce_l2_norm(x=x, axes=[1], keep_dims=True),
        lambda x: x.norm(dim=1, keepdim=True),
    ),
    "reduce_max": (lambda mb, x: mb.reduce_max(x=x, axes=[2, 3], keep_dims=True), lambda x: x.amax((2, 3), True)),
    "relu6": (lambda mb, x: mb.relu6(x=mb.mul(x=x, y=9.0)), lambda x: F.relu6(9 * x)),
    "reduce_sum": (lambda mb, x: mb.reduce_sum(x=x, axes=[2, 3], keep_dims=False), lambda x: x.sum((2, 3))),
    "rsqrt": (lambda mb, x: mb.rsqrt(x=mb.square(x=x), epsilon=0.5), lambda x: (x**2 + 0.5).rsqrt()),
    "sigmoid_hard": (lambda mb, x: mb.sigmoid_hard(x=x, alpha=1 / 6, beta=0.5), F.hardsigmoid),
    "softplus": (lambda mb, x: mb.softplus(x=x), F.softplus),
    "sqrt": (lambda mb, x: mb.sqrt(x=mb.square(x=x)), Tensor.abs),
    "stack": (lambda mb, x: mb.stack(values=(x, x), axis=2), lambda x: torch.stack((x, x), 2)),
    "tanh": (lambda mb, x: mb.tanh(x=x), Tensor.tanh),
    "thresholded_relu": (lambda mb, x: mb.thresholded_relu(x=x, alpha=0.2), lambda x: F.threshold(x, 0.2, 0)),
    "tile": (lambda mb, x: mb.tile(x=x, reps=[1, 2, 1, 3]), lambda x: x.repeat(1, 2, 1, 3)),
    "upsample_nearest_neighbor": (
        lambda mb, x: mb.upsample_nearest_neighbor(x=x, scale_factor_height=2, scale_factor_width=3),
        lambda x: x.repeat_interleave(2, 2).repeat_interleave(3, 3),
    ),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_an_operator_is_that_of_pytorch(name: str) -> None:
    import coremltools as ct
    from coremltools.converters.mil import Builder as mb  # noqa: N813 (its documentation's name)

    ours, theirs = OPERATORS[name]
    spec = [mb.TensorSpec(shape=SHAPE)]
    program = mb.program(input_specs=spec, opset_version=ct.target.iOS16)(lambda x: ours(mb, x))
    images = torch.randn(SHAPE)
    (found,) = Interpreter(program)({next(iter(program.functions["main"].inputs)): images}).values()
    torch.testing.assert_close(found, theirs(images))


def test_weights_in_a_palette_are_those_that_coremltools_packed() -> None:
    import coremltools as ct
    from coremltools.converters.mil import Builder as mb  # noqa: N813 (its documentation's name)
    from coremltools.optimize._utils import pack_elements_into_bits

    rng = np.random.default_rng(0)
    palette, places = rng.standard_normal(64).astype(np.float32), rng.integers(0, 64, (3, 5, 7), dtype=np.uint8)
    packed = pack_elements_into_bits(places.flatten(), 6)

    shape = np.array(places.shape, dtype=np.uint32)

    def added(x: Any) -> Any:
        return mb.add(x=x, y=mb.constexpr_lut_to_dense(indices=packed, lut=palette, shape=shape))

    spec = [mb.TensorSpec(shape=places.shape)]
    program = mb.program(input_specs=spec, opset_version=ct.target.iOS16)(added)
    inputs = {next(iter(program.functions["main"].inputs)): torch.zeros(places.shape)}
    (found,) = Interpreter(program)(inputs).values()
    assert torch.equal(found, torch.from_numpy(palette[places]))
