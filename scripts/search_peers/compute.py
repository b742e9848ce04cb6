"""How much training a winner of a search has had, as forward passes: multiply-accumulates × images."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from nas import runs
from nas.proving.search import Search
from nas.runs.results import REMEDY, Ending
from nas.supernets.classification import Config
from nas.supernets.elastic import step_archs
from nas.training.recipe import TrainConfig
from search_spaces import CostTable, macs
from search_spaces.command.typed import load_typed


def winner_compute(search: Search, winner: str, num_images: int) -> float:
    """Its own training, and its share of the supernet's: all winners that were retrained have an equal one.

    Args:
        num_images: of the training split.
    """
    folder = search.trained(winner)
    images = _steps(folder, config := runs.begun(folder, TrainConfig), num_images) * config.batch_size
    own = macs(search.space, search.winners[winner]) * images
    return own + supernet_compute(search, num_images) / len(search.winners)


def supernet_compute(search: Search, num_images: int) -> float:
    """Of all networks that its training drew; best-up and worst-up are counted with the first that they compare."""
    folder = search.run_folder / "supernet"
    config = runs.begun(folder, Config)
    archs_of_step = step_archs(config, search.space, config.steps_per_epoch(num_images))
    steps = _steps(folder, config, num_images)
    archs = [arch for number in range(steps) for arch in archs_of_step(number, lambda _: 0.0)]
    costs = CostTable(search.space, lambda block: block.macs)(search.space.encode(archs))
    return float(np.sum(costs)) * config.batch_size


def epochs_for(compute: float, num_macs: int, config: TrainConfig, num_images: int) -> int:
    """As many as a network of these MACs has of this compute; at least one."""
    return max(1, round(compute / (num_macs * config.steps_per_epoch(num_images) * config.batch_size)))


def _steps(folder: Path, config: TrainConfig, num_images: int) -> int:
    """That a finished training took."""
    ending = load_typed(Ending, folder / "result.json", REMEDY)
    return round((ending["stopped_epoch"] or ending["epochs"]) * config.steps_per_epoch(num_images))
