"""The networks of a ranking study: which, in what folder, and each of them trained from scratch.

<study>/config.json, run.json, networks.json     settings, space and data, the networks and their costs
<study>/scratch/<number>-seed<seed>/             a training: checkpoint, metrics.jsonl, result.json
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import redirect_stderr
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from tqdm import tqdm

from latency_lut.tables.table import TABLES
from nas import runs
from nas.data import Data, DataConfig, load_data
from nas.distributed.ray import RayConfig, cluster, settle
from nas.evaluation.accuracy import accuracy
from nas.objective.costs import Costs
from nas.objective.mes import PUBLISHED, Objective
from nas.objective.metrics import LATENCY, METRICS
from nas.objective.tables import load_tables, newest
from nas.training.network import fresh, make_trainer
from nas.training.recipe import FREE_ON_RESUME, TrainConfig
from search_spaces import DEFAULT_SPACE, Arch, SearchSpace, UserError, get_space
from search_spaces.command import flag
from search_spaces.command.files import read_json, slug, write_json

POOL = 8192  # random archs that the networks are picked from
BAND = 0.15  # of a latency: how far networks of --band lie from it at most


@dataclass(frozen=True)
class Config(RayConfig, TrainConfig, DataConfig):
    space: str = flag(DEFAULT_SPACE, "search space; `python -m search_spaces` lists them")
    image_size: int | None = flag(None, "height and width of the images (default: the space's)")
    study: str | None = flag(None, "folder, or name under runs/studies/ (default: made of space and data)")
    count: int = flag(16, "networks, the largest and the smallest among them", minimum=5, maximum=1000)
    band: float | None = flag(
        None, "ms: random networks within 15 % of this latency instead, where size tells little", above=0
    )
    seeds: int = flag(2, "trainings of every network, with --seed and the seeds after it", minimum=1)
    metrics: tuple[Literal["latency", "size"], ...] = flag(("latency", "size"), "metrics of the MES to spread over")
    table: str | None = flag(None, "latency table (default: the newest that fits)")
    runs: tuple[str, ...] = flag((), "runs of nas.train_supernet to compare")
    arms: tuple[str, ...] = flag((), "supernets to train here and compare, as loss/sampling/norm")
    supernet_epochs: int | None = flag(None, "epochs of these supernets (default: those of the networks)", minimum=1)
    calibration_images: int = flag(2048, "training images that norms are recalibrated on", minimum=2)


FREE = (*FREE_ON_RESUME, "study", "runs", "arms", "ray_workers", "ray_address")
AMEND = ("seeds", "supernet_epochs", "calibration_images")


@dataclass(frozen=True)
class Network:
    """
    Args:
        costs: num_params, macs, mes, and latency_ms where there is a table.
    """

    arch: Arch
    costs: dict[str, float]


@dataclass(frozen=True)
class Study:
    config: Config
    folder: Path
    info: runs.RunInfo
    networks: tuple[Network, ...]  # the largest first, the smallest last; of a band the slowest and the fastest

    @cached_property
    def space(self) -> SearchSpace:
        return self.info.search_space()

    @cached_property
    def data(self) -> Data:
        return runs.load_run_data(self.folder)

    @property
    def seeds(self) -> range:
        return range(self.config.seed, self.config.seed + self.config.seeds)

    def training(self, number: int, seed: int) -> Path:
        """The folder of the network's training with that seed."""
        return self.folder / "scratch" / f"{number:02}-seed{seed}"


# ---- which networks


def study_folder(config: Config) -> Path:
    data = Path(config.data).name.removesuffix(".tar") or "data"
    name = config.study or slug(f"rank-{config.space}-{data}")
    return Path(name) if "/" in name else runs.RUNS / "studies" / name


