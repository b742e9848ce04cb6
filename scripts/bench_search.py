"""One step of the search with the shared prefix against evaluating every action alone, and archs costed a second.

    python scripts/bench_search.py                                  # the nano space on the digits' search split

Times are ratios of interleaved runs; the accuracies of both must be the same numbers. Weights are fresh: time does
not depend on them, and equal figures are the harder to get by chance the nearer the classes are.
"""

from __future__ import annotations

import random
import statistics
import time
from dataclasses import dataclass

import torch

from nas.data import DataConfig, load_data
from nas.evaluator import Evaluator
from nas.objective import UNITS, Objective, Term
from search_spaces import CostTable, get_space
from search_spaces.command import flag, parse, run
from supernet import Supernet


@dataclass(frozen=True)
class Config:
    space: str = flag("efficientformerv2-nano", "search space")
    pairs: int = flag(3, "interleaved pairs of each step", minimum=1)
    num_archs: int = flag(2, "random networks to take a step from, beside the largest", minimum=0)
    batch: int = flag(100_000, "archs costed at once", minimum=1)


def bench(config: Config) -> None:
    space = get_space(config.space, num_classes=10)
    torch.manual_seed(0)
    supernet = Supernet(space).to(memory_format=torch.channels_last).eval()
    evaluator = Evaluator(supernet, load_data(DataConfig()).search, space.image_size)
    rng = random.Random(0)
    bases = {"largest": space.largest, **{f"random {i}": space.sample(rng) for i in range(config.num_archs)}}
    print(f"{space.name}, {evaluator.num_images} images, {torch.get_num_threads()} threads")
    print(f"{'step from':10} {'actions':>8} {'shared / alone':>15} {'blocks run':>11} {'same figures':>13}")
    ratios = []
    for name, base in bases.items():
        archs = [action.arch for action in space.slim(base)]
        times, blocks, figures = [], [], []
        for _ in range(config.pairs):
            for shared in (True, False):
                before, start = evaluator.block_forwards, time.perf_counter()
                found = evaluator.accuracies(base, archs) if shared else [evaluator.accuracy(a) for a in archs]
                times.append(time.perf_counter() - start)
                blocks.append(evaluator.block_forwards - before)
                figures.append(found)
        ratio = statistics.median(a / b for a, b in zip(times[::2], times[1::2], strict=True))
        same = all(found == figures[0] for found in figures)
        print(f"{name:10} {len(archs):8} {ratio:15.3f} {blocks[0] / blocks[1]:11.3f} {'yes' if same else 'NO':>13}")
        ratios.append(ratio)
    print(f"median of shared / alone: {statistics.median(ratios):.3f}")
    _bench_costs(config, rng)


def _bench_costs(config: Config, rng: random.Random) -> None:
    """Latency stands for any additive cost here: a table's predictor is the same sum over the same slots."""
    space = get_space(config.space)
    sample = [space.sample(rng) for _ in range(min(config.batch, 2000))]
    archs = [sample[i % len(sample)] for i in range(config.batch)]
    objective = Objective(tuple(Term(name, UNITS[name], 1.0) for name in ("latency_ms", "num_params")), {})
    start = time.perf_counter()
    costs = {
        "latency_ms": CostTable(space, lambda b: b.macs * 1e-9),
        "num_params": CostTable(space, lambda b: b.num_params),
    }
    built = time.perf_counter()
    encoded = space.encode(archs)
    coded = time.perf_counter()
    objective.mes({name: cost(encoded) for name, cost in costs.items()})
    scored = time.perf_counter()
    print(
        f"latency, params and MES of {len(archs):,} archs: {len(archs) / (scored - built):,.0f} archs/s from Arch "
        f"objects, {len(archs) / (scored - coded):,.0f} archs/s from encoded archs; "
        f"tables set up in {built - start:.3f} s"
    )


def main() -> None:
    bench(parse(Config, None, "python scripts/bench_search.py", __doc__ or ""))


if __name__ == "__main__":
    run(main)
