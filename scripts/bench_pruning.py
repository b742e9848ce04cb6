"""Pruning beside Torch-Pruning, magnitude, chance and training from scratch: accuracy at equal MACs and equal latency.

    python -m scripts.bench_pruning                                    # on the digits, a few minutes
    python -m scripts.bench_pruning --data /path/to/images --networks deit mobilevit --latency-seeds 5
    python -m scripts.bench_pruning --times                            # seconds of importance and pruning

A network is trained once, here, and every method prunes that checkpoint. A seed draws the calibration images, which
are the same for all methods, and the order of fine-tuning; differences are of the same seed. All MACs are counted by
fvcore. `scratch` trains the shape that `taylor` leaves from fresh weights, with as many MACs as training the whole
and fine-tuning the pruned network take together. `torch-pruning-scaled` is Torch-Pruning's network with the
attention's scale that it was trained with. Last comes what remains of queries and keys, values and FFNs, over the
embedding: Figure 5 of EfficientViT's supplement (Liu et al., CVPR 2023) has it for DeiT-T.

What is found is a line in `<folder>/<network>/cells.jsonl`: the same command, or one with more seeds, goes on.
Torch-Pruning is an extra (pip install torch-pruning==1.6.1); without it the rest runs.
"""

from __future__ import annotations

from search_spaces.command import fill, start

if __name__ == "__main__":
    start.prepare()

import copy
import json
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from latency_lut.backends.registry import make_backend
from nas.data import Data, DataConfig, load_data
from nas.evaluation.accuracy import accuracy
from nas.pruning.latency import measure, ms_per_mac, reach
from nas.pruning.page import WITHIN_BLOCKS
from nas.training.recipe import TrainConfig, with_recipe
from scripts.pruning_peers.child import Child, ChildFailed
from scripts.pruning_peers.methods import METHODS, PEERS, Task, calibration
from scripts.pruning_peers.networks import IMAGE_SIZE, NETWORKS, train, trained
from scripts.pruning_peers.times import bench_times
from scripts.pruning_peers.torch_pruning_peer import INSTALL, installed
from search_spaces import UserError
from search_spaces.command import align, flag, parse, run
from search_spaces.command.files import read_json, read_json_lines
from search_spaces.structure.costs import Costs
from search_spaces.structure.families.registry import prepare

DIGITS_EPOCHS = 40
LEAST_SHARE = 0.1  # of the MACs, that methods are tried from on the way to a latency
OFF = 0.01  # of the MACs aimed at; further off, a cell is marked

Cell = dict[str, Any]


@dataclass(frozen=True)
class Config(TrainConfig, DataConfig):
    networks: tuple[str, ...] = flag(("deit",), f"to prune, of {', '.join(NETWORKS)}")
    methods: tuple[str, ...] = flag(tuple(METHODS), "to compare")
    folder: str = flag("runs/bench-pruning", "for checkpoints and what is found; another for other data or settings")
    share: float = flag(0.5, "of the MACs that remains", above=0, below=1)
    scope: Literal["local", "global", "isomorphic"] = flag("global", "ranked together, by ours and Torch-Pruning alike")
    round_to: int = flag(1, "widths become multiples of this", minimum=1)
    seeds: int = flag(5, "of calibration images, for accuracy before fine-tuning", minimum=1)
    images: int = flag(256, "calibration images", minimum=1)
    calibration_batch: int = flag(8, "images of each batch of these", minimum=1)
    test_images: int = flag(2000, "that accuracy is of", minimum=1)
    finetune_seeds: int = flag(2, "of these seeds, fine-tuned too", minimum=0)
    finetune_steps: int = flag(40, "steps of fine-tuning", minimum=1)
    finetune_lr: float = flag(0.004, "learning rate of fine-tuning, as --lr", above=0)
    scratch_seeds: int = flag(1, "trainings from scratch", minimum=0)
    latency_seeds: int = flag(0, "of these seeds, compared at equal latency too", minimum=0)
    latency: float = flag(0.6, "share of the latency that remains there", above=0, below=1)
    backend: str = flag("onnxruntime", "runtime that measures it")
    samples: int = flag(40, "undisturbed samples of each network that is timed", minimum=2)
    peer_limit_s: float = flag(600.0, "seconds after which Torch-Pruning is given up", above=0)
    times_images: int = flag(0, "calibration images of --times (0: as many as nas.prune takes on a CPU)", minimum=0)
    times: bool = flag(False, "measure the time of importance and pruning of six published networks instead")


