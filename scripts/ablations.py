"""The paper's ablations of the search (Li et al. 2023, supplement: Tables 5 and 6, Figs. 1 and 2), on your supernet.

    python -m scripts.ablations --run cifar10 --num-images 1000 --calibration-images 512

Table 6: slimming with other alphas. Table 5: slimming of depth and width alone, the same then pruned, and the joint
search, at the joint search's parameters; beside them the largest network pruned, by the size of its weights and by
Taylor. Fig. 1: accuracy against MES of the joint search and of depth and width alone. Fig. 2: random networks of like
latency against the searched curve.

Accuracies are inherited, with norms recalibrated: of figures on the search split, of tables on the test split. With
--retrain-epochs the networks of Table 5 are trained on as well. Latencies are the table's; in Table 5, where pruned
networks have shapes that no table knows, all are measured in one interleaved run. Interrupted, it goes on when the same
command is given again. What it finds is in the run's folder `ablations/`: Markdown, a page and JSON.
"""

from __future__ import annotations

from search_spaces.command import Flags, start

if __name__ == "__main__":
    start.prepare()

import hashlib
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from nas import runs
from nas.distributed.device import pick_device
from nas.networks.inherit import calibration_batches, calibration_count, load_supernet
from nas.objective.costs import Costs
from nas.objective.metrics import LATENCY
from nas.objective.tables import load_tables
from nas.searching.result import files_of, objective_of, read_result
from nas.searching.search import Config as SearchConfig
from nas.searching.search import followed, search
from scripts.ablation.networks import Network, Weights, described, measured_ms, pruned, retrained, whole
from scripts.ablation.report import ablations_page, markdown
from search_spaces import Arch, SearchSpace, UserError
from search_spaces.command import flag, parse, run
from search_spaces.command.files import slug, write_json, write_text

Json = dict[str, Any]

# of latency and size, as in Table 6
ALPHAS = {"joint": (1.0, 0.5), "equal alphas": (1.0, 1.0), "more of size": (0.5, 1.0)}
CHANNELS = ("width", "embedding", "ffn")  # dimensions that pruning after depth and width may shrink: no heads' parts
START = 1.5  # times the parameters aimed at: from where depth and width are pruned
NEAR = 0.05  # relative difference of latencies that count as alike
TRIES = 2000  # random networks drawn for one of a latency


@dataclass(frozen=True)
class Config(Flags):
    run: str | None = flag(None, "run of the supernet (default: the newest)")
    table: tuple[str, ...] = flag((), "latency table (default: the newest that fits)")
    num_images: int | None = flag(None, "images of the search and of the test split (default: all)", minimum=1)
    calibration_images: int | None = flag(None, "training images that norms are recalibrated on", minimum=2)
    levels: int = flag(3, "networks of the joint search to compare with", minimum=1)
    num_random: int = flag(10, "random networks of each level", minimum=1)
    retrain_epochs: int = flag(0, "epochs that the networks of Table 5 are trained for", minimum=0)
    samples: int = flag(20, "latency samples of each network of Table 5", minimum=5)
    seed: int = flag(0, "of random networks and training", minimum=0)
    device: str = flag("auto", "cpu, cuda, …")


FREE, AMEND = ("run", "device"), ("samples", "retrain_epochs")


@dataclass(frozen=True)
class Ablations:
    """What all parts work with.

    Args:
        searches: results, by name: "joint", "depth and width", and those of the other alphas.
        levels: points of the joint search's trajectory, from the largest network's end on.
    """

    config: Config
    folder: Path
    weights: Weights
    costs: Costs
    searches: Mapping[str, Json]
    levels: Sequence[Json]

    def curve(self, name: str) -> Sequence[Json]:
        trajectory: Sequence[Json] = self.searches[name]["trajectory"]
        return trajectory

    def arch(self, point: Json) -> Arch:
        return self.weights.space.from_json(point["arch"])


