"""How long an image takes in networks of a supernet, on this device."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from nas.evaluation.quantized import quantized
from nas.objective.precisions import RANGE_IMAGES, Precision
from search_spaces import Arch
from search_spaces.dense.space import HeadedSpace
from supernet import Supernet, measure_statistics

IMAGES = 32


@dataclass(frozen=True)
class Speed:
    """Seconds that an image takes in a network, to be classified and to recalibrate norms on; and that a network takes
    for its ranges."""

    evaluation_s: float
    calibration_s: float
    ranges_s: float = 0.0

    def __add__(self, other: Speed) -> Speed:
        evaluation_s, calibration_s = self.evaluation_s + other.evaluation_s, self.calibration_s + other.calibration_s
        return Speed(evaluation_s, calibration_s, self.ranges_s + other.ranges_s)


@torch.inference_mode()
def measure_speed(supernet: Supernet, archs: Sequence[Arch], precision: Precision = "float32") -> Speed:
    """Mean of the archs, on noise, as time does not depend on images; on the supernet's device.

    Finding ranges is taken to last as long as classifying. Of networks with a head, what decodes their outputs counts.
    """
    decode = _decoder(supernet)
    size = (IMAGES, 3, supernet.space.image_size, supernet.space.image_size)
    x = torch.randn(size, generator=torch.Generator().manual_seed(0))
    x = x.to(supernet.device, memory_format=torch.channels_last)
    evaluation_s = calibration_s = 0.0
    for arch in archs:
        blocks = supernet.space.lower(arch)
        network = nn.Sequential(*(supernet.block_module(b).to(memory_format=torch.channels_last) for b in blocks))
        calibration_s += _fastest(partial(measure_statistics, network, [x]))
        run = quantized(network, [x]) if precision == "int8" else network
        evaluation_s += _fastest(partial(_decoded, decode, run, x))
    count, range_images = IMAGES * len(archs), RANGE_IMAGES if precision == "int8" else 0
    return Speed(evaluation_s / count, calibration_s / count, range_images * evaluation_s / count)


def _decoder(supernet: Supernet) -> Callable[[Any], Any]:
    """What is made of a network's outputs before they are judged."""
    space = supernet.space
    if not isinstance(space, HeadedSpace):
        return lambda outputs: outputs
    meaning: Any = space.meaning().to(supernet.device)
    return lambda state: meaning.decode(meaning.raw(state))


def _decoded(decode: Callable[[Any], Any], network: Callable[[Any], Any], x: Any) -> Any:
    return decode(network(x))


def _fastest(run: Callable[[], Any]) -> float:
    """Seconds of the faster of two runs, after one that allocates."""
    times = []
    for _ in range(3):
        start = time.perf_counter()
        run()
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return min(times[1:])
