"""Training by two processes against one, and bf16 against float32: ratios of interleaved runs on a CPU.

    python scripts/bench_distributed.py                              # the nano space, 64 images a process and step
    python scripts/bench_distributed.py --space efficientformerv2 --batch-size 8 --image-size 224

Every process has one thread, and the same number of images of a step; images are noise and in memory. Contestants
take turns for a few steps each, so that what else the machine does slows all of them.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

import numpy as np

from nas.data import Data, Images, Splits
from nas.data.sources import Decoded, Skipped
from nas.distributed import collectives, process
from nas.supernets.classification import Config, make_trainer
from search_spaces import DEFAULT_SPACE, SearchSpace, get_space
from search_spaces.command import Flags, flag, parse, run

BAR = 1.5  # images/s of two processes over those of one
WARM_UP = 2  # steps before the first window


@dataclass(frozen=True)
class BenchConfig(Flags):
    space: str = flag(DEFAULT_SPACE, "search space")
    image_size: int | None = flag(None, "height and width of the images (default: the space's)")
    batch_size: int = flag(64, "images of a step, of each process", minimum=2)
    rounds: int = flag(5, "windows of each contestant", minimum=1)
    steps: int = flag(3, "steps of a window", minimum=1)


@dataclass(frozen=True)
class Contestant:
    """Processes that train together, by our ends of pipes to them."""

    images: int  # of a step of all
    pipes: Sequence[Connection]
    store: object  # by which they meet

    def images_per_s(self, steps: int) -> float:
        for pipe in self.pipes:
            pipe.send(steps)
        return self.images * steps / max(pipe.recv() for pipe in self.pipes)


def synthetic(space: SearchSpace, count: int) -> Data:
    rng = np.random.default_rng(0)
    shape = (count, space.image_size, space.image_size, space.in_chans)
    labels = rng.integers(0, space.num_classes, count)
    classes = tuple(map(str, range(space.num_classes)))
    source = Decoded(tuple(rng.integers(0, 256, shape, dtype=np.uint8)), labels, classes, "")
    images = Images(source, np.arange(count), labels, Skipped(strict=False))
    return Data(images, images, images, classes, Splits(count, count, count, (), ""))


def train(config: BenchConfig, amp: Literal["bf16", "off"], place: dict[str, str], pipe: Connection) -> None:
    """A process of a contestant: as many steps as it is told to, until it is told 0; answers with their seconds."""
    os.environ.update(place)
    with collectives.job(), tempfile.TemporaryDirectory() as folder:
        batch_size = config.batch_size * process.world_size()
        space = get_space(config.space, config.image_size)
        settings = Config(batch_size=batch_size, epochs=1_000_000, augment="light", amp=amp, device="cpu")
        trainer = make_trainer(settings, Path(folder), space, synthetic(space, batch_size))
        training = trainer.steps()
        for _ in range(WARM_UP):
            next(training)
        pipe.send("ready")
        while steps := pipe.recv():
            start = time.perf_counter()
            for _ in range(steps):
                next(training)
            pipe.send(time.perf_counter() - start)


def start(config: BenchConfig, processes: int, amp: Literal["bf16", "off"] = "off") -> Contestant:
    os.environ["OMP_NUM_THREADS"] = "1"
    context: Any = multiprocessing.get_context("spawn")  # they import torch after their number of threads is set
    store, places = collectives.places(processes)
    pipes = []
    for place in places:
        ours, theirs = context.Pipe()
        context.Process(target=train, args=(config, amp, place, theirs), daemon=True).start()
        theirs.close()  # so that one that fails is noticed
        pipes.append(ours)
    for pipe in pipes:
        assert pipe.recv() == "ready"
    return Contestant(config.batch_size * processes, pipes, store)


def bench(config: BenchConfig) -> None:
    contestants = {"one": start(config, 1), "two": start(config, 2), "bf16": start(config, 1, "bf16")}
    print(f"{config.space}, {config.batch_size} images a process and step, one thread each; images/s:")
    rates: dict[str, list[float]] = {name: [] for name in contestants}
    for i in range(config.rounds):
        for name in contestants if i % 2 == 0 else reversed(contestants):
            rates[name].append(contestants[name].images_per_s(config.steps))
        print("  ".join(f"{name} {rates[name][-1]:8.1f}" for name in contestants))
    two, bf16 = (
        statistics.median(a / b for a, b in zip(rates[name], rates["one"], strict=True)) for name in ("two", "bf16")
    )
    print(f"two processes over one: {two:.2f} (bar {BAR}){'' if two >= BAR else '  MISSED'}")
    print(f"bf16 over float32, time of a step: {1 / bf16:.2f}")
    for contestant in contestants.values():
        for pipe in contestant.pipes:
            with contextlib.suppress(OSError):
                pipe.send(0)


def main(argv: Sequence[str] | None = None) -> None:
    bench(parse(BenchConfig, argv, "python scripts/bench_distributed.py", __doc__ or ""))


if __name__ == "__main__":
    run(main)