def ablations(config: Config) -> Path:
    """Does what is left to do, and returns the folder.

    Raises:
        UserError: no supernet, or one whose networks cannot be pruned; other settings than before, or a table that has
            changed.
    """
    if len(config.table) > 1:
        raise UserError(f"--table gives {len(config.table)} tables, the ablations are of one device; give one")
    run_folder = runs.find_trained(config.run)
    folder = run_folder / "ablations"
    if (folder / "config.json").exists():
        changed = runs.reopen(folder, config, FREE, AMEND)
    else:
        changed = {}
        runs.begin(folder, config)
    parts = _open(config, folder, run_folder)
    runs.record(folder, changed)
    result: Json = {
        "command": runs.command_of(folder),
        "space": parts.weights.space.name,
        "objective": parts.costs.objective.to_json(),
        "num_images": {"search": parts.searches["joint"]["num_images"], "test": parts.weights.num_tested},
        "levels": list(parts.levels),
        "table5": _table_5(parts),
        "table6": _table_6(parts),
        "curves": {name: parts.curve(name) for name in ("joint", "depth and width")},
        "random": _random_networks(parts),
    }
    write_json(folder / "result.json", result)
    write_text(folder / "ablations.md", markdown(result))
    write_text(folder / "ablations.html", ablations_page(result))
    print(markdown(result))
    print(f"wrote {folder}/ablations.html")
    return folder


def _open(config: Config, folder: Path, run_folder: Path) -> Ablations:
    """Runs the searches, and loads what their networks are evaluated with."""
    info = runs.load_classes_info(run_folder)
    space = info.search_space()
    described(space, space.largest, space.build(space.largest).eval())  # else the searches would be in vain
    searches = {name: _searched(config, run_folder, folder, name, of) for name, of in _searches(space).items()}
    joint, (precision,) = searches["joint"], _settled(config, run_folder, folder).precision
    costs = Costs(space, load_tables(files_of(joint["tables"], run_folder), space), objective_of(joint), precision)
    supernet, data = load_supernet(run_folder, pick_device(config.device)), runs.load_run_data(run_folder)
    count = calibration_count(supernet, config.calibration_images)
    calibration = calibration_batches(data.train, space.image_size, count, supernet.device)
    weights = Weights(supernet, data, info.data.data, calibration, config.num_images, folder / "inherited.json")
    return Ablations(config, folder, weights, costs, searches, _levels(joint["trajectory"], config.levels))


def _searches(space: SearchSpace) -> dict[str, Json]:
    """Settings of each search, by name."""
    settings: dict[str, Json] = {name: _alphas(*alphas) for name, alphas in ALPHAS.items()}
    return settings | {"depth and width": {**settings["joint"], "only": depth_and_width(space)}}


def depth_and_width(space: SearchSpace) -> tuple[str, ...]:
    """Fields of the choices that decide which blocks there are and the shapes between them, not what is inside one."""

    def shapes(arch: Arch) -> list[tuple[Any, ...]]:
        return [(block.kind, block.input_shape(), block.output_shape()) for block in space.lower(arch)]

    whole = shapes(space.largest)
    return tuple(dict.fromkeys(action.field for action in space.slim(space.largest) if shapes(action.arch) != whole))


def _alphas(latency: float, size: float) -> Json:
    return {"alpha_latency": (f"{latency}",), "alpha_size": size}


def _searched(config: Config, run_folder: Path, ablations_folder: Path, name: str, settings: Json) -> Json:
    """In the ablations' folder, so that it is not the run's newest search to those who train or resume that."""
    folder = ablations_folder / f"search-{slug(name)}"
    resume = (folder / "config.json").exists()
    wanted = _settled(config, run_folder, ablations_folder)
    return read_result(search(replace(wanted, resume=resume, **settings), folder))


def _settled(config: Config, run_folder: Path, ablations_folder: Path) -> SearchConfig:
    """What all searches have in common; the joint one, which begins first, finds the table and its precision."""
    common = {n: getattr(config, n) for n in ("table", "num_images", "calibration_images", "device")}
    wanted = SearchConfig(run=str(run_folder), strategy="slimming", **common)
    joint = ablations_folder / "search-joint"
    if not (joint / "config.json").exists():
        return wanted
    begun = runs.begun(joint, SearchConfig)
    return replace(wanted, table=followed(begun.table, run_folder), precision=begun.precision)


