"""What a search costs, and what its strategies find.

    python scripts/bench_search.py                       # one step on the digits, and archs costed a second
    python scripts/bench_search.py --run cifar10 --num-images 500      # the strategies on a trained supernet
    python scripts/bench_search.py --run cifar10 --num-images 1000 --racing    # slimming with races, and --exact
    python scripts/bench_search.py --run cifar10 --ray-workers 2           # evaluations a second, against one process

The first compares a step of slimming with the shared prefix and every action evaluated alone; times are ratios of
interleaved runs, the accuracies of both must be the same numbers. Weights are fresh: time does not depend on them, and
equal figures are the harder to get by chance the nearer the classes are.

The second runs each strategy from several seeds. An arch is evaluated once for all of them, in a study of its own in
`bench-search/` of the run, so an interrupted benchmark goes on by the same command. Hypervolume is of accuracy above
guessing and of the logarithm of MES above that of the largest network. Overhead is all that a search computes beside
forward passes, with what recording an evaluation takes; both are CPU seconds.

The third slims with races and without (`--exact`), and compares what both choose from the states of the second. The
fourth evaluates the same archs in one process and in Ray's workers, each with one thread, by turns: the frontier of
the largest network, as slimming does, and random archs one by one, as the other strategies do.
"""

from __future__ import annotations

from search_spaces.command import start

if __name__ == "__main__":
    start.prepare()

import random
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from latency_lut.tables.table import LatencyTable, find_table
from nas import runs
from nas.data import DataConfig, load_data
from nas.distributed.ray import RayConfig, cluster
from nas.evaluation.evaluator import Evaluator
from nas.evaluation.forwards import Forwards
from nas.evaluation.judge import ClassJudge
from nas.evaluation.workers import Done, Job, LocalEvaluator, RayEvaluator, split
from nas.objective.costs import Costs
from nas.objective.hypervolume import hypervolume_history
from nas.objective.mes import PUBLISHED, Objective
from nas.objective.metrics import LATENCY
from nas.searching.evaluators import EvaluatorConfig, make_evaluator
from nas.searching.slimming import Step, next_step, slim
from nas.searching.strategies import explore
from nas.searching.study import Study
from search_spaces import DEFAULT_SPACE, Arch, CostTable, UserError, get_space
from search_spaces.command import align, flag, parse, run
from search_spaces.command.files import sha256, write_json
from supernet import Supernet

STRATEGIES = ("slimming", "random", "nsga2", "tpe", "gp", "predictor")
AT = (50, 100, 150, 250, 500)  # evaluations
EARLY = 150  # with which `predictor` must have NSGA-II's last hypervolume
MAX_OVERHEAD = 0.05
MAX_FORWARDS = 0.35  # image-forwards of slimming with races, by those of evaluating each action alone
MIN_SAME = 0.95  # part of the steps in which a race chooses what all images choose


@dataclass(frozen=True)
class Config(RayConfig):
    space: str = flag(DEFAULT_SPACE, "search space")
    pairs: int = flag(3, "interleaved pairs of each step", minimum=1)
    num_archs: int = flag(2, "random networks to take a step from, beside the largest", minimum=0)
    batch: int = flag(100_000, "archs costed at once", minimum=1)
    run: str | None = flag(None, "run of a supernet: compare strategies on it")
    table: str | None = flag(None, "latency table for that (default: the newest)")
    strategies: tuple[str, ...] = flag(STRATEGIES, "to compare")
    seeds: tuple[int, ...] = flag((0, 1, 2), "of each", minimum=0)
    budget: int = flag(500, "evaluations of each", minimum=1)
    num_images: int = flag(500, "images of the search split", minimum=1)
    calibration_images: int | None = flag(None, "training images for norms (default: as nas.search)", minimum=2)
    racing: bool = flag(False, "compare slimming with races and without")


def bench(config: Config) -> None:
    space, rng = get_space(config.space, num_classes=10), random.Random(0)
    torch.manual_seed(0)
    supernet = Supernet(space).to(memory_format=torch.channels_last).eval()
    evaluator = Evaluator(supernet, ClassJudge(load_data(DataConfig()).search, space.image_size))
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
    objective = Objective.of(latency_ms=1.0, num_params=1.0)
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