def open_study(config: Config) -> Study:
    """Picks the networks of a new study, or reads those of the one that is there.

    Raises:
        UserError: no latency table, too small a space, or a study of other settings.
    """
    config.check_workers()
    folder = study_folder(config)
    if (folder / "config.json").exists():
        changed = runs.reopen(folder, config, FREE, (*AMEND, *runs.ClassesRun.may_move))
        if runs.has_moved(folder, config):
            runs.load_run_data(folder, config)
        info = runs.load_classes_info(folder)
        space = info.search_space()
        networks = [Network(space.from_json(n["arch"]), n["costs"]) for n in read_json(folder / "networks.json")]
        runs.record_place(folder, config)
        runs.record(folder, changed)
        return Study(config, folder, info, tuple(networks))
    data = load_data(config)
    space = get_space(config.space, config.image_size, len(data.classes))
    paths = _tables(config, space)
    config = replace(config, table=str(paths[LATENCY]) if paths else None)
    costs = Costs(space, load_tables(paths, space), _objective(config))
    if config.band is None:
        archs = pick(space, costs, config.count, config.seed)
    else:
        archs = pick_in_band(space, costs, config.count, config.band, config.seed)
    networks = [Network(arch, costs.one(arch)) for arch in archs]
    info = runs.ClassesRun.of(space, data.normalized(space.mean, space.std), config.data_config())
    runs.save_run_info(folder, info)
    write_json(folder / "networks.json", [{"arch": space.to_json(n.arch), "costs": n.costs} for n in networks])
    runs.begin(folder, config)
    return Study(config, folder, info, tuple(networks))


def pick(space: SearchSpace, costs: Costs, count: int, seed: int) -> list[Arch]:
    """The largest, the smallest, and between them random archs nearest to equally spaced log MES."""
    extremes = (space.largest, space.smallest)
    drawn = [arch for arch in _pool(space, seed) if arch not in extremes]
    if len(drawn) < count - 2:
        raise UserError(f"--count is {count}, of {space.name} {len(drawn) + 2} networks were found; give at most that")
    mes = np.log(costs.batch(drawn)["mes"])
    low, high = np.log(costs.batch(extremes)["mes"])
    chosen: dict[int, Arch] = {}
    for target in np.linspace(low, high, count)[1:-1]:
        nearest = (int(i) for i in np.argsort(np.abs(mes - target), kind="stable"))
        unused = next(i for i in nearest if i not in chosen)
        chosen[unused] = drawn[unused]
    return [space.largest, *chosen.values(), space.smallest]


def pick_in_band(space: SearchSpace, costs: Costs, count: int, band_ms: float, seed: int) -> list[Arch]:
    """Random archs within 15 % of a latency, the slowest first.

    Raises:
        UserError: costs without a latency; too few of the archs drawn lie there.
    """
    if LATENCY not in costs.metrics:
        raise UserError(f"--band {band_ms:g} needs a latency; give latency among --metrics, with a --table")
    drawn = _pool(space, seed)
    latencies = costs.batch(drawn)[LATENCY]
    within = np.flatnonzero(np.abs(latencies / band_ms - 1) <= BAND)
    if len(within) < count:
        low, middle, high = np.percentile(latencies, [5, 50, 95])
        raise UserError(
            f"--band {band_ms:g} ms: {len(within)} of {len(drawn)} random networks of {space.name} lie within 15 % of "
            f"it, --count asks for {count}; most take {low:.3g} to {high:.3g} ms, give one near {middle:.3g}"
        )
    chosen = within[:count]
    return [drawn[i] for i in chosen[np.argsort(-latencies[chosen], kind="stable")]]


def _pool(space: SearchSpace, seed: int) -> list[Arch]:
    rng = random.Random(seed)
    return list(dict.fromkeys(space.sample(rng) for _ in range(POOL)))


def _objective(config: Config) -> Objective:
    if not config.metrics:
        raise UserError("--metrics is empty; give latency, size or both")
    names = [METRICS[metric].key for metric in config.metrics]
    return Objective(tuple(term for term in PUBLISHED.terms if term.metric in names), {})


def _tables(config: Config, space: SearchSpace) -> dict[str, Path]:
    paths = {LATENCY: Path(config.table)} if config.table else newest(space)
    if paths or "latency" not in config.metrics:
        return paths
    raise UserError(
        f"no latency table of {space.name} at {space.image_size} px with {space.num_classes} classes under {TABLES}/; "
        f"build one with python -m latency_lut.build --space {space.name} --image-size {space.image_size} "
        f"--num-classes {space.num_classes}, or give --metrics size"
    )