def _levels(trajectory: Sequence[Json], count: int) -> list[Json]:
    """Points spread evenly over the logarithm of parameters, without the ends."""
    sizes = [p["num_params"] for p in trajectory]
    targets = np.geomspace(sizes[0], sizes[-1], count + 2)[1:-1]
    return [_nearest(trajectory, target) for target in targets]


def _nearest(points: Sequence[Json], num_params: float) -> Json:
    return min(points, key=lambda p: abs(math.log(p["num_params"] / num_params)))


# ---- tables


def _table_6(parts: Ablations) -> list[Json]:
    rows = []
    for number, level in enumerate(parts.levels):
        for name, alphas in ALPHAS.items():
            point = _nearest(parts.curve(name), level["num_params"])
            accuracy = whole(parts.weights, parts.arch(point)).accuracy
            costs = {metric: point[metric] for metric in (LATENCY, "num_params", "macs")}
            rows.append({"level": number, "alphas": alphas, "accuracy": accuracy, **costs})
    return rows


def _table_5(parts: Ablations) -> list[Json]:
    """At each level the joint search's network, and what comes nearest to its parameters by other means."""
    named = {
        f"{number} {method}": network
        for number, level in enumerate(parts.levels)
        for method, network in _methods(parts, level).items()
    }
    models = {name: network.model for name, network in named.items()}
    latencies = measured_ms(models, parts.weights.space.image_size, parts.config.samples)
    rows = []
    for name, network in named.items():
        number, _, method = name.partition(" ")
        costs = {LATENCY: latencies[name], "num_params": network.num_params, "macs": network.macs}
        mes = float(parts.costs.objective.mes(costs))
        row = {"level": int(number), "method": method, **costs, "mes": mes, "accuracy": network.accuracy}
        if epochs := parts.config.retrain_epochs:
            what = hashlib.sha256(network.name.encode()).hexdigest()[:8]
            folder = parts.folder / "retrain" / f"{slug(name)}-{epochs}-{what}"
            row["retrained"] = retrained(parts.weights, folder, network, epochs, parts.config.seed)
        rows.append(row)
    return rows


def _methods(parts: Ablations, level: Json) -> dict[str, Network]:
    weights, limit, shallow = parts.weights, level["num_params"], parts.curve("depth and width")
    start, largest = parts.arch(_nearest(shallow, START * limit)), weights.space.largest
    return {
        "joint": whole(weights, parts.arch(level)),
        "depth and width": whole(weights, parts.arch(_nearest(shallow, limit))),
        "depth and width, pruned by magnitude": pruned(weights, start, "magnitude", limit, CHANNELS),
        "depth and width, pruned by Taylor": pruned(weights, start, "taylor", limit, CHANNELS),
        "largest, pruned by magnitude": pruned(weights, largest, "magnitude", limit),
        "largest, pruned by Taylor": pruned(weights, largest, "taylor", limit),
    }


# ---- figures


def _random_networks(parts: Ablations) -> list[Json]:
    """Fig. 2: of each level, networks drawn at random until enough have its latency, nearly."""
    space, rng = parts.weights.space, random.Random(parts.config.seed)
    found = []
    for number, level in enumerate(parts.levels):
        archs = [space.sample(rng) for _ in range(TRIES)]
        latencies = parts.costs.batch(archs)[LATENCY]
        near = np.flatnonzero(np.abs(latencies / level[LATENCY] - 1) <= NEAR)[: parts.config.num_random]
        for i in near:
            accuracy = whole(parts.weights, archs[i]).accuracy
            found.append({"level": number, **parts.costs.one(archs[i]), "accuracy": accuracy})
        if len(near) < parts.config.num_random:
            print(f"level {number + 1}: only {len(near)} of {TRIES} random networks take {level[LATENCY]:.4f} ms")
    return found


def main() -> None:
    ablations(parse(Config, None, "python -m scripts.ablations", __doc__ or ""))


if __name__ == "__main__":
    run(main, "give the same command again")