# ---- strategies


@dataclass
class Clock:
    """CPU seconds of forward passes and of recording, and how many archs they were for."""

    evaluating: float = 0.0
    recording: float = 0.0
    archs: int = 0


@dataclass(frozen=True)
class Trial:
    """A strategy from one seed: (evaluations, 2) accuracies and logarithms of MES, and its own CPU seconds."""

    points: np.ndarray
    seconds: float


@dataclass
class Bench:
    """Evaluates for all strategies what any of them asks for, once."""

    costs: Costs
    study: Study
    evaluator: Evaluator
    facts: dict[str, Any]
    clock: Clock = field(default_factory=Clock)

    def mes(self, archs: Sequence[Arch]) -> list[float]:
        found: list[float] = self.costs.batch(archs)["mes"].tolist()
        return found

    @property
    def reference(self) -> np.ndarray:
        """Accuracy of guessing, and the logarithm of the largest network's MES."""
        space = self.costs.space
        return np.array([1 / space.num_classes, np.log(self.costs.one(space.largest)["mes"])])

    def accuracies(self, base: Arch, archs: Sequence[Arch]) -> list[float]:
        clock, before = self.clock, time.process_time()
        evaluating = clock.evaluating
        found = self.study.accuracies(archs, lambda new: self._evaluate(base, new), 0)
        clock.recording += time.process_time() - before - (clock.evaluating - evaluating)
        return found

    def _evaluate(self, base: Arch, archs: Sequence[Arch]) -> Iterator[Done]:
        before = time.process_time()
        found = self.evaluator.accuracies(base, archs)
        self.clock.evaluating += time.process_time() - before
        self.clock.archs += len(archs)
        yield archs, found

    def trial(self, strategy: str, budget: int, seed: int) -> Trial:
        asked: dict[Arch, float] = {}

        def accuracies(base: Arch, archs: Sequence[Arch]) -> list[float]:
            found = self.accuracies(base, archs)
            asked.update(zip(archs, found, strict=True))
            return found

        def evaluate(archs: Sequence[Arch]) -> list[float]:
            return [accuracies(arch, [arch])[0] for arch in archs]

        clock = self.clock
        before = time.process_time() - clock.evaluating - clock.recording
        if strategy == "slimming":
            for _ in slim(self.costs.space, self.mes, lambda base, archs, _: accuracies(base, archs)):
                pass
        else:
            explore(strategy, self.costs, evaluate, budget, seed)
        seconds = time.process_time() - clock.evaluating - clock.recording - before
        scores = np.log(self.costs.batch(list(asked))["mes"])
        return Trial(np.stack([list(asked.values()), scores], axis=1), seconds)


def bench_strategies(config: Config) -> None:
    bench = _bench(config)
    space, clock = bench.costs.space, bench.clock
    rows = [["strategy", *(f"HV at {n}" for n in AT if n <= config.budget), "evaluations", "CPU s each"]]
    volumes: dict[str, dict[int, list[float]]] = {}
    seconds: dict[str, float] = {}
    for strategy in config.strategies:
        seeds = config.seeds[:1] if strategy == "slimming" else config.seeds
        trials = [bench.trial(strategy, config.budget, seed) for seed in seeds]
        histories = [hypervolume_history(trial.points, bench.reference) for trial in trials]
        at = {n: [float(h[min(n, len(h)) - 1]) for h in histories] for n in AT if n <= config.budget}
        volumes[strategy] = at
        seconds[strategy] = statistics.mean(trial.seconds / len(trial.points) for trial in trials)
        evaluations = statistics.mean(len(trial.points) for trial in trials)
        cells = (f"{statistics.mean(v):.4f} ({min(v):.4f}-{max(v):.4f})" for v in at.values())
        rows.append([strategy, *cells, f"{evaluations:.0f}", f"{seconds[strategy]:.4f}"])
        print(align([rows[0], rows[-1]], "<" + ">" * (len(rows[0]) - 1)), flush=True)
    print(f"\n{space.name}, {bench.evaluator.num_images} images; mean (least-most) over seeds {config.seeds}")
    print(align(rows, "<" + ">" * (len(rows[0]) - 1)))
    _print_bars(volumes, config.budget)
    if clock.archs:
        forward, recording = clock.evaluating / clock.archs, clock.recording / clock.archs
        shares = {name: (own + recording) / (own + recording + forward) for name, own in seconds.items()}
        print(f"an evaluation: {forward:.3f} CPU s of forward passes, {recording:.4f} to record it; overhead of all:")
        for name, share in shares.items():
            print(f"  {name:10} {100 * share:6.2f} %{'' if share <= MAX_OVERHEAD else '  MISSED'}")
    write_json(Path(bench.study.place).with_name("result.json"), volumes)


