"""A training step of a timm network with `mend_convolutions` over one without, on one thread of this CPU.

    python -m scripts.bench_convolutions --model tf_efficientnet_lite0 --image-size 64

Both take turns; the median of the ratios is printed.
"""

from __future__ import annotations

import copy
import statistics
import time
from dataclasses import dataclass

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from search_spaces.command import Flags, flag, parse, run
from supernet.convolutions import mend_convolutions

CLASSES = 10


@dataclass(frozen=True)
class Config(Flags):
    model: str = flag("tf_efficientnet_lite0", "timm name of the network")
    image_size: int = flag(64, "height and width of the images", minimum=1)
    batch_size: int = flag(32, "images of a step", minimum=1)
    pairs: int = flag(7, "steps of each", minimum=1)


def step_seconds(network: nn.Module, images: Tensor, labels: Tensor) -> float:
    start = time.perf_counter()
    F.cross_entropy(network(images), labels).backward()
    return time.perf_counter() - start


def main() -> None:
    config = parse(Config, None, "python -m scripts.bench_convolutions", __doc__ or "")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    plain = timm.create_model(config.model, num_classes=CLASSES).train().to(memory_format=torch.channels_last)
    mended = mend_convolutions(copy.deepcopy(plain))
    shape = (config.batch_size, 3, config.image_size, config.image_size)
    images = torch.randn(shape).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, CLASSES, (config.batch_size,))
    ratios = []
    for number in tqdm(range(config.pairs + 1), leave=False):
        before, after = (step_seconds(network, images, labels) for network in (plain, mended))
        if number:  # the first warms up
            ratios.append(after / before)
    low, middle, high = min(ratios), statistics.median(ratios), max(ratios)
    print(f"{config.model} at {config.image_size} px: mended / plain {middle:.2f} ({low:.2f} to {high:.2f})")


if __name__ == "__main__":
    run(main)
