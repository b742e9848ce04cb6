"""Who evaluates the networks of a search, and by which images."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.distributed.ray import RayConfig, cluster
from nas.evaluation.workers import LocalEvaluator, RayEvaluator
from nas.objective.precisions import RANGE_IMAGES, Precision

if TYPE_CHECKING:
    from nas.evaluation.evaluator import Evaluator


@dataclass(frozen=True)
class EvaluatorConfig:
    """What an `Evaluator` is made of, the flags of nas.search."""

    run_folder: Path
    num_images: int | None = None
    calibration_images: int | None = None
    batch_size: int = 256
    device: str = "auto"
    num_workers: int = 0
    precisions: tuple[Precision, ...] = ("float32",)


def make_evaluator(config: EvaluatorConfig) -> Evaluator:
    """Loads the supernet and the images of a run."""
    from nas import runs
    from nas.dense.judge import DenseJudge
    from nas.distributed.device import pick_device
    from nas.evaluation.evaluator import Evaluator
    from nas.evaluation.judge import ClassJudge, Judge
    from nas.networks.inherit import calibration_batches, calibration_count, load_supernet
    from nas.supernets.kinds import kind_of

    data: Any = runs.load_run_images(config.run_folder)
    supernet = load_supernet(config.run_folder, pick_device(config.device))
    size = supernet.space.image_size
    count = calibration_count(supernet, config.calibration_images)
    calibration = calibration_batches(data.train, size, count, supernet.device, config.num_workers)
    of_ranges = RANGE_IMAGES if "int8" in config.precisions else 0
    ranges = calibration_batches(data.train, size, of_ranges, supernet.device, config.num_workers)
    images = data.search.spread(config.num_images or len(data.search))
    judge: Judge[Any]
    if (kind := kind_of(supernet.space.name)) is None:
        judge = ClassJudge(images, size, config.batch_size, config.num_workers)
    else:
        judge = DenseJudge(kind, images, supernet.space, supernet.device, config.num_workers)
    return Evaluator(supernet, judge, config.batch_size, calibration, ranges)


@contextmanager
def evaluators(config: RayConfig, evaluator: EvaluatorConfig) -> Iterator[LocalEvaluator | RayEvaluator]:
    """This process, or as many actors as there are to be workers."""
    make = partial(make_evaluator, evaluator)
    if not config.ray_workers:
        yield LocalEvaluator(make)
        return
    with cluster(config, evaluator.device) as resources:
        yield RayEvaluator(make, config.ray_workers, resources)
