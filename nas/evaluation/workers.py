"""Evaluations in Ray's actors, on this machine or on a cluster.

An actor loads the supernet and the images once, from the run's folder: on a cluster, that folder, the data and this
source lie at the same paths on every node. It computes in one thread, so what it finds is bit for bit what one process
with one thread finds. Ray replaces an actor that dies, and gives the new one the same archs again.
"""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, cached_property, partial
from itertools import accumulate
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from search_spaces import Arch, BlockSpec, SearchSpace, UserError
from search_spaces.command import flag

if TYPE_CHECKING:
    from nas.evaluation.evaluator import Evaluator
    from nas.evaluation.racing import Finish

TRIES = 4  # of a job whose actor dies
STORE_BYTES = 128 * 2**20  # of shared memory, on this machine: archs and accuracies go through it, and no images
CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 30.0  # most of which Ray takes to start asking

Job = tuple[Arch, Sequence[Arch]]  # archs, and what they share the beginnings with
Done = tuple[Sequence[Arch], Sequence[float]]  # archs with their accuracies


@dataclass(frozen=True)
class RayConfig:
    """Flags of a command that works through Ray."""

    workers: int = flag(0, "processes that work at a time, one thread each, through Ray (0: this one)", minimum=0)
    ray_address: str | None = flag(None, "host:port of a Ray cluster, or auto (default: this machine alone)")

    def check_workers(self) -> None:
        """UserError if there is a cluster and nothing is to run on it."""
        if self.ray_address and not self.workers:
            raise UserError(f"--ray-address {self.ray_address} is for --workers; give both or none")


