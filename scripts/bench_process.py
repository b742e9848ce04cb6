"""What a command sets in its process does to a training step: how OpenMP waits and how malloc keeps memory.

    python scripts/bench_process.py

Three processes train the same supernet: one as libraries are by themselves, one with the setting of OpenMP that
`search_spaces.command.start` makes, one with all that it sets. They take steps by turns, while nothing else runs and
while one process computes. Ratios are medians over the turns: beside the busy process over alone, with OpenMP set at
most 2.6 on two cores; alone over by itself, at most 1.03 with OpenMP set, below 1 with malloc set too.
"""

from __future__ import annotations

import multiprocessing
import os
import statistics
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection

from search_spaces import DEFAULT_SPACE
from search_spaces.command import Flags, align, flag, parse, run, start


@dataclass(frozen=True)
class Config(Flags):
    space: str = flag(DEFAULT_SPACE, "search space")
    batch_size: int = flag(64, "images of a step", minimum=1)
    threads: int | None = flag(None, "of a step (default: as many as there are cores)", minimum=1)
    pairs: int = flag(7, "steps of each process, alone and beside the busy one", minimum=1)


SETTINGS = ("by itself", "OpenMP set", "OpenMP and malloc set")
CONTEXT = multiprocessing.get_context("spawn")  # OpenMP reads its environment when torch is loaded


@contextmanager
def trainer(config: Config, setting: str) -> Iterator[Connection]:
    """A process that takes a training step whenever it is sent anything, and sends the seconds that it took."""
    environment = {name: os.environ.pop(name) for name in start.WAITING if name in os.environ}
    if setting != SETTINGS[0]:
        os.environ[start.SPIN[0]] = start.SPIN[1]
    ours, theirs = CONTEXT.Pipe()
    process = CONTEXT.Process(target=_train, args=(config, theirs, setting == SETTINGS[2]), daemon=True)
    process.start()
    os.environ.pop(start.SPIN[0], None)
    os.environ.update(environment)
    try:
        ours.recv()  # a first step, which loads and allocates
        yield ours
    finally:
        process.kill()
        process.join()


def _train(config: Config, pipe: Connection, keep: bool) -> None:
    if keep:
        start.keep_memory()
    import torch
    from torch.nn import functional as F

    from search_spaces import get_space
    from supernet import LOSSES, Supernet, train_step

    torch.manual_seed(0)
    torch.set_num_threads(config.threads or os.cpu_count() or 1)
    space = get_space(config.space)
    supernet = Supernet(space).to(memory_format=torch.channels_last).train()
    size = (config.batch_size, space.in_chans, space.image_size, space.image_size)
    images = torch.randn(size).contiguous(memory_format=torch.channels_last)
    target = torch.randint(0, space.num_classes, (config.batch_size,))
    archs = (space.largest, space.smallest)
    while True:
        begin = time.perf_counter()
        supernet.zero_grad(set_to_none=True)
        train_step(supernet, images, target, archs, F.cross_entropy, LOSSES["kl"])
        pipe.send(time.perf_counter() - begin)
        pipe.recv()


@contextmanager
def busy() -> Iterator[None]:
    """One process that computes meanwhile."""
    process = CONTEXT.Process(target=_compute, daemon=True)
    process.start()
    time.sleep(1)  # until it has started
    try:
        yield
    finally:
        process.kill()
        process.join()


def _compute() -> None:
    while True:
        pass


def step_seconds(pipe: Connection) -> float:
    pipe.send(None)
    return float(pipe.recv())


def bench(config: Config) -> None:
    with ExitStack() as stack:
        pipes = [stack.enter_context(trainer(config, setting)) for setting in SETTINGS]
        alone = [[step_seconds(pipe) for pipe in pipes] for _ in range(config.pairs)]
        with busy():
            beside = [[step_seconds(pipe) for pipe in pipes] for _ in range(config.pairs)]
    rows: list[tuple[str, ...]] = [("process", "alone, s", "over by itself", "beside one, s", "beside / alone")]
    for i, name in enumerate(SETTINGS):
        medians = [statistics.median(turn[i] for turn in turns) for turns in (alone, beside)]
        ratio = statistics.median(turn[i] / turn[0] for turn in alone)
        rows.append((name, f"{medians[0]:.3f}", f"{ratio:.3f}", f"{medians[1]:.3f}", f"{medians[1] / medians[0]:.2f}"))
    print(f"{config.space}, batch {config.batch_size}, {config.threads or os.cpu_count()} threads")
    print(align(rows, "<>>>>"))


def main() -> None:
    bench(parse(Config, None, "python scripts/bench_process.py", __doc__ or ""))


if __name__ == "__main__":
    run(main)
