"""Networks that exist only for studies: one plain network of 30 layers, and the activations and blocks put into it.

MobileOne (Vasu et al. 2023, Section 3.2) does not say how its network of 30 layers is built, so its milliseconds cannot
be repeated, only the ratios be compared. This one is MobileNetV1 (Howard et al. 2017), whose depthwise and pointwise
convolutions are MobileOne's as well, with one more block at 14 px: a stem, 14 pairs, a classifier.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from timm.layers import SqueezeExcite
from torch import Tensor, nn
from torch.nn import functional as F

# Output channels and stride of each pair of a depthwise and a pointwise convolution.
PAIRS = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 6, (1024, 2), (1024, 1))
NUM_LAYERS = 1 + 2 * len(PAIRS) + 1
NUM_CLASSES = 1000
SE_REDUCTION = 16  # Hu et al. 2018, and MobileOne's released code
DYNAMIC_RELU_REDUCTION = 8  # our choice; public code has 4 and 8
SHIFT_MAX_REDUCTION = 4  # MicroNet's released code, as the number range of the coefficients and their start

Activation = Callable[[int], nn.Module]  # from the number of channels


def _hyper_function(channels: int, reduction: int, num_coefficients: int) -> nn.Module:
    """What a dynamic activation's coefficients come from: (1, channels, h, w) to (1, num_coefficients, 1, 1)."""
    return nn.Sequential(
        nn.AdaptiveAvgPool2d(1),
        nn.Conv2d(channels, channels // reduction, 1),
        nn.ReLU(),
        nn.Conv2d(channels // reduction, num_coefficients, 1),
    )


class DynamicReLU(nn.Module):
    """The maximum of K = 2 lines whose coefficients depend on the image: y_c = max_k(a_ck x_c + b_ck).

    Chen et al., "Dynamic ReLU", ECCV 2020: a = (1, 0) + t_a and b = t_b / 2, with t = 2 sigmoid(hyper function) - 1.

    Args:
        per_channel: DY-ReLU-B, coefficients for each channel; otherwise DY-ReLU-A, all channels share theirs.
    """

    def __init__(self, channels: int, *, per_channel: bool) -> None:
        super().__init__()
        self.width = channels if per_channel else 1
        self.coefficients = _hyper_function(channels, DYNAMIC_RELU_REDUCTION, 4 * self.width)

    def forward(self, x: Tensor) -> Tensor:
        a1, a2, b1, b2 = (2 * torch.sigmoid(self.coefficients(x)) - 1).split(self.width, dim=1)
        return torch.maximum(x * (1 + a1) + 0.5 * b1, x * a2 + 0.5 * b2)


class DynamicShiftMax(nn.Module):
    """The maximum of K = 2 fusions of the channels with J = 2 circular shifts of them, coefficients by the image.

    Li et al., "MicroNet", ICCV 2021: y_i = max_k sum_j a_ijk x_(i + j C/G mod C), for each of the C channels, with
    a = (1 for the unshifted channel of the first fusion, else 0) + 4 hard-sigmoid(hyper function) - 2.

    Args:
        groups: G; the shift is by one group. How far it goes does not matter to the time.
    """

    def __init__(self, channels: int, groups: int = 4) -> None:
        super().__init__()
        self.channels, self.shift = channels, channels // groups
        self.coefficients = _hyper_function(channels, SHIFT_MAX_REDUCTION, 4 * channels)

    def forward(self, x: Tensor) -> Tensor:
        a11, a12, a21, a22 = (4 * F.hardsigmoid(self.coefficients(x)) - 2).split(self.channels, dim=1)
        shifted = torch.cat((x[:, self.shift :], x[:, : self.shift]), dim=1)
        return torch.maximum(x * (1 + a11) + shifted * a12, x * a21 + shifted * a22)


def se_relu(channels: int) -> nn.Module:
    """Squeeze-and-excitation (Hu et al. 2018), then ReLU."""
    return nn.Sequential(SqueezeExcite(channels, rd_channels=channels // SE_REDUCTION), nn.ReLU())


ACTIVATIONS: dict[str, Activation] = {
    "relu": lambda _: nn.ReLU(),
    "gelu": lambda _: nn.GELU(),
    "se_relu": se_relu,
    "silu": lambda _: nn.SiLU(),
    "dynamic_shift_max": DynamicShiftMax,
    "dynamic_relu_a": lambda channels: DynamicReLU(channels, per_channel=False),
    "dynamic_relu_b": lambda channels: DynamicReLU(channels, per_channel=True),
}


class Pair(nn.Module):
    """A depthwise 3x3 and a pointwise convolution, each normalized and activated.

    Args:
        skip: adds the input to the output, where their shapes are the same (He et al. 2016).
    """

    def __init__(self, channels: int, out_channels: int, stride: int, activation: Activation, *, skip: bool) -> None:
        super().__init__()
        self.depthwise = _layer(channels, channels, 3, stride, activation, groups=channels)
        self.pointwise = _layer(channels, out_channels, 1, 1, activation)
        self.skip = skip and stride == 1 and channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.pointwise(self.depthwise(x))
        return x + y if self.skip else y


def thirty_layers(activation: str = "relu", *, skip: bool = False) -> nn.Module:
    """The network of 30 layers: (1, 3, h, w) to (1, 1000).

    Args:
        activation: a name of ACTIVATIONS, for all layers but the classifier.
        skip: whether pairs have a skip-connection.
    """
    make = ACTIVATIONS[activation]
    layers = [_layer(3, 32, 3, 2, make)]
    channels = 32
    for out_channels, stride in PAIRS:
        layers.append(Pair(channels, out_channels, stride, make, skip=skip))
        channels = out_channels
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, NUM_CLASSES))
    with torch.no_grad():  # normalizes as a trained network does: otherwise the values leave what float16 can hold
        network.train()(torch.randn(1, 3, 128, 128))
    return network


def _layer(
    channels: int, out_channels: int, kernel: int, stride: int, activation: Activation, groups: int = 1
) -> nn.Module:
    convolution = nn.Conv2d(channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(out_channels, momentum=1.0), activation(out_channels))
