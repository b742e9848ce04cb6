"""What follows from image size and strides alone: SSDLite's maps, and DeepLabv3's rates.

Sizes are those of the authors' configurations for MobileViT (apple/ml-cvnets,
`config/detection/ssd_coco/mobilevit.yaml`, `config/segmentation/pascal_voc/deeplabv3_mobilevit.yaml`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

FIRST_STRIDE = 16
# Channels that maps are projected to, or made with, finest first; the last is the whole image pooled.
CHANNELS, POOLED_CHANNELS = (512, 256, 256, 128, 128), 64
RATIOS, POOLED_RATIOS = [2, 3], [2]  # of default boxes, beside two squares

OUTPUT_STRIDE = 16  # of DeepLabv3's backbone, as published
RATES = (6, 12, 18)  # at that stride
PYRAMID_CHANNELS = 256


@dataclass(frozen=True)
class Plan:
    """
    Args:
        num_maps: of the backbone's, its last.
        sides: height of each map, finest first: the backbone's, those made of the last, and the pooled image.
        pooled: whether the last is that.
    """

    num_maps: int
    sides: tuple[int, ...]
    pooled: bool

    @property
    def num_extras(self) -> int:
        """Maps that are made of the backbone's last, one of the other; the pooled image aside."""
        return len(self.sides) - self.pooled - self.num_maps

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels that each map is projected to."""
        return (*CHANNELS[: len(self.sides) - self.pooled], *self.pooled * [POOLED_CHANNELS])

    def channels(self, backbone: Sequence[int]) -> tuple[int, ...]:
        """Channels of each map, of a backbone whose maps have these."""
        return (*backbone[-self.num_maps :], *self.widths[self.num_maps :])

    @property
    def ratios(self) -> list[list[int]]:
        """Of the default boxes of each map, beside two squares."""
        return (len(self.sides) - self.pooled) * [RATIOS] + self.pooled * [POOLED_RATIOS]

    @property
    def boxes(self) -> tuple[int, ...]:
        """Default boxes at each position of each map."""
        return tuple(2 + 2 * len(ratios) for ratios in self.ratios)


def plan(image_size: int, strides: Sequence[int]) -> Plan:
    """The backbone's maps from stride 16 on, or the last two if fewer are that coarse.

    Coarser ones are made while they have more than 2 x 2 positions, and the pooled image.
    """
    num_maps = max(sum(stride >= FIRST_STRIDE for stride in strides), min(2, len(strides)))
    sides = [ceil(image_size / stride) for stride in strides[-num_maps:]]
    while sides[-1] > 2 and len(sides) < len(CHANNELS):
        sides.append(ceil(sides[-1] / 2))
    pooled = sides[-1] > 1
    return Plan(num_maps, (*sides, *[1] * pooled), pooled)


def rates(stride: int) -> tuple[int, ...]:
    """Of DeepLabv3's convolutions on a map of that stride: they reach as far in pixels as those published."""
    return tuple(max(1, rate * OUTPUT_STRIDE // stride) for rate in RATES)