class Bench:
    """One network: its cells, found or read."""

    def __init__(self, config: Config, name: str, data: Data, peer: Child | None) -> None:
        self.config, self.name, self.data, self.peer = config, name, data, peer
        self.folder = Path(config.folder) / name
        model = trained(name, _train_config(config), Path(config.folder), data)
        self.epochs = read_json(self.folder / "base" / "config.json")["epochs"]
        self.test = data.test.spread(config.test_images)
        self.task = Task(model, IMAGE_SIZE, self._batches, config.scope, config.round_to, peer)
        self.whole_macs = self.task.macs(model)
        self.whole_accuracy = self._accuracy(model)
        self.cells: list[Cell] = read_json_lines(self._log)
        self.methods = [m for m in config.methods if peer is not None or m not in PEERS]

    def run(self) -> None:
        """Finds what is not there yet: first all accuracies before fine-tuning, which are cheap."""
        limit = int(self.config.share * self.whole_macs)
        at_macs = [method for method in self.methods if method != "taylor-latency"]
        for seed in range(self.config.seeds):
            for method in at_macs:
                self._once("cut", method, seed, partial(self._cut, method, seed, limit))
        for seed in range(self.config.finetune_seeds):
            for method in at_macs:
                self._once("tuned", method, seed, partial(self._tuned, method, seed, limit))
        for seed in range(self.config.scratch_seeds):
            self._once("tuned", "scratch", seed, partial(self._scratch, seed, limit))
        for seed in range(self.config.latency_seeds):
            if any(self._find("latency", method, seed) is None for method in self.methods):
                self._at_latency(seed)

    # ---- cells

    @property
    def _log(self) -> Path:
        return self.folder / "cells.jsonl"

    def _find(self, stage: str, method: str, seed: int) -> Cell | None:
        key = (stage, method, seed)
        return next((c for c in self.cells if (c["stage"], c["method"], c["seed"]) == key), None)

    def _once(self, stage: str, method: str, seed: int, found: Callable[[], Cell]) -> None:
        if self._find(stage, method, seed) is None:
            try:
                cell = found()
            except ChildFailed as error:
                cell = {"failed": str(error)}
            self._add(stage, method, seed, cell)

    def _add(self, stage: str, method: str, seed: int, found: Cell) -> None:
        cell = {"stage": stage, "method": method, "seed": seed, **found}
        self.cells.append(cell)
        with self._log.open("a") as file:
            file.write(json.dumps(cell) + "\n")
        print(f"{self.name} {json.dumps(cell)}", flush=True)

    def _cut(self, method: str, seed: int, macs: int) -> Cell:
        found = self._facts(self.task.cut(method, seed, macs))
        return found if method in PEERS else {**found, "over_embedding": self.task.over_embedding(method, seed, macs)}

    def _facts(self, model: nn.Module) -> Cell:
        num_params = sum(parameter.numel() for parameter in model.parameters())
        share = self.task.macs(model) / self.whole_macs
        return {"macs_share": share, "num_params": num_params, "accuracy": self._accuracy(model)}

    def _tuned(self, method: str, seed: int, macs: int) -> Cell:
        config, model = self.config, self.task.cut(method, seed, macs)
        images = config.finetune_steps * config.batch_size
        data = replace(self.data, train=self.data.train.spread(images), search=self.data.search.spread(100))
        tuning = replace(_train_config(config), epochs=1, seed=seed, lr=config.finetune_lr)
        return self._facts(train(model, tuning, self.folder / f"{method}-{seed}", data, f"{method} {seed}"))

    def _scratch(self, seed: int, macs: int) -> Cell:
        config = self.config
        torch.manual_seed(1000 + seed)
        fresh = NETWORKS[self.name](len(self.data.classes))
        model = self.task.sized("taylor", seed, macs, fresh)
        whole_epochs = self.whole_macs / self.task.macs(model) * self.epochs
        tuning_epochs = config.finetune_steps / (len(self.data.train) // config.batch_size)
        training = replace(_train_config(config), epochs=round(whole_epochs + tuning_epochs), seed=seed)
        model = train(model, training, self.folder / f"scratch-{seed}", self.data, f"scratch {seed}")
        return {**self._facts(model), "epochs": training.epochs}

    def _at_latency(self, seed: int) -> None:
        """Every method's network of that latency; at last all timed in one run."""
        config, backend = self.config, make_backend(self.config.backend, 1)
        model = self.task.model
        structure = prepare(prepared := copy.deepcopy(model))
        costs = Costs(prepared, structure, self.task.image)
        rates = ms_per_mac(prepared, structure, costs, IMAGE_SIZE, backend, config.samples)
        task = replace(self.task, ms_per_mac=rates)
        found: dict[str, nn.Module] = {}
        for method in self.methods:

            def share_of(macs_share: float, method: str = method) -> float:
                smaller = task.cut(method, seed, int(macs_share * self.whole_macs))
                timings = measure({"whole": model, "cut": smaller}, IMAGE_SIZE, backend, config.samples).timings
                return timings["cut"].min_ms / timings["whole"].min_ms

            try:
                macs_share, _ = reach(config.latency, share_of, LEAST_SHARE)
                found[method] = task.cut(method, seed, int(macs_share * self.whole_macs))
            except ChildFailed as error:
                self._add("latency", method, seed, {"failed": str(error)})
        measured = measure({"whole": model, **found}, IMAGE_SIZE, backend, config.samples)
        whole_ms = measured.timings["whole"].min_ms
        for method, smaller in found.items():
            facts = {"latency_share": measured.timings[method].min_ms / whole_ms, "busy": measured.busy}
            self._add("latency", method, seed, {**self._facts(smaller), **facts})

    def _batches(self, seed: int) -> Any:
        config = self.config
        return calibration(self.data.train, config.images, config.calibration_batch, IMAGE_SIZE, seed)

    def _accuracy(self, model: nn.Module) -> float:
        return accuracy(model.eval(), self.test, IMAGE_SIZE, torch.device("cpu"))

    # ---- what came of it

    def text(self) -> str:
        whole = f"{self.whole_macs / 1e6:.2f} MMACs, test accuracy {100 * self.whole_accuracy:.2f} %"
        images = f"{len(self.test)} test images, {self.config.images} for calibration"
        lines = [f"{self.name}: {whole} after {self.epochs} epochs; {images}"]
        for stage, title in (("cut", "before fine-tuning"), ("tuned", "after"), ("latency", "at equal latency")):
            if rows := self._rows(stage):
                head = [title, "MACs %", "latency %", "M params", "accuracy %", "ours - this", "seeds"]
                lines.append(align([head, *rows], "<>>>>>>"))
        if ratios := self._ratios():
            lines.append(align([["channels / embedding", *WITHIN_BLOCKS], *ratios], "<>>>"))
        lines += [f"{method}: {reason}" for method, reason in sorted(self._failures())]
        return "\n".join([*lines, *self._bars()])

    def _rows(self, stage: str) -> list[list[str]]:
        rows = []
        for method in (*self.methods, "scratch"):
            if cells := self._good(stage, method):
                mean = {k: statistics.mean(c[k] for c in cells) for k in ("macs_share", "num_params", "accuracy")}
                late = [c["latency_share"] for c in cells if "latency_share" in c]
                off = any(abs(c["macs_share"] / self.config.share - 1) > OFF for c in cells) and stage != "latency"
                rows.append(
                    [
                        method,
                        f"{100 * mean['macs_share']:.1f}{'!' if off else ''}",
                        f"{100 * statistics.mean(late):.1f}" if late else "",
                        f"{mean['num_params'] / 1e6:.3f}",
                        f"{100 * mean['accuracy']:.2f}",
                        "" if method == "taylor" else str(self._difference(stage, "taylor", method) or ""),
                        str(len(cells)),
                    ]
                )
        return rows

    def _ratios(self) -> list[list[str]]:
        """Means over the seeds: what the network has, and what each method of ours leaves."""
        found = {m: [r for c in self._good("cut", m) if (r := c.get("over_embedding"))] for m in self.methods}
        left = [(method, ratios, 1) for method, ratios in found.items() if ratios]
        rows = [("whole", left[0][1], 0), *left] if left else []
        return [[name, *(_mean(ratios, kind, i) for kind in WITHIN_BLOCKS)] for name, ratios, i in rows]

    def _good(self, stage: str, method: str) -> list[Cell]:
        return [c for c in self.cells if (c["stage"], c["method"]) == (stage, method) and "failed" not in c]

    def _failures(self) -> set[tuple[str, str]]:
        return {(c["method"], c["failed"]) for c in self.cells if "failed" in c}

    def _difference(self, stage: str, ours: str, other: str) -> Difference | None:
        accuracies = [{c["seed"]: c["accuracy"] for c in self._good(stage, method)} for method in (ours, other)]
        seeds = sorted(accuracies[0].keys() & accuracies[1].keys())
        return Difference.of([accuracies[0][s] - accuracies[1][s] for s in seeds]) if seeds else None

    def _bars(self) -> list[str]:
        """What must hold: as good as Torch-Pruning's Taylor, better than magnitude and chance beyond the error."""
        bars = []
        for ours in ("taylor", "taylor-macs"):
            bars += [("cut", ours, peer, 0) for peer in PEERS]
            bars += [("cut", ours, other, 1) for other in ("magnitude", "random")]
        bars += [("latency", "taylor-latency", "taylor-macs", 0)]
        lines = []
        for stage, ours, other, errors in bars:
            if difference := self._difference(stage, ours, other):
                where = "before fine-tuning" if stage == "cut" else "at equal latency"
                lines.append(f"{where}, {ours} - {other}: {difference}{difference.verdict(errors)}")
        return lines


@dataclass(frozen=True)
class Difference:
    """Mean over seeds of paired differences of accuracy, and its standard error (NaN for one seed)."""

    mean: float
    error: float

    @classmethod
    def of(cls, differences: Sequence[float]) -> Difference:
        count = len(differences)
        error = statistics.stdev(differences) / math.sqrt(count) if count > 1 else math.nan
        return cls(statistics.mean(differences), error)

    def verdict(self, errors: int) -> str:
        """Whether it is that many standard errors above zero, and if not, whether chance explains it."""
        if self.mean >= 0 and not self.mean < errors * self.error:  # NaN: of one seed
            return ""
        return "  MISSED" if self.mean < -self.error or errors else "  MISSED, within the error"

    def __str__(self) -> str:
        return f"{100 * self.mean:+.2f} ± {100 * self.error:.2f}"


def _mean(ratios: Sequence[dict[str, Any]], kind: str, i: int) -> str:
    """Of networks that have this kind of channels, before (0) or after (1); empty for those that have none."""
    return f"{statistics.mean(each[kind][i] for each in ratios):.2f}" if kind in ratios[0] else ""


def _train_config(config: Config) -> TrainConfig:
    return TrainConfig(**{f.name: getattr(config, f.name) for f in fields(TrainConfig)})


def bench(config: Config) -> None:
    """Raises UserError if a network or a method is unknown."""
    for flag_, names, known in (("networks", config.networks, NETWORKS), ("methods", config.methods, METHODS)):
        if unknown := [name for name in names if name not in known]:
            raise UserError(f"--{flag_} {unknown[0]} is unknown; choose from {', '.join(known)}")
    peer = Child(config.peer_limit_s) if installed() else None
    if peer is None:
        print(f"Torch-Pruning is not installed and left out ({INSTALL})")
    if config.times:
        bench_times(peer, config.scope, config.share, images=config.times_images)
        return
    data = load_data(config.data_config())
    benches = [Bench(config, name, data, peer) for name in config.networks]
    for one in benches:
        one.run()
    print("\n\n".join(one.text() for one in benches))


def main(argv: Sequence[str] | None = None) -> None:
    config = parse(Config, argv, "python -m scripts.bench_pruning", __doc__ or "")
    bench(fill(config, with_recipe(config, IMAGE_SIZE, config.data, DIGITS_EPOCHS)))


if __name__ == "__main__":
    run(main)
