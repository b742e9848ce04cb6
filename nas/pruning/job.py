"""What nas.prune does with a network: prune, fine-tune, measure, export, report."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from latency_lut.backends.base import Backend
from latency_lut.backends.registry import make_backend
from nas import runs
from nas.data import Data, load_data
from nas.data.batches import eval_batches, normalize
from nas.distributed.device import pick_device
from nas.evaluation.accuracy import accuracy, warn_near_chance
from nas.evaluation.intervals import interval, with_interval
from nas.exporting.files import PrecisionConfig
from nas.networks.importance import TAYLOR_BATCH
from nas.objective.mes import PUBLISHED
from nas.pruning import recipe as recipes
from nas.pruning.config import Config
from nas.pruning.files import check_exported, export, finished
from nas.pruning.latency import measure, stage_times_ms
from nas.pruning.page import as_text, write_page
from nas.pruning.recipe import Network, Recipe
from nas.pruning.rounds import CPU_MACS, Pruner
from nas.pruning.source import Source
from nas.runs.results import REMEDY, FinishedPruning, Selection
from nas.training.drop_path import drop_path_blocks, set_drop_path
from nas.training.network import make_trainer
from nas.training.precision import check_amp
from nas.training.progress import check_epochs
from nas.training.recipe import FREE_ON_RESUME
from nas.training.trainer import Trainer
from search_spaces import UserError
from search_spaces.command.files import write_json
from search_spaces.command.typed import load_typed
from search_spaces.structure.costs import Costs, deployed_costs
from search_spaces.structure.layouts import Layouts

FREE = (*FREE_ON_RESUME, "run", "name", "resume")
# Where the images and the network lie, of which digests are kept, and what is written beside the network.
AMENDABLE = (*runs.ClassesRun.may_move, "model", "checkpoint", "formats", *(f.name for f in fields(PrecisionConfig)))
FEW_IMAGES = 64
OTHER_ORDER = (
    "was it trained on these classes, in this order, on images normalized like this? --classes FILE gives its order of "
    "the classes, --mean and --std its normalization"
)


def prune(config: Config, source: Source, folder: Path, backend: Backend | None = None) -> None:
    """Prunes the network in the folder, or goes on with it on `resume`.

    Args:
        backend: that times networks, in place of the settings' in its default precision and unit.

    Raises:
        UserError: what a `Job` raises; other data or settings than it was begun with.
    """
    if not config.resume:
        runs.check_new(folder, "--name")
    data = source.splits(load_data(config))
    facts: dict[str, Any] = {"data_digest": data.splits.digest, "weights_sha256": source.sha256()}
    facts |= {"network": source.recipe.name, "all_data": not len(data.search)}
    changed: dict[str, Any] = {}
    if config.resume:
        result = load_typed(FinishedPruning, file, REMEDY) if (file := folder / "result.json").exists() else None
        may_change = (*AMENDABLE, *_check_epochs(config, folder, source, data))
        changed = runs.reopen(folder, config, FREE, may_change, **facts)
        if result is not None:
            finished(config, folder, data, dict(result), changed)
            return
    job = Job(config, folder, source, data, backend)
    source.check_splits(data)
    if config.resume:
        runs.record(folder, changed)
    else:  # what cannot be done leaves no folder behind
        runs.begin(folder, config, **facts)
    job.run()


def _check_epochs(config: Config, folder: Path, source: Source, data: Data) -> list[str]:
    """Of the flags of epochs, those that may change: of trainings that are not over.

    Raises:
        UserError: one of these trainings cannot end after so many epochs.
    """
    steps, dense = config.train_config(1).steps_per_epoch(len(data.train)), _dense_folder(source, folder)
    open_ = {} if (folder / "result.json").exists() else {"finetune_epochs": folder}
    if dense is not None and not (dense / recipes.FILE).exists():
        open_["dense_epochs"] = dense
    for name, place in open_.items():
        check_epochs(place, getattr(config, name), steps, f"--{name.replace('_', '-')}")
    return list(open_)


def _dense_folder(source: Source, folder: Path) -> Path | None:
    """Where the network is trained first, once for the run; None if it has weights."""
    return None if source.weights is not None else folder.parents[1] / "dense" / source.recipe.name


class Job:
    """A pruning in `folder`, its input checked, nothing written yet.

    Raises:
        UserError: a network, device, runtime or setting that cannot be used; a target below what can be reached.
    """

    def __init__(self, config: Config, folder: Path, source: Source, data: Data, backend: Backend | None) -> None:
        self.config, self.folder = config, folder
        self.backend = backend or make_backend(config.backend, config.threads)
        self.backend.describe()
        self.device = pick_device(config.device)
        check_amp(config.amp, self.device)
        config.train_config(1).steps_per_epoch(len(data.train))
        if (config.images or 0) > len(data.train):
            raise UserError(f"--images {config.images} is more than the {len(data.train)} training images; lower it")
        self.dense_folder = _dense_folder(source, folder)
        self.may_have_seen = source.may_have_seen(data)
        self.given = Network(*source.open(data, config.seed, self._described()))
        if config.drop_path and not drop_path_blocks(self.given.model):
            raise UserError(f"--drop-path: {self.given.recipe.name} has no blocks that can be dropped; leave it out")
        recipe = self.given.recipe
        self.data = data.normalized(recipe.mean, recipe.std)
        self.pruner = Pruner(
            self.given.model, self.given.structure, config.method(), recipe.image_size, self.backend, config.samples
        )
        self.dense_config = config.train_config(config.dense_epochs)
        self.dense_facts: dict[str, Any] = {
            "model": recipe.name,
            "image_size": recipe.image_size,
            "data_digest": data.splits.digest,
        }
        if self.dense_folder is not None and (self.dense_folder / "config.json").exists():
            free = (*FREE_ON_RESUME, *self._dense_may_change())
            if other := runs.differences(self.dense_folder, self.dense_config, free, **self.dense_facts):
                now = ", ".join(f"{name} {value!r}" for name, value in other.items())
                raise UserError(f"{self.dense_folder} was not trained with {now}; give another --run")

    def _dense_may_change(self) -> tuple[str, ...]:
        """Settings of the first training that may be others when it is resumed."""
        over = self.dense_folder is None or (self.dense_folder / recipes.FILE).exists()
        return () if over or not self.config.resume else ("epochs",)

    def _described(self) -> Layouts | None:
        """What was found of a network of no known family before a kill, or for another pruning of the run."""
        for place in (self.folder / "rounds/1", self.dense_folder):
            if place is not None and (place / recipes.FILE).exists():
                return recipes.read(place).layouts
        return None

    def run(self) -> None:
        """Does the job, or goes on with it; `result.json` is written last."""
        config, folder = self.config, self.folder
        first = self.dense_folder is not None and not (self.dense_folder / recipes.FILE).exists()
        print(f"{self.given.recipe.name}: {config.plan(first)}, on {len(self.data.train):,} images", flush=True)
        dense = self.dense()
        before = self.accuracies(dense)
        print(f"{dense.recipe.name}: test accuracy {self._percent(before)}", flush=True)
        if self.dense_folder is None:
            count, classes = len(self.data.test), len(self.data.classes)
            warn_near_chance(dense.recipe.name, before["test"], count, classes, OTHER_ORDER)
        pruned, rounds = self.prune(dense)
        seconds = sum(entry["seconds"] for entry in rounds)
        cut = self.accuracies(pruned)
        print(f"pruned in {seconds:.1f} s: test accuracy {self._percent(cut)}", flush=True)
        tuned, trainer = self.train(folder, config.finetune_epochs, pruned, "fine-tune")
        recipes.save(folder, tuned.recipe, tuned.model)
        after = self.accuracies(tuned)
        result: dict[str, Any] = {
            "command": runs.command_of(folder),
            "model": dense.recipe.name,
            "target": config.target,
            "method": asdict(config.method()),
            "pruning_seconds": seconds,
            "finetune_epochs": config.finetune_epochs,
            "planned_finetune_epochs": trainer.planned_epochs,
            "finetune_minutes": trainer.seconds / 60,
            "rounds": rounds,
            "num_images": {"search": len(self.data.search), "test": len(self.data.test)},
            "may_have_seen_test": self.may_have_seen,
            "accuracy": {
                stage: found | self._intervals(found)
                for stage, found in {"dense": before, "pruned": cut, "finetuned": after}.items()
            },
            **self.measured(dense, tuned),
            "export": export(tuned, folder, config, self.data, None if self.may_have_seen else after["test"], {}),
        }
        page = write_page(folder, result, self.data.splits.digest, dense.structure, tuned.structure)
        write_json(folder / "result.json", result)
        print(f"{as_text(result)}\nwrote {page}")
        check_exported(folder, result["export"])

    def _intervals(self, accuracies: Mapping[str, float]) -> dict[str, list[float]]:
        return {f"{split}_interval": interval(a, len(getattr(self.data, split))) for split, a in accuracies.items()}

    def _percent(self, accuracies: Mapping[str, float]) -> str:
        unless = ", unless it was trained on these images" if self.may_have_seen else ""
        return with_interval(accuracies["test"], len(self.data.test)) + unless

    # ---- networks

    def dense(self) -> Network:
        """The network given; trained first, once for the run, if it is timm's without a checkpoint."""
        if (folder := self.dense_folder) is None:
            return self.given
        if not (folder / recipes.FILE).exists():
            if (folder / "config.json").exists():
                free, may_change = FREE_ON_RESUME, self._dense_may_change()
                runs.record(folder, runs.reopen(folder, self.dense_config, free, may_change, **self.dense_facts))
            else:
                runs.begin(folder, self.dense_config, **self.dense_facts)
            name = self.given.recipe.name
            network, _ = self.train(folder, self.config.dense_epochs, self.given, f"train {name}")
            recipes.save(folder, network.recipe, network.model)
        return recipes.load_network(folder)

    def train(self, folder: Path, epochs: int, network: Network, description: str) -> tuple[Network, Trainer]:
        """A trained copy; goes on where the folder's checkpoint is."""
        model = copy.deepcopy(network.model)
        if self.config.drop_path:
            set_drop_path(model, self.config.drop_path)
        size, config = network.recipe.image_size, self.config.train_config(epochs)
        trainer = make_trainer(config, folder, size, self.data, model)
        trainer.resume()
        trainer.fit(description)
        return Network(network.recipe, trainer.ema.module.cpu().eval(), network.structure), trainer

    def accuracies(self, network: Network) -> dict[str, float]:
        """Of the search split, where it is not trained on, and the test split, fractions."""
        model = copy.deepcopy(network.model).to(self.device).eval()
        size, num_workers = network.recipe.image_size, self.config.num_workers
        splits = {"search": self.data.search, "test": self.data.test}
        return {n: accuracy(model, held, size, self.device, num_workers) for n, held in splits.items() if len(held)}

    # ---- pruning

    def prune(self, dense: Network) -> tuple[Network, list[dict[str, Any]]]:
        """The network after the last round, and what each round's `selection.json` says."""
        config, pruner, present = self.config, self.pruner, dense
        pruner.model, pruner.structure = dense.model, dense.structure
        folders = [self.folder / "rounds" / str(number) for number in range(1, config.iterative + 1)]
        for number, folder in enumerate(folders, 1):
            if (folder / recipes.FILE).exists():
                present = recipes.load_network(folder)
            else:
                present = self._round(pruner, present, number, folder)
            if config.round_epochs and number < config.iterative:
                present, _ = self.train(folder, config.round_epochs, present, f"round {number}")
            pruner.model, pruner.structure = present.model, present.structure
        return present, [dict(load_typed(Selection, f / "selection.json", REMEDY)) for f in folders]

    def _round(self, pruner: Pruner, present: Network, number: int, folder: Path) -> Network:
        start = time.monotonic()
        pruner.model = copy.deepcopy(present.model).to(self.device)
        count = self._num_images(present)
        if 0 < count < FEW_IMAGES:
            print(f"Taylor importance is from {count} images only; give more with --images if there are", flush=True)
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
            most = max(16, min(most, int(CPU_MACS / costs_as_shipped(network)["macs"])))
        return min(self.config.images or most, len(self.data.train))

    def _batches(self, recipe: Recipe, count: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Training images without augmentation, eight batches or more."""
        if count == 0:
            return
        images, size = self.data.train.spread(count), max(1, min(TAYLOR_BATCH, count // 8))
        for batch, labels in eval_batches(images, recipe.image_size, size, self.config.num_workers):
            if bool((read := labels >= 0).any()):  # without corrupt ones
                yield normalize(batch[read], self.device, images.normalization), labels[read].to(self.device)

    # ---- what came of it

    def measured(self, dense: Network, pruned: Network) -> dict[str, Any]:
        """Costs of both, their latency from one interleaved run, and MES from it."""
        networks, size = {"dense": dense, "pruned": pruned}, dense.recipe.image_size
        models = {name: network.model for name, network in networks.items()}
        measurement = measure(models, size, self.backend, self.config.samples)
        rows = {}
        for name, network in networks.items():
            timing = measurement.timings[name]
            row = {
                **costs_as_shipped(network),
                "latency_ms": timing.min_ms,
                "median_latency_ms": timing.median_ms,
            }
            rows[name] = {**row, "mes": float(PUBLISHED.mes(row)), "sizes": network.structure.sizes}
            try:
                rows[name]["stages_ms"] = stage_times_ms(network.model, size, self.backend)
            except UserError:  # this runtime does not report operators
                rows[name]["stages_ms"] = {}
        return {"networks": rows, "device": asdict(self.backend.describe()), "busy": measurement.busy}


def costs_as_shipped(network: Network) -> dict[str, int]:
    """`num_params` and `macs` of the network with its branches merged, which its structure may count as trained."""
    image = torch.zeros(1, 3, network.recipe.image_size, network.recipe.image_size)
    products = Costs(network.model, network.structure, image).product_macs(network.structure.sizes)
    num_params, macs = deployed_costs(network.model, image, products)
    return {"num_params": num_params, "macs": macs}