# ---- from scratch


def train_all(study: Study) -> np.ndarray:
    """(seeds, networks) test accuracies from scratch, fractions; trains what is not yet finished.

    All networks are trained with the first seed before any with the second.
    """
    every = [(number, seed) for seed in study.seeds for number in range(len(study.networks))]
    todo = [job for job in every if not _finished(study, *job)]
    if todo:
        done = _train_through_ray(study, todo) if study.config.ray_workers else _train_here(study, todo)
        for number, seed in done:
            result = read_json(study.training(number, seed) / "result.json")
            tqdm.write(
                f"network {number}, seed {seed}: {100 * result['test_accuracy']:.2f} % from scratch, "
                f"{result['minutes']:.1f} minutes"
            )
    results = [read_json(study.training(*job) / "result.json") for job in every]
    return np.array([r["test_accuracy"] for r in results]).reshape(len(study.seeds), -1)


def scratch_minutes(study: Study) -> float:
    """Of all finished trainings."""
    found = (study.training(n, seed) / "result.json" for seed in study.seeds for n in range(len(study.networks)))
    return sum(read_json(path)["minutes"] for path in found if path.exists())


def _finished(study: Study, number: int, seed: int) -> bool:
    path = study.training(number, seed) / "result.json"
    if not path.exists():
        return False
    result = read_json(path)
    if (result["arch"], result["seed"]) != (study.space.to_json(study.networks[number].arch), seed):
        raise UserError(f"{path} is of another network or seed than this study's; give another --study, or move it")
    return True


def _train_here(study: Study, todo: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    for i, (number, seed) in enumerate(todo):
        train_one(study, number, seed, study.data, f"network {number}, seed {seed} ({i + 1} of {len(todo)})")
        yield number, seed


def train_one(study: Study, number: int, seed: int, data: Data, description: str) -> None:
    """Trains the network, or goes on with it, and writes its result."""
    config, space, folder = replace(study.config, seed=seed), study.space, study.training(number, seed)
    arch = study.networks[number].arch
    trainer = make_trainer(config, folder, space.image_size, data, fresh(config, space, arch))
    trainer.resume()
    trainer.fit(description)
    model = trainer.ema.module.eval()
    result: dict[str, Any] = {
        "arch": space.to_json(arch),
        "seed": seed,
        "test_accuracy": accuracy(model, data.test, space.image_size, trainer.device, config.num_workers),
        "minutes": trainer.seconds / 60,
    }
    write_json(folder / "result.json", result)


def _train_through_ray(study: Study, todo: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Each training is a task with one CPU and its share of the GPUs."""
    import ray

    bare = replace(study)  # without the images: every process opens them itself
    with cluster(study.config, study.config.device) as resources:
        task = ray.remote(_train_task).options(max_retries=0, **resources)
        jobs = {task.remote(bare, number, seed, str(Path.cwd())): (number, seed) for number, seed in todo}
        with tqdm(total=len(jobs), desc="networks from scratch", unit="network") as bar:
            while jobs:
                (done,), _ = ray.wait(list(jobs))
                job = jobs.pop(done)
                try:
                    message = ray.get(done)
                except (ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError):
                    message = (
                        f"the process of network {job[0]} has died, perhaps of memory; go on with fewer --ray-workers"
                    )
                if message:
                    raise UserError(message)
                bar.update()
                yield job


_load_data = cache(runs.load_run_data)


def _train_task(study: Study, number: int, seed: int, cwd: str) -> str:
    """Trains in a process of Ray's; returns what the user can mend. Progress goes to a file in the network's folder."""
    settle(cwd)
    folder = study.training(number, seed)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "progress.log").open("a", encoding="utf-8") as log, redirect_stderr(log):
        try:
            train_one(study, number, seed, _load_data(study.folder), f"network {number}, seed {seed}")
        except UserError as error:
            return str(error)
    return ""
