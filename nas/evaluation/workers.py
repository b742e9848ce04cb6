"""Evaluations in Ray's actors, on this machine or on a cluster.

An actor loads the supernet and the images once, from the run's folder: on a cluster, that folder, the data and this
source lie at the same paths on every node. It computes in one thread, so what it finds is bit for bit what one process
with one thread finds. Ray replaces an actor that dies, and gives the new one the same archs again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, cached_property
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nas.distributed.ray import TRIES, settle
from nas.objective.precisions import RANGE_IMAGES, Precision
from search_spaces import Arch, BlockSpec, SearchSpace, UserError

if TYPE_CHECKING:
    from nas.evaluation.evaluator import Evaluator
    from nas.evaluation.racing import Finish

Job = tuple[Arch, Sequence[Arch]]  # archs, and what they share the beginnings with
Done = tuple[Sequence[Arch], Sequence[float]]  # archs with their accuracies


class LocalEvaluator:
    """One worker, this process."""

    count = 1

    def __init__(self, make: Callable[[], Evaluator]) -> None:
        self._evaluator = make()
        self.num_images = self._evaluator.num_images
        self.num_calibration_images = self._evaluator.num_calibration_images

    def calibration(self, precision: Precision) -> list[int]:
        """Images of each batch that a network in that precision is calibrated on."""
        ranges = self._evaluator.range_images if precision == "int8" else []
        return [len(batch) for batch in (*self._evaluator.calibration, *ranges)]

    def race(
        self, base: Arch, archs: Sequence[Arch], gains: Sequence[float], precision: Precision = "float32"
    ) -> list[Finish]:
        """`Evaluator.race`: its actions wait for one another."""
        return self._evaluator.race(base, archs, gains, precision)

    def scores(self, archs: Sequence[Arch], precision: Precision = "float32") -> np.ndarray:
        """`Evaluator.scores`."""
        return self._evaluator.scores(archs, precision)

    def evaluate(self, jobs: Sequence[Job], precision: Precision = "float32") -> Iterator[Done]:
        """One job after another."""
        for base, archs in jobs:
            yield archs, self._evaluator.accuracies(base, archs, precision)


class RayEvaluator:
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
        self._pool = ActorPool(actors)

    def calibration(self, precision: Precision) -> list[int]:
        """Images of each batch that a network in that precision is calibrated on."""
        return [self.num_calibration_images, RANGE_IMAGES if precision == "int8" else 0]

    def evaluate(self, jobs: Sequence[Job], precision: Precision = "float32") -> Iterator[Done]:
        """Each job as it is done. UserError if `TRIES` actors have died of one."""
        with _mendable():
            numbered = [(i, job, precision) for i, job in enumerate(jobs)]
            for i, accuracies in self._pool.map_unordered(_evaluate, numbered):
                yield jobs[i][1], accuracies

    def scores(self, archs: Sequence[Arch], precision: Precision = "float32") -> np.ndarray:
        """`Evaluator.scores`, an arch at a time."""
        with _mendable():
            asked = [([arch], precision) for arch in archs]
            return np.concatenate(list(self._pool.map(_scores, asked)))


class _Actor:
    def __init__(self, make: Callable[[], Evaluator], folder: str) -> None:
        settle(folder)
        self._make = make

    @cached_property
    def _evaluator(self) -> Evaluator:
        """Made at the first job: what is raised then is raised there, not lost with the actor."""
        return self._make()

    def load(self) -> tuple[int, int]:
        return self._evaluator.num_images, self._evaluator.num_calibration_images

    def evaluate(self, number: int, job: Job, precision: Precision) -> tuple[int, list[float]]:
        return number, self._evaluator.accuracies(*job, precision)

    def scores(self, archs: Sequence[Arch], precision: Precision) -> np.ndarray:
        return self._evaluator.scores(archs, precision)


def _scores(actor: Any, asked: tuple[Sequence[Arch], Precision]) -> Any:
    return actor.scores.remote(*asked)


def _evaluate(actor: Any, numbered: tuple[int, Job, Precision]) -> Any:
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
            "--ray-workers or a smaller --batch-size"
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
