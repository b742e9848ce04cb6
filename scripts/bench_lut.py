"""python scripts/bench_lut.py [TABLE ...]: how fast tables predict, and how well, as last validated.

Bare: all tables in runs/tables. Prediction of latency, parameters and MES is timed on one batch of 100,000 archs.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from latency_lut.build import TABLES
from latency_lut.table import LatencyTable, table_paths
from latency_lut.validate import report
from nas.objective import Objective, Term
from search_spaces import CostTable, SearchSpace, UserError, get_space
from search_spaces.command import flag, parse, run
from search_spaces.files import read_json

NUM_ARCHS = 100_000


@dataclass(frozen=True)
class BenchConfig:
    tables: tuple[str, ...] = flag((), "files of tables (default: all in runs/tables)", positional=True)


def archs_per_second(predict: Callable[[np.ndarray], np.ndarray], encoded: np.ndarray) -> float:
    """The fastest of five passes over the batch."""
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        predict(encoded)
        seconds.append(time.perf_counter() - start)
    return len(encoded) / min(seconds)


def scores(space: SearchSpace, table: LatencyTable) -> Callable[[np.ndarray], np.ndarray]:
    """The published MES, from latency and parameters."""
    objective = Objective((Term("latency_ms", 1.0, alpha=1.0), Term("num_params", 3e6, alpha=0.5)), limits={})
    latency_ms, num_params = table.predictor(space), CostTable(space, lambda block: block.num_params)
    return lambda encoded: objective.mes({"latency_ms": latency_ms(encoded), "num_params": num_params(encoded)})


def bench(path: Path) -> None:
    table = LatencyTable.load(path)
    space = get_space(table.space, table.image_size, table.num_classes)
    rng = random.Random(0)
    few = space.encode([space.sample(rng) for _ in range(1000)])
    encoded = np.tile(few, (NUM_ARCHS // len(few), 1))
    print(f"{path}: {archs_per_second(table.predictor(space), encoded):,.0f} archs/s latency, ", end="")
    print(f"{archs_per_second(scores(space, table), encoded):,.0f} archs/s latency, parameters and MES")
    validation = path.with_suffix(".validation.json")
    if validation.exists():
        print(report(read_json(validation)))
    else:
        print(f"not validated yet: python -m latency_lut.validate --table {path}")


def main(argv: Sequence[str] | None = None) -> None:
    config = parse(BenchConfig, argv, "python scripts/bench_lut.py", "How fast and how well latency tables predict.")
    paths = [Path(table) for table in config.tables] or table_paths(TABLES)
    if not paths:
        raise UserError(f"no table in {TABLES}; build one with python -m latency_lut.build")
    for path in paths:
        bench(path)


if __name__ == "__main__":
    run(lambda: main(sys.argv[1:]))
