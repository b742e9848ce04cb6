"""python scripts/bench_cuda.py: whether what tables of a GPU are measured by can be trusted. For a machine with a GPU.

For the smallest and largest network of a space, in each precision: the time of a run as the event clock has it, and
beside it, as ratios,
- wall clock: of many runs, by the event clock; much above 1 means that something waits which events do not see,
- eager launch: launching each kernel from Python, by replaying the graph: what capturing is for,
- other layout: the memory layout that is not chosen, by the chosen one; below 1 it should have been the other.
Tables are built and validated as everywhere: python -m latency_lut.build --backend torch --compute-unit cuda.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from latency_lut.backends.base import Job, network_job
from latency_lut.backends.protocol import measure
from latency_lut.backends.pytorch import CUDA, PRECISIONS, TorchBackend
from search_spaces import DEFAULT_SPACE, get_space
from search_spaces.command import Flags, flag, parse, run


@dataclass(frozen=True)
class Config(Flags):
    space: str = flag(DEFAULT_SPACE, "search space")
    samples: int = flag(20, "of each figure, interleaved", minimum=3)


class OtherLayout(TorchBackend):
    def _channels_last(self) -> bool:
        return not super()._channels_last()


def wall_ms(work: Callable[[], object]) -> float:
    torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return (time.perf_counter() - start) * 1e3


def figures(job: Job, precision: str, samples: int) -> tuple[float, float, float, float]:
    """Milliseconds of a run, and the three ratios."""
    chosen = TorchBackend(precision=precision, compute_unit=CUDA)
    other = OtherLayout(precision=precision, compute_unit=CUDA)
    other.clock = chosen.clock
    runs = {"chosen": chosen.prepare(job).run, "other": other.prepare(job).run}
    timings = measure(runs, chosen.settings(samples), chosen.clock).timings
    graph_ms = timings["chosen"].median_ms

    forward, images = chosen.loaded(job)
    repeats = max(1, round(20 / graph_ms))

    def eager() -> None:
        with torch.inference_mode():
            for _ in range(repeats):
                forward(images)

    eager()
    wall, launched = [], []
    for _ in range(samples):
        before = chosen.clock.now_ns()
        elapsed = wall_ms(lambda: runs["chosen"](repeats))
        by_events = (chosen.clock.now_ns() - before) / 1e6
        wall.append(elapsed / by_events)
        launched.append(wall_ms(eager) / by_events)
    return graph_ms, statistics.median(wall), statistics.median(launched), timings["other"].median_ms / graph_ms


def bench(config: Config) -> None:
    space = get_space(config.space)
    print(TorchBackend(compute_unit=CUDA).describe())
    print(f"{'network':10}{'precision':10}{'ms':>9}{'wall clock':>12}{'eager launch':>14}{'other layout':>14}")
    for name in ("smallest", "largest"):
        for precision in PRECISIONS[CUDA]:
            ms, *ratios = figures(network_job(space, getattr(space, name)), precision, config.samples)
            print(
                f"{name:10}{precision:10}{ms:9.4f}"
                + "".join(f"{r:{w}.2f}" for r, w in zip(ratios, (12, 14, 14), strict=True))
            )


if __name__ == "__main__":
    run(lambda: bench(parse(Config, None, "python scripts/bench_cuda.py", "Checks what GPU tables are measured by.")))
