"""python scripts/bench_lut.py: how well latency tables predict, how well they repeat, how fast they are built and read.

For each runtime and number of threads, by the commands that a user would give: two tables of the same space are built,
the first is validated on networks that it has not seen, and the figures are printed beside the bars they must reach.
Bare: the nano space on ONNX Runtime, OpenVINO and PyTorch at 1 and 2 threads, some 20 minutes. On a busy machine the
figures say so and mean little. Tables and validations lie in runs/bench-lut; those that are there from an earlier run
of the same flags are not measured again.
"""

from __future__ import annotations

import random
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from latency_lut.measurement.build import BuildConfig
from latency_lut.measurement.validate import ValidateConfig, report
from latency_lut.tables.diff import compare
from latency_lut.tables.plan import held_out_archs
from latency_lut.tables.predict import expected_error
from latency_lut.tables.table import LatencyTable
from nas.objective.mes import Objective, Term
from search_spaces import DEFAULT_SPACE, CostTable, SearchSpace, UserError, get_space
from search_spaces.command import Flags, flag, parse, run, spell
from search_spaces.command.files import read_json

FOLDER = Path("runs/bench-lut")
NUM_ARCHS = 100_000  # in a batch of predictions
MAX_MAPE = {1: 0.02, 2: 0.03}  # by threads
MIN_WITHIN_10_PERCENT, MIN_SPEARMAN, MAX_REBUILD, MAX_MINUTES, MIN_ARCHS_PER_SECOND = 0.99, 0.99, 0.03, 15, 1e6


@dataclass(frozen=True)
class BenchConfig(Flags):
    backends: tuple[str, ...] = flag(("onnxruntime", "openvino", "torch"), "runtimes; latency_lut.backends lists them")
    compute_unit: str | None = flag(None, "what the runtimes compute on (default: each one's first)")
    precision: str | None = flag(None, "number format (default: each runtime's first)")
    threads: tuple[int, ...] = flag(
        (1, 2), "threads that run one network on a CPU; 0: none is named, for --compute-unit cuda and others", minimum=0
    )
    python: str | None = flag(None, "interpreter of another environment, where the runtimes are installed")
    space: str = flag(DEFAULT_SPACE, "search space; python -m search_spaces lists them")
    samples: int = flag(40, "undisturbed samples of every graph and network", minimum=2)
    num_archs: int = flag(50, "random networks to validate on", minimum=3)
    rebuild: bool = flag(True, "build a second table and compare")
    resume: bool = flag(True, "use what an earlier run has measured")


@dataclass(frozen=True)
class Figure:
    """A measured value and the bar that it must reach: the most it may be, or the least if `at_least`."""

    name: str
    value: float
    bar: float
    format: str
    at_least: bool = False

    def __str__(self) -> str:
        reached = self.value >= self.bar if self.at_least else self.value <= self.bar
        value, bar = (format(number, self.format) for number in (self.value, self.bar))
        return f"{self.name:30}{value:>12}  {'>=' if self.at_least else '<='} {bar:12}{'' if reached else 'MISSED'}"


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


def measure(module: str, config: Any) -> None:
    """Runs a command of latency_lut in a process of its own: some runtimes fix their threads once per process.

    Raises:
        UserError: it failed; it has said why.
    """
    command = shlex.split(spell(module, config))
    if subprocess.run([sys.executable, *command[1:]], stdout=subprocess.DEVNULL, check=False).returncode:
        raise UserError(f"{shlex.join(command)} failed")


def build(config: BuildConfig, resume: bool) -> tuple[LatencyTable, float | None]:
    """The table, and the minutes it took; None if it, or a part of it, was there."""
    assert config.out is not None
    out = Path(config.out)
    if resume and out.exists():
        table = LatencyTable.load(out)
        if table.provenance.settings.samples == config.samples:
            return table, None
    interrupted = resume and out.with_name(f"{out.name}.partial").exists()
    start = time.monotonic()
    measure("latency_lut.build", config)
    return LatencyTable.load(out), None if interrupted else (time.monotonic() - start) / 60


def validation(config: ValidateConfig, table: LatencyTable, space: SearchSpace, resume: bool) -> Any:
    """The validation beside the table, made now unless it is there with the same flags and of the same table."""
    assert config.table is not None
    path = Path(config.table)
    out = path.with_suffix(".validation.json")
    if resume and out.exists() and expected_error(path, table, space):
        result = read_json(out)
        same = (result["num_archs"], result["samples"]) == (config.num_archs, config.samples)
        if same and "at_this_speed" in result:  # not of an earlier version
            return result
    measure("latency_lut.validate", config)
    return read_json(out)


def bench(config: BenchConfig, backend: str, threads: int) -> Iterator[Figure]:
    flags = [config.space, backend, config.compute_unit, config.precision, f"{threads}t" if threads else None]
    name = "-".join(filter(None, flags))
    first, second = (
        BuildConfig(
            backend,
            config.compute_unit,
            config.precision,
            threads or None,
            python=config.python,
            space=config.space,
            samples=config.samples,
            out=str(FOLDER / f"{name}-{which}.json"),
            resume=config.resume,
        )
        for which in "ab"
    )
    table, minutes = build(first, config.resume)
    space = get_space(config.space)
    print(f"\n{table.provenance.runtime}, {space.name} at {space.image_size} px", *table.warnings, sep="\n")
    if minutes is not None:
        yield Figure("build, minutes", minutes, MAX_MINUTES, ".1f")

    resume = config.resume and minutes is None  # else the table that was being validated is gone
    wanted = ValidateConfig(first.out, config.num_archs, config.samples, python=config.python, resume=resume)
    result = validation(wanted, table, space, config.resume)
    print(report(result))
    accuracy = result["table"]
    yield Figure("held-out MAPE", accuracy["mape"], MAX_MAPE.get(threads, max(MAX_MAPE.values())), ".1%")
    yield Figure("within 10 %", accuracy["within_10_percent"], MIN_WITHIN_10_PERCENT, ".0%", at_least=True)
    yield Figure("Spearman", accuracy["spearman"], MIN_SPEARMAN, ".3f", at_least=True)

    if config.rebuild:
        again, _ = build(second, config.resume)
        print(*(f"rebuilt: {warning}" for warning in again.warnings), sep="\n", end="\n" if again.warnings else "")
        change = compare(table, again, space, held_out_archs(space, table, 200, seed=0)).all_blocks
        assert change is not None
        yield Figure("rebuilt, median block differs", change.difference, MAX_REBUILD, ".1%")

    rng = random.Random(0)
    few = space.encode([space.sample(rng) for _ in range(1000)])
    encoded = np.tile(few, (NUM_ARCHS // len(few), 1))
    for what, predict in (("latency", table.predictor(space)), ("latency, size, MES", scores(space, table))):
        speed = archs_per_second(predict, encoded)
        yield Figure(f"archs/s, {what}", speed, MIN_ARCHS_PER_SECOND, ",.0f", at_least=True)


def main() -> None:
    config = parse(BenchConfig, None, "python scripts/bench_lut.py", __doc__ or "")
    for backend in config.backends:
        for threads in config.threads:
            for figure in bench(config, backend, threads):
                print(figure, flush=True)


if __name__ == "__main__":
    run(main, "the same command goes on with what was measured")