def _bench(config: Config) -> Bench:
    assert config.run is not None
    run_folder = runs.find_trained(config.run)
    space = runs.load_classes_info(run_folder).search_space()
    table = find_table(config.table)
    costs = Costs(space, {LATENCY: LatencyTable.load(table)}, PUBLISHED)
    evaluator = make_evaluator(_evaluator(config, run_folder))
    folder = run_folder / "bench-search"
    folder.mkdir(exist_ok=True)
    digests = [sha256(path) for path in (table, run_folder / "supernet/supernet.safetensors")]
    counts = {"num_images": evaluator.num_images, "calibration_images": evaluator.num_calibration_images}
    facts = {"table_sha256": digests[0], "supernet_sha256": digests[1], **counts}
    name = f"{evaluator.num_images} images, {evaluator.num_calibration_images} to calibrate on"
    return Bench(costs, Study(folder / "study.log", name, space, costs.one, facts), evaluator, facts)


def _evaluator(config: Config, run_folder: Path) -> EvaluatorConfig:
    return EvaluatorConfig(run_folder, config.num_images, config.calibration_images, device="cpu")


# ---- workers


def bench_workers(config: Config) -> None:
    assert config.run is not None
    run_folder = runs.find_trained(config.run)
    space, rng = runs.load_classes_info(run_folder).search_space(), random.Random(0)
    make = partial(make_evaluator, _evaluator(config, run_folder))
    torch.set_num_threads(1)
    here, frontier = LocalEvaluator(make), [action.arch for action in space.slim(space.largest)]
    drawn = [space.sample(rng) for _ in range(len(frontier))]

    def jobs(kind: str, count: int) -> list[Job]:
        if kind == "random":
            return [(arch, (arch,)) for arch in drawn]
        return [(space.largest, group) for group in split(space, space.largest, frontier, count)]

    with cluster(config, "cpu") as resources:
        workers = RayEvaluator(make, config.ray_workers, resources)
        print(
            f"{space.name}, {here.num_images} images, evaluations a second of {config.ray_workers} workers and of one"
        )
        for kind in ("frontier", "random"):
            pairs = []
            for _ in range(config.pairs):
                (many, found), (one, alone) = (_rate(each, jobs(kind, each.count)) for each in (workers, here))
                assert found == alone, "a worker has other figures"
                pairs.append((many, one, many / one))
            many, one, ratio = (statistics.median(column) for column in zip(*pairs, strict=True))
            print(f"{kind:10} {many:8.2f} / {one:8.2f} = {ratio:.3f} (medians)", flush=True)


def _rate(evaluator: LocalEvaluator | RayEvaluator, jobs: Sequence[Job]) -> tuple[float, dict[Arch, float]]:
    """Evaluations a second, and the accuracies."""
    start = time.perf_counter()
    found: dict[Arch, float] = {}
    for archs, accuracies in evaluator.evaluate(jobs):
        found |= zip(archs, accuracies, strict=True)
    return len(found) / (time.perf_counter() - start), found


def _print_bars(volumes: dict[str, dict[int, list[float]]], budget: int) -> None:
    """What `predictor` must reach: early NSGA-II's last hypervolume, and at last more than every other strategy."""
    means = {name: {n: statistics.mean(v) for n, v in at.items()} for name, at in volumes.items()}
    last = AT[-1]
    if "predictor" not in means or budget < last:
        return
    ours = means.pop("predictor")
    bars = [(EARLY, "nsga2")] if "nsga2" in means else []
    for evaluations, name in [*bars, *((last, name) for name in means)]:
        missed = "" if ours[evaluations] >= means[name][last] else "  MISSED"
        print(f"predictor at {evaluations}: {ours[evaluations]:.4f}, {name} at {last}: {means[name][last]:.4f}{missed}")


