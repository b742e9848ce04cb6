"""Networks of the ablations with weights of a supernet: found by a search, or pruned from a larger one."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from latency_lut.backends.registry import make_backend
from nas import runs
from nas.data import Data
from nas.data.batches import eval_batches, normalize
from nas.evaluation.accuracy import accuracy
from nas.networks.importance import TAYLOR_BATCH, magnitude, taylor
from nas.networks.inherit import inherited
from nas.pruning.latency import measure
from nas.pruning.selection import Ranking, default_scope, select
from nas.training.network import make_trainer
from nas.training.recipe import TrainConfig, with_recipe
from search_spaces import Arch, SearchSpace, macs, num_params
from search_spaces.command.files import read_json, write_json
from search_spaces.structure.base import Structure
from search_spaces.structure.costs import Costs
from search_spaces.structure.families.registry import is_known, prepare
from search_spaces.structure.slicing import prune
from search_spaces.structure.verify import describe
from supernet import Supernet, recalibrate

Criterion = Literal["magnitude", "taylor"]
TAYLOR_IMAGES = 512


@dataclass(frozen=True)
class Weights:
    """A supernet, and what its networks are evaluated with.

    Args:
        dataset: its name, as --data has it.
        calibration: batches that norms are recalibrated on; none where each width has its own.
        num_images: of the test split; None: all.
        known: file of what has been evaluated.
    """

    supernet: Supernet
    data: Data
    dataset: str
    calibration: tuple[Tensor, ...]
    num_images: int | None
    known: Path

    @property
    def space(self) -> SearchSpace:
        return self.supernet.space

    @property
    def num_tested(self) -> int:
        """Images of the test split that networks are evaluated on."""
        return min(self.num_images or len(self.data.test), len(self.data.test))


@dataclass(frozen=True)
class Network:
    """
    Args:
        name: all that its weights depend on, besides the supernet.
        accuracy: on the test split, with the supernet's weights and norms recalibrated; a fraction.
    """

    name: str
    model: nn.Module
    accuracy: float
    num_params: int
    macs: int


def whole(weights: Weights, arch: Arch) -> Network:
    """A network of the space."""
    space, model = weights.space, inherited(weights.supernet, arch, weights.calibration)
    if is_known(model):
        prepare(model)  # as those are that are pruned, beside which it is timed
    return _network(weights, model, _name(weights, arch), num_params(space, arch), macs(space, arch))


def pruned(
    weights: Weights, arch: Arch, criterion: Criterion, limit: int, kinds: Collection[str] | None = None
) -> Network:
    """A network of the space pruned to `limit` parameters, chosen as `nas.prune` does by default.

    Args:
        kinds: of the dimensions that may shrink; None: all. A network of no known family has widths alone.
    """
    model = inherited(weights.supernet, arch, weights.calibration)
    structure = described(weights.space, arch, model)
    scores = magnitude(model, structure) if criterion == "magnitude" else taylor(model, structure, _labelled(weights))
    costs, ranking = Costs(model, structure, _example(weights)), Ranking(default_scope(criterion), "macs")
    kept = select(_restricted(structure, kinds), scores, costs, "params", limit, ranking)
    structure = prune(model, structure, kept)
    if weights.calibration:
        recalibrate(model, weights.calibration)
    images = f" of {TAYLOR_IMAGES} images, {TAYLOR_BATCH} at a time" if criterion == "taylor" else ""
    how = f"{criterion}{images} and {ranking} to {limit} parameters, kinds {kinds and sorted(kinds)}"
    costs, sizes = Costs(model, structure, _example(weights)), structure.sizes
    name = f"{_name(weights, arch)}, pruned by {how}"
    return _network(weights, model, name, costs.num_params(sizes), costs.macs(sizes))


def described(space: SearchSpace, arch: Arch, model: nn.Module) -> Structure:
    """What can be pruned of a network of the space, which is made prunable in place; as `nas.prune` finds it.

    Raises:
        UserError: nothing can be.
    """
    if is_known(model):
        return prepare(model)
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        layouts, _ = describe(space.build(arch).eval(), space.image_size)
    return layouts.structure(model)


def measured_ms(models: Mapping[str, nn.Module], image_size: int, samples: int) -> dict[str, float]:
    """Time of each with ONNX Runtime and one thread, by its fastest sample, all interleaved."""
    found = measure(models, image_size, make_backend("onnxruntime", 1), samples)
    if found.busy:
        print("warning: other work disturbed the measurement; give the same command again on a quiet machine")
    return {name: found.timings[name].min_ms for name in models}


def retrained(weights: Weights, folder: Path, network: Network, epochs: int, seed: int) -> float:
    """Test accuracy after training on from the inherited weights, by the recipe of `nas.retrain`."""
    path = folder / "result.json"
    if path.exists():
        return float(read_json(path)["test_accuracy"])
    space, data = weights.space, weights.data
    config = with_recipe(TrainConfig(), space.image_size, weights.dataset, epochs, space.recipe)
    batch = min(config.batch_size, len(data.train))
    config = replace(config, epochs=epochs, seed=seed, batch_size=batch, device=weights.supernet.device.type)
    trainer = make_trainer(config, folder, space.image_size, data, network.model)
    if (folder / "config.json").exists():
        runs.reopen(folder, config, ("device",))
        trainer.resume()
    else:
        runs.begin(folder, config)
    trainer.fit(folder.name)
    found = accuracy(trainer.ema.module.eval(), data.test, space.image_size, trainer.device)
    write_json(path, {"test_accuracy": found, "epochs": epochs})
    return found


def _name(weights: Weights, arch: Arch) -> str:
    return f"{arch.values}, norms of {sum(map(len, weights.calibration))} images"


def _network(weights: Weights, model: nn.Module, name: str, num_params: int, macs: int) -> Network:
    known: dict[str, Any] = read_json(weights.known) if weights.known.exists() else {}
    images = weights.data.test
    images = images.spread(weights.num_images or len(images))
    key = f"{name}, tested on {len(images)}"
    if key not in known:
        known[key] = accuracy(model.eval(), images, weights.space.image_size, weights.supernet.device)
        write_json(weights.known, known)
    return Network(name, model, known[key], num_params, macs)


def _restricted(structure: Structure, kinds: Collection[str] | None) -> Structure:
    dimensions = (d if kinds is None or d.kind in kinds else replace(d, minimum=d.size) for d in structure.dimensions)
    return replace(structure, dimensions=tuple(dimensions))


def _labelled(weights: Weights) -> list[tuple[Tensor, Tensor]]:
    """Training images, in batches."""
    images, device = weights.data.train, weights.supernet.device
    batches = eval_batches(images.spread(min(TAYLOR_IMAGES, len(images))), weights.space.image_size, TAYLOR_BATCH)
    read = ((normalize(x, device)[labels >= 0], labels[labels >= 0].to(device)) for x, labels in batches)
    return [(x, labels) for x, labels in read if len(labels)]


def _example(weights: Weights) -> Tensor:
    size = weights.space.image_size
    return torch.zeros(1, 3, size, size, device=weights.supernet.device)