@contextmanager
def cluster(config: RayConfig, device: str) -> Iterator[dict[str, float]]:
    """Ray for `config.workers` processes; yields what each of them takes: one CPU, its share of the GPUs.

    Raises:
        UserError: no cluster at the address, or one with too few CPUs.
    """
    import ray

    options: dict[str, Any] = {"address": config.ray_address}
    if config.ray_address is None:
        options = {"address": "local", "num_cpus": config.workers, "object_store_memory": STORE_BYTES}
        options["include_dashboard"] = False
    elif config.ray_address != "auto":
        check_address(config.ray_address)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent anywhere
    path = os.pathsep.join(filter(None, [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH")]))
    environment = {"env_vars": {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}}
    try:
        ray.init(**options, runtime_env=environment, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:  # Ray raises bare ones too
        reason = (str(error).splitlines() or [""])[0]
        if config.ray_address is not None:
            raise _unreachable(config.ray_address, reason) from None
        raise UserError(f"Ray did not start on this machine: {reason} Try again when it is less busy") from None
    try:
        resources = ray.cluster_resources()
        if (cpus := int(resources.get("CPU", 0))) < config.workers:
            raise UserError(f"--workers is {config.workers}, the Ray cluster has {cpus} CPUs; give at most that")
        gpus = 0 if device == "cpu" else int(resources.get("GPU", 0))
        # Ray places a worker on one GPU: shares that do not add up to whole GPUs would leave the last one waiting
        yield {"num_cpus": 1, "num_gpus": 1 / ceil(config.workers / gpus) if gpus else 0}
    finally:
        ray.shutdown()


def check_address(address: str) -> None:
    """UserError unless a Ray cluster answers there. Ray itself waits for minutes, and then ends the process."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), CONNECT_SECONDS).close()
    except (OSError, ValueError, OverflowError) as error:
        raise _unreachable(address, str(error)) from None
    ask = [sys.executable, "-m", "ray.scripts.scripts", "status", "--address", address]
    try:
        answer = subprocess.run(ask, capture_output=True, text=True, timeout=ANSWER_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise _unreachable(address, "what is there does not answer") from None
    if answer.returncode:
        raise _unreachable(address, (answer.stderr.strip().splitlines() or ["no answer"])[-1])


def _unreachable(address: str | None, reason: str) -> UserError:
    return UserError(
        f"no Ray cluster at --ray-address {address}: {reason}; give host:port of one that runs (`ray start --head`), "
        "or leave it out"
    )


@dataclass(frozen=True)
class EvaluatorConfig:
    """What an `Evaluator` is made of, the flags of nas.search."""

    run_folder: Path
    num_images: int | None = None
    calibration_images: int | None = None
    batch_size: int = 256
    device: str = "auto"
    loaders: int = 0


def make_evaluator(config: EvaluatorConfig) -> Evaluator:
    """Loads the supernet and the images of a run."""
    from nas import runs
    from nas.evaluation.evaluator import Evaluator
    from nas.networks.inherit import calibration_batches, calibration_count
    from nas.train_supernet import load_supernet
    from nas.training.trainer import pick_device

    data = runs.load_run_data(config.run_folder)
    supernet = load_supernet(config.run_folder, pick_device(config.device))
    size = supernet.space.image_size
    count = calibration_count(supernet, config.calibration_images)
    calibration = calibration_batches(data.train, size, count, supernet.device, config.loaders)
    images = data.search.spread(config.num_images or len(data.search))
    return Evaluator(supernet, images, size, config.batch_size, config.loaders, calibration)


class Here:
    """One worker, this process."""

    count = 1

    def __init__(self, make: Callable[[], Evaluator]) -> None:
        self._evaluator = make()
        self.num_images = self._evaluator.num_images
        self.num_calibration_images = self._evaluator.num_calibration_images
        self.calibration = [len(batch) for batch in self._evaluator.calibration]

    def race(self, base: Arch, archs: Sequence[Arch], gains: Sequence[float]) -> list[Finish]:
        """`Evaluator.race`: its actions wait for one another."""
        return self._evaluator.race(base, archs, gains)

    def evaluate(self, jobs: Sequence[Job]) -> Iterator[Done]:
        """One job after another."""
        for base, archs in jobs:
            yield archs, self._evaluator.accuracies(base, archs)


class Workers:
    """Actors, in a `cluster`.

    Args:
        make: called in each of them.
        resources: that each takes, as `cluster` yields them.
    """

    def __init__(self, make: Callable[[], Evaluator], count: int, resources: dict[str, float]) -> None:
        import ray
        from ray.util import ActorPool

        actor: Any = ray.remote(_Actor).options(max_restarts=-1, max_task_retries=TRIES - 1, **resources)
        actors = [actor.remote(make, str(Path.cwd())) for _ in range(count)]
        self.count = count
        with _mendable():
            self.num_images, self.num_calibration_images = ray.get([one.load.remote() for one in actors])[0]
        self.calibration = [self.num_calibration_images]
        self._pool = ActorPool(actors)

    def evaluate(self, jobs: Sequence[Job]) -> Iterator[Done]:
        """Each job as it is done. UserError if `TRIES` actors have died of one."""
        with _mendable():
            for i, accuracies in self._pool.map_unordered(_evaluate, list(enumerate(jobs))):
                yield jobs[i][1], accuracies


@contextmanager
def evaluators(config: RayConfig, evaluator: EvaluatorConfig) -> Iterator[Here | Workers]:
    """This process, or as many actors as there are to be workers."""
    make = partial(make_evaluator, evaluator)
    if not config.workers:
        yield Here(make)
        return
    with cluster(config, evaluator.device) as resources:
        yield Workers(make, config.workers, resources)


class _Actor:
    def __init__(self, make: Callable[[], Evaluator], folder: str) -> None:
        import torch

        os.chdir(folder)
        torch.set_num_threads(1)
        self._make = make

    @cached_property
    def _evaluator(self) -> Evaluator:
        """Made at the first job: what is raised then is raised there, not lost with the actor."""
        return self._make()

    def load(self) -> tuple[int, int]:
        return self._evaluator.num_images, self._evaluator.num_calibration_images

    def evaluate(self, number: int, job: Job) -> tuple[int, list[float]]:
        return number, self._evaluator.accuracies(*job)


def _evaluate(actor: Any, numbered: tuple[int, Job]) -> Any:
    return actor.evaluate.remote(*numbered)


@contextmanager
def _mendable() -> Iterator[None]:
    """UserErrors of actors as they were raised there, and what it means that actors die again and again."""
    import ray

    try:
        yield
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, UserError):
            raise UserError(str(error.cause)) from None
        raise
    except (ray.exceptions.RayActorError, ray.exceptions.OutOfMemoryError):
        raise UserError(
            f"{TRIES} workers have died of the same networks, perhaps of memory; go on with --resume and fewer "
            "--workers or a smaller --batch-size"
        ) from None


def split(space: SearchSpace, base: Arch, archs: Sequence[Arch], count: int) -> list[list[Arch]]:
    """At most `count` groups of nearly equal work, each of archs that leave `base` near one another."""
    from nas.evaluation.forwards import first_difference

    if count == 1:
        return [list(archs)]
    trunk = space.lower(base)
    before = list(accumulate(map(_work, trunk), initial=0))  # what all of a group run once
    starts, own = dict[Arch, int](), dict[Arch, int]()
    for arch in archs:
        blocks = space.lower(arch)
        starts[arch] = first_difference(trunk, blocks)
        own[arch] = sum(map(_work, blocks[starts[arch] :]))
    ordered = sorted(archs, key=starts.__getitem__)

    def filled(limit: float) -> list[list[Arch]]:
        groups, work = [[ordered[0]]], own[ordered[0]]
        for arch in ordered[1:]:
            work += own[arch]
            if before[starts[arch]] + work > limit:
                groups.append([])
                work = own[arch]
            groups[-1].append(arch)
        return groups

    limit = sum(own.values()) / count
    while len(groups := filled(limit)) > count:
        limit *= 1.02
    return groups


@cache
def _work(block: BlockSpec) -> int:
    """Elements that its operators write: time follows these more closely than it follows MACs."""
    return sum(activation.elements for activation in block.activations())