# ---- races


def bench_racing(config: Config) -> None:
    bench = _bench(config)
    space, evaluator, seconds = bench.costs.space, bench.evaluator, {"exact": 0.0, "racing": 0.0}
    counted = Forwards(space, evaluator.num_images, [len(batch) for batch in evaluator.calibration])
    races = Study(bench.study.place, f"{bench.study.name}, races", space, bench.costs.one, bench.facts)
    numbers = count(1)

    def exact(base: Arch, archs: Sequence[Arch], _: Sequence[float]) -> list[float]:
        before = time.process_time()
        found = bench.study.accuracies(archs, lambda new: iter([(new, evaluator.accuracies(base, new))]), 0)
        seconds["exact"] += time.process_time() - before
        return found

    def racing(base: Arch, archs: Sequence[Arch], gains: Sequence[float]) -> list[float | None]:
        if not gains:
            counted.add(base, archs)
            return [*exact(base, archs, gains)]
        before = time.process_time()
        race = races.race(base, archs, gains, evaluator.race, next(numbers))
        seconds["racing"] += time.process_time() - before
        counted.add(base, archs, race)
        return [None if finish.dropped else finish.accuracy for finish in race]

    def one_race(base: Arch, archs: Sequence[Arch], gains: Sequence[float]) -> list[float | None]:
        return [None if finish.dropped else finish.accuracy for finish in evaluator.race(base, archs, gains)]

    steps = list(tqdm(slim(space, bench.mes, racing), desc="with races", unit="step"))
    trajectory = list(tqdm(slim(space, bench.mes, exact), desc="exact", unit="step"))
    chosen = {before.arch: after for before, after in pairwise(steps)}
    same = []
    for i, (before, after) in enumerate(pairwise(trajectory)):
        raced = chosen.get(before.arch) or next_step(space, before, bench.mes, one_race)
        assert raced is not None
        same.append(raced.arch == after.arch)
        if not same[-1]:
            print(f"step {i}: {after.action}, {after.accuracy}; with a race {raced.action}, {raced.accuracy}")
    _print_racing(bench, counted, steps, trajectory, same, seconds)


def _print_racing(
    bench: Bench,
    counted: Forwards,
    steps: Sequence[Step],
    trajectory: Sequence[Step],
    same: Sequence[bool],
    seconds: dict[str, float],
) -> None:
    forwards, share = counted.to_json(), statistics.mean(same)
    volumes = [
        float(hypervolume_history(np.array([[s.accuracy, np.log(s.mes)] for s in each]), bench.reference)[-1])
        for each in (trajectory, steps)
    ]
    print(f"{bench.costs.space.name}, {bench.study.name}")
    print(f"image-forwards, each action alone: {forwards['alone']:,}")
    print(f"  with the shared prefix: {forwards['shared']:,}, {counted.shared / counted.alone:.3f}")
    ratio = counted.run / counted.alone
    print(f"  with races: {forwards['run']:,}, {ratio:.3f}{'' if ratio <= MAX_FORWARDS else '  MISSED'}")
    print(f"CPU seconds (of what an interrupted run left): exact {seconds['exact']:.0f}, races {seconds['racing']:.0f}")
    print(f"same action in {sum(same)} of {len(same)} steps, {share:.3f}{'' if share >= MIN_SAME else '  MISSED'}")
    print(f"hypervolume of the trajectory: exact {volumes[0]:.4f}, with races {volumes[1]:.4f}")
    found = {"image_forwards": forwards, "same": share, "steps": len(same), "hypervolumes": volumes}
    write_json(Path(bench.study.place).with_name("racing.json"), found)


def main() -> None:
    config = parse(Config, None, "python scripts/bench_search.py", __doc__ or "")
    if config.ray_workers and config.run is None:
        raise UserError("--ray-workers needs --run, the run of a supernet that they load")
    if config.ray_workers:
        bench_workers(config)
    elif config.run is None:
        bench(config)
    elif config.racing:
        bench_racing(config)
    else:
        bench_strategies(config)


if __name__ == "__main__":
    run(main)
