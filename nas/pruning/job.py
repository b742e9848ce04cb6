"""What nas.prune does with a network: prune, fine-tune, measure, export, report."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from latency_lut.backend import Backend
from latency_lut.backends import make_backend
from nas import runs
from nas.batches import eval_batches, normalize
from nas.data import Data
from nas.export import export_coreml, export_onnx
from nas.networks import renormalization
from nas.pruning import recipe as recipes
from nas.pruning.config import Config
from nas.pruning.costs import Costs
from nas.pruning.latency import deployed, measure, stage_times_ms
from nas.pruning.page import MES, write_page
from nas.pruning.recipe import Recipe
from nas.pruning.rounds import CPU_MACS, Pruner
from nas.pruning.source import Source
from nas.pruning.structure import Structure
from nas.retrain import make_trainer
from nas.training import Trainer, accuracy, pick_device
from search_spaces import UserError
from search_spaces.files import atomic_folder, read_json, write_json


@dataclass(frozen=True)
class Network:
    """A network with its weights and how to build it again."""

    recipe: Recipe
    model: nn.Module
    structure: Structure


class Renormalized(nn.Module):
    """The network behind images that `nas.batches.normalize` made, whatever its own mean and deviation."""

    scale: Tensor
    shift: Tensor

    def __init__(self, network: nn.Module, recipe: Recipe) -> None:
        super().__init__()
        self.network = network
        for name, tensor in zip(("scale", "shift"), renormalization(recipe.mean, recipe.std), strict=True):
            self.register_buffer(name, tensor, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images * self.scale + self.shift)
        return logits


def prune_network(config: Config, folder: Path, source: Source, data: Data) -> dict[str, Any]:
    """Does, or goes on with, the whole job in `folder`, and returns its `result.json`."""
    backend = make_backend(config.backend, config.threads)
    backend.describe()
    job = _Job(config, folder, data, backend)
    dense = job.dense(source)
    before = job.accuracies(dense)
    print(f"{dense.recipe.name}: test accuracy {100 * before['test']:.2f} %", flush=True)
    pruned, seconds = job.prune(dense)
    cut = job.accuracies(pruned)
    print(f"pruned in {seconds:.1f} s: test accuracy {100 * cut['test']:.2f} %", flush=True)
    tuned, trainer = job.train(folder, config.finetune_epochs, pruned, "fine-tune")
    recipes.save(folder, tuned.recipe, tuned.model)
    result: dict[str, Any] = {
        "command": runs.command_of(folder),
        "model": dense.recipe.name,
        "target": config.target,
        "method": asdict(config.method()),
        "pruning_seconds": seconds,
        "finetune_epochs": config.finetune_epochs,
        "finetune_minutes": trainer.seconds / 60,
        "rounds": [read_json(path) for path in sorted(folder.glob("rounds/*/selection.json"))],
        "accuracy": {"dense": before, "pruned": cut, "finetuned": (after := job.accuracies(tuned))},
        **job.measured(dense, tuned),
    }
    if config.formats:
        result["export"] = job.export(tuned, after["test"])
    write_json(folder / "result.json", result)
    page = write_page(folder, result, dense.structure, tuned.structure, data.splits.digest)
    print(_summary(result) + f"\nwrote {page}")
    return result


class _Job:
    def __init__(self, config: Config, folder: Path, data: Data, backend: Backend) -> None:
        self.config, self.folder, self.data, self.backend = config, folder, data, backend
        self.device = pick_device(config.device)

    # ---- networks

    def dense(self, source: Source) -> Network:
        """The network given; trained first, once for the run, if it is timm's without a checkpoint."""
        network = Network(*source.open(self.data))
        if source.weights is not None:
            return network
        folder = self.folder.parents[1] / "dense" / network.recipe.name
        if not (folder / recipes.FILE).exists():
            facts: dict[str, Any] = {"model": network.recipe.name, "image_size": network.recipe.image_size}
            facts |= {"data_digest": self.data.splits.digest}
            config = self.config.train_config(self.config.dense_epochs)
            if (folder / "config.json").exists():
                runs.reopen(folder, config, ("device", "loaders", "checkpoint_seconds", "accumulate"), **facts)
            else:
                runs.begin(folder, config, **facts)
            network, _ = self.train(folder, self.config.dense_epochs, network, f"train {network.recipe.name}")
            recipes.save(folder, network.recipe, network.model)
        recipe = recipes.read(folder)
        if (recipe.classes, recipe.image_size) != (self.data.classes, network.recipe.image_size):
            raise UserError(f"{folder} was trained on other classes or another image size; give another --run")
        return Network(recipe, *recipes.load_prunable(recipe, folder))

    def train(self, folder: Path, epochs: int, network: Network, description: str) -> tuple[Network, Trainer]:
        """A trained copy; goes on where the folder's checkpoint is."""
        model = Renormalized(copy.deepcopy(network.model), network.recipe)
        size, config = network.recipe.image_size, self.config.train_config(epochs)
        trainer = make_trainer(config, folder, size, self.data, model)
        trainer.resume()
        trainer.fit(description)
        ema: Any = trainer.ema.module
        return Network(network.recipe, ema.network.cpu().eval(), network.structure), trainer

    def accuracies(self, network: Network) -> dict[str, float]:
        """Of the search and the test split, fractions."""
        model = Renormalized(copy.deepcopy(network.model), network.recipe).to(self.device).eval()
        size, loaders = network.recipe.image_size, self.config.loaders
        splits = {"search": self.data.search, "test": self.data.test}
        return {name: accuracy(model, images, size, self.device, loaders) for name, images in splits.items()}

    # ---- pruning

    def prune(self, dense: Network) -> tuple[Network, float]:
        """The network after the last round, and the seconds that importance and selection took in all."""
        config, method, present = self.config, self.config.method(), dense
        pruner = Pruner(dense.model, dense.structure, method, dense.recipe.image_size, self.backend, config.samples)
        for number in range(1, config.iterative + 1):
            folder = self.folder / "rounds" / str(number)
            if (folder / recipes.FILE).exists():
                recipe = recipes.read(folder)
                present = Network(recipe, *recipes.load_prunable(recipe, folder))
            else:
                present = self._round(pruner, present, number, folder)
            if config.round_epochs and number < config.iterative:
                present, _ = self.train(folder, config.round_epochs, present, f"round {number}")
            pruner.model, pruner.structure = present.model, present.structure
        seconds = sum(read_json(path)["seconds"] for path in self.folder.glob("rounds/*/selection.json"))
        return present, seconds

    def _round(self, pruner: Pruner, present: Network, number: int, folder: Path) -> Network:
        start = time.monotonic()
        pruner.model = copy.deepcopy(present.model).to(self.device)
        count = self._num_images(present)
        kept = pruner.round(number, self.config.iterative, self._batches(present.recipe, count))
        recipe = present.recipe.narrowed(present.structure, kept)
        seconds = time.monotonic() - start
        model = pruner.model.cpu()
        write_json(folder / "selection.json", {"seconds": seconds, "num_images": count, **pruner.facts()})
        recipes.save(folder, recipe, model)
        return Network(recipe, model, pruner.structure)

    def _num_images(self, network: Network) -> int:
        """That Taylor importance takes."""
        if self.config.criterion != "taylor":
            return 0
        most = 1024
        if self.device.type == "cpu":
            most = max(16, min(most, int(CPU_MACS / self._costs(network).macs(network.structure.sizes))))
        return min(self.config.images or most, len(self.data.train))

    def _batches(self, recipe: Recipe, count: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Training images without augmentation, eight batches or more; as the network takes them.

        Small batches: near the end of a training the gradients of images cancel out within one, and with them what
        tells units apart (`scripts/bench_pruning.py --calibration-batch 32` beside 8).
        """
        if count == 0:
            return
        images = self.data.train.spread(count)
        scale, shift = (tensor.to(self.device) for tensor in renormalization(recipe.mean, recipe.std))
        for batch, labels in eval_batches(images, recipe.image_size, max(1, min(8, count // 8)), self.config.loaders):
            if bool((read := labels >= 0).any()):  # without corrupt ones
                yield normalize(batch[read], self.device) * scale + shift, labels[read].to(self.device)

    # ---- what came of it

    def _costs(self, network: Network) -> Costs:
        size = network.recipe.image_size
        return Costs(network.model, network.structure, torch.zeros(1, 3, size, size))

    def measured(self, dense: Network, pruned: Network) -> dict[str, Any]:
        """Costs of both, their latency from one interleaved run, and MES from it."""
        networks, size = {"dense": dense, "pruned": pruned}, dense.recipe.image_size
        models = {name: network.model for name, network in networks.items()}
        measurement = measure(models, size, self.backend, self.config.samples)
        rows = {}
        for name, network in networks.items():
            timing = measurement.timings[name]
            row = {
                "num_params": sum(p.numel() for p in deployed(network.model).parameters()),
                "macs": self._costs(network).macs(network.structure.sizes),
                "latency_ms": timing.min_ms,
                "median_latency_ms": timing.median_ms,
            }
            rows[name] = {**row, "mes": float(MES.mes(row)), "sizes": network.structure.sizes}
            try:
                rows[name]["stages_ms"] = stage_times_ms(network.model, size, self.backend)
            except UserError:  # this runtime does not report operators
                rows[name]["stages_ms"] = {}
        return {"networks": rows, "device": asdict(self.backend.describe()), "busy": measurement.busy}

    def export(self, network: Network, test_accuracy: float) -> dict[str, Any]:
        shipped = _Shipped(network, self._info(network.recipe), test_accuracy)
        result: dict[str, Any] = {}
        with atomic_folder(self.folder / "export") as target:
            if "onnx" in self.config.formats:
                result["onnx"] = export_onnx(shipped, target, None, self.config.threads or 1)
            if "coreml" in self.config.formats:
                result["coreml"] = export_coreml(shipped, target)
        return result

    def _info(self, recipe: Recipe) -> runs.RunInfo:
        count, data = len(recipe.classes), self.config.data_config()
        return runs.RunInfo(
            recipe.name, recipe.image_size, count, recipe.classes, recipe.mean, recipe.std, data, self.data.splits
        )


@dataclass(frozen=True)
class _Shipped:
    """What nas.export writes files of."""

    network: Network
    info: runs.RunInfo
    test_accuracy: float

    def model(self) -> nn.Module:
        return deployed(self.network.model)

    @property
    def description(self) -> str:
        return (
            f"pruned {self.info.space}, classifier of {self.info.num_classes} classes, {self.info.image_size} px, "
            f"top-1 {100 * self.test_accuracy:.2f} % on its test images"
        )

    @property
    def metadata(self) -> dict[str, str]:
        return {
            "name": f"pruned {self.info.space}",
            "classes": json.dumps(self.info.classes, ensure_ascii=False),
            "image_size": str(self.info.image_size),
            "mean": json.dumps(self.info.mean),
            "std": json.dumps(self.info.std),
            "sizes": json.dumps(self.network.structure.sizes),
            "test_accuracy": f"{self.test_accuracy:.4f}",
        }


def _summary(result: dict[str, Any]) -> str:
    dense, pruned = (result["networks"][name] for name in ("dense", "pruned"))
    accuracy = result["accuracy"]
    figures = (("MACs, M", "macs", 1e6), ("parameters, M", "num_params", 1e6), ("latency, ms", "latency_ms", 1))
    lines = [
        f"{label:14}{dense[name] / unit:9.3f} -> {pruned[name] / unit:9.3f}  ({100 * pruned[name] / dense[name]:.1f} %)"
        for label, name, unit in figures
    ]
    lines.append(f"{'MES':14}{dense['mes']:9.1f} -> {pruned['mes']:9.1f}")
    steps = " -> ".join(f"{name} {100 * accuracy[name]['test']:.2f} %" for name in accuracy)
    return "\n".join([*lines, f"test accuracy  {steps}"])
