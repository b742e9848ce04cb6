"""A subnet through the supernet against the same network extracted: time of a training step and of evaluation.

    python scripts/bench_supernet.py                                   # the nano space, batch 64
    python scripts/bench_supernet.py --space efficientformerv2 --batch-size 8 --num-archs 1
    python scripts/bench_supernet.py --space timm/tf_efficientnet_lite0 --image-size 64 --norm shared --batch-size 32

Prints ratios, each the median over interleaved pairs of one run; 1 is the limit. Evaluation is what a search does:
batches through the blocks' own contiguous copies. The sandwich step is compared with its four networks' own steps, its
peak memory with that of the largest network's step, each in a process of its own.
"""

from __future__ import annotations

from search_spaces.command import Flags, start

if __name__ == "__main__":
    start.prepare()

import multiprocessing
import random
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import nn
from torch.nn import functional as F

from search_spaces import DEFAULT_SPACE, get_space
from search_spaces.command import flag, parse, run
from supernet import LOSSES, SAMPLERS, Supernet, train_step
from supernet.convolutions import mend_convolutions


@dataclass(frozen=True)
class Config(Flags):
    space: str = flag(DEFAULT_SPACE, "search space")
    image_size: int | None = flag(None, "height and width of the images (default: the space's)")
    norm: Literal["width", "shared"] = flag(
        "width", "normalization of the supernet: one for each width, or one for all"
    )
    batch_size: int = flag(64, "images of a step", minimum=1)
    num_archs: int = flag(4, "random archs beside the largest and the smallest", minimum=0)
    pairs: int = flag(15, "interleaved pairs for each figure", minimum=1)


def ratio(ours: Callable[[], object], peer: Callable[[], object], pairs: int) -> float:
    """Median over interleaved pairs of ours / peer, after one warm-up of each."""
    ours(), peer()
    ratios = []
    for i in range(pairs):
        order = (ours, peer) if i % 2 == 0 else (peer, ours)  # neither always runs on the other's warm cache
        seconds = {}
        for work in order:
            start = time.perf_counter()
            work()
            seconds[work] = time.perf_counter() - start
        ratios.append(seconds[ours] / seconds[peer])
    return statistics.median(ratios)


def bench(config: Config) -> None:
    # first: a child's peak begins with its parent's memory
    static, ours = (peak_memory_mib(config, name) for name in ("static", "sandwich"))
    space = get_space(config.space, config.image_size)
    supernet = Supernet(space, norm=config.norm).to(memory_format=torch.channels_last)
    size = (config.batch_size, space.in_chans, space.image_size, space.image_size)
    x = torch.randn(size).contiguous(memory_format=torch.channels_last)
    target = torch.randint(0, space.num_classes, (config.batch_size,))
    rng = random.Random(0)

    def step(model: nn.Module, *arch: object) -> None:
        for parameter in parameters[model]:  # as an optimizer does, which keeps the list
            parameter.grad = None
        F.cross_entropy(model(x, *arch), target).backward()

    parameters: dict[nn.Module, list[nn.Parameter]] = {supernet: list(supernet.parameters())}
    print(f"{space.name}, batch {config.batch_size}, {space.image_size} px, {torch.get_num_threads()} threads")
    print(f"{'arch':12} {'params M':>9} {'MACs M':>9} {'training step':>14} {'evaluation':>11}")
    archs = {"largest": space.largest, "smallest": space.smallest}
    archs |= {f"random {i}": space.sample(rng) for i in range(config.num_archs)}
    rows = []
    for name, arch in archs.items():
        model = mend_convolutions(supernet.extract(arch)).to(memory_format=torch.channels_last)
        parameters[model] = list(model.parameters())
        supernet.train(), model.train()
        training = ratio(partial(step, supernet, arch), partial(step, model), config.pairs)
        blocks = nn.Sequential(*(supernet.block_module(block) for block in space.lower(arch)))
        blocks.to(memory_format=torch.channels_last)
        model.eval()
        with torch.inference_mode():
            evaluation = ratio(partial(blocks, x), partial(model, x), config.pairs)
        costs = [sum(getattr(b, n) for b in space.lower(arch)) / 1e6 for n in ("num_params", "macs")]
        print(f"{name:12} {costs[0]:9.3f} {costs[1]:9.2f} {training:14.3f} {evaluation:11.3f}")
        rows.append((training, evaluation))
    for i, what in enumerate(("training step", "evaluation")):
        print(f"median of {what}: {statistics.median(row[i] for row in rows):.3f}")

    drawn = SAMPLERS["sandwich"](space, 2)(rng, lambda _: 0.0)
    extracted = (mend_convolutions(supernet.extract(arch)) for arch in drawn)
    models = [model.to(memory_format=torch.channels_last).train() for model in extracted]
    parameters |= {model: list(model.parameters()) for model in models}
    supernet.train()

    def sandwich() -> None:
        for parameter in parameters[supernet]:
            parameter.grad = None
        train_step(supernet, x, target, drawn, F.cross_entropy, LOSSES["kl"])

    def separate() -> None:
        for model in models:
            step(model)

    print(f"sandwich step over its four static steps: {ratio(sandwich, separate, config.pairs):.3f}")
    print(f"peak memory of a sandwich step over the largest's: {ours / static:.3f} ({ours:.0f} / {static:.0f} MiB)")


def peak_memory_mib(config: Config, what: str) -> float:
    """What a few training steps add to the memory of a fresh process, weights and gradients included."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        return process.submit(_peak_memory_mib, config, what).result()


def _peak_memory_mib(config: Config, what: str) -> float:
    import resource  # not on Windows

    space = get_space(config.space, config.image_size)
    size = (config.batch_size, space.in_chans, space.image_size, space.image_size)
    x = torch.randn(size).contiguous(memory_format=torch.channels_last)
    target = torch.randint(0, space.num_classes, (config.batch_size,))
    drawn = SAMPLERS["sandwich"](space, 2)(random.Random(0), lambda _: 0.0)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    static = mend_convolutions(space.build(space.largest)) if what == "static" else None
    supernet = None if static else Supernet(space, norm=config.norm)
    (static or supernet).to(memory_format=torch.channels_last)  # type: ignore[union-attr]
    for _ in range(3):
        if static:
            static.train().zero_grad(set_to_none=True)
            F.cross_entropy(static(x), target).backward()
        if supernet:
            supernet.train().zero_grad(set_to_none=True)
            train_step(supernet, x, target, drawn, F.cross_entropy, LOSSES["kl"])
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**10


def main() -> None:
    bench(parse(Config, None, "python scripts/bench_supernet.py", __doc__ or ""))


if __name__ == "__main__":
    run(main)
