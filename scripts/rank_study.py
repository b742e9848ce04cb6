"""How far a supernet's ranking can be trusted: accuracy inherited from it against accuracy trained from scratch.

The supplement of EfficientFormerV2 (Li et al. 2023, Fig. 3) reports a Pearson r² of 0.91 for its supernet and of 0.63
for EagleEye. Here, on your images: networks spread evenly over the range of log MES are trained from scratch, more
than once, and evaluated with the weights of every supernet named, on the test split, as they are and with norms
recalibrated.

    python -m scripts.rank_study --data /path/to/images --runs my-run --epochs 10
    python -m scripts.rank_study --data /path/to/images --epochs 10 --supernet-epochs 30 \\
        --arms kl/sandwich/width ce/balanced/shared ce/largest/shared

An arm is trained here: loss, sampling and norm as nas.train_supernet has them; ce/largest/shared, recalibrated, is
EagleEye's way (Li et al. 2020). Over the whole range size alone ranks about as well; with --band all networks take
about as long:
    python -m scripts.rank_study --data /path/to/images --band 0.3 --epochs 10 --runs my-run

Interrupted, a study goes on when the same command is given again; of a finished one
nothing is trained or evaluated twice, so another --runs or --arms costs only itself. The result compares the supernets
that the command names: name those of before as well.

The flags of training are those of nas.retrain, for networks and arms alike.
"""

from __future__ import annotations

from search_spaces.command import fill, start

if __name__ == "__main__":
    start.prepare()

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from latency_lut.backends.machine import cpu_model, os_name
from latency_lut.measurement.sessions import now
from nas import runs
from nas.distributed.device import pick_device
from nas.supernets.classification import train_supernet
from nas.training.recipe import with_recipe
from nas.training.winner import DIGITS_EPOCHS
from scripts.ranking.networks import Config, Study, open_study, scratch_minutes, study_folder, train_all
from scripts.ranking.report import markdown, study_page, text
from scripts.ranking.statistics import Estimate, ceiling, compare
from scripts.ranking.supernets import Arm, arm_configs, check_runs, evaluate_all
from search_spaces import get_space
from search_spaces.command import parse, run
from search_spaces.command.files import write_json, write_text

# r² and τ at least, or by the margin below the ceiling that noise sets; the smallest network's gap at most
BARS = {"r2": 0.91, "kendall": 0.75, "margin": 0.03, "smallest_gap": 0.10}
Statistics = dict[str, Any]


def rank_study(config: Config) -> Path:
    """Runs the study, or goes on with it, and returns its folder.

    Raises:
        UserError: no latency table, runs of other data, an arm that there is not, or a study of other settings.
    """
    study = open_study(config)
    folders, to_train = check_runs(study), arm_configs(study)  # before anything is trained
    scratch = train_all(study)
    folders += [train_supernet(arm) for arm in to_train]
    result = conclude(study, scratch, evaluate_all(study, folders))
    write_json(study.folder / "result.json", result)
    write_text(study.folder / "rank_study.md", markdown(result))
    write_text(study.folder / "rank_study.html", study_page(result))
    print(text(result))
    print(f"wrote {study.folder}/result.json, rank_study.md and rank_study.html")
    return study.folder


def conclude(study: Study, scratch: np.ndarray, arms: Sequence[Arm]) -> dict[str, Any]:
    """The result as JSON.

    Args:
        scratch: (seeds, networks) accuracies.
    """
    noise = _noise(scratch) if len(scratch) > 1 else None
    # in a band the last network is the fastest, and no smaller than others
    bars = BARS if study.config.band is None else {k: v for k, v in BARS.items() if k != "smallest_gap"}
    costs = {"MACs, log": "macs", "parameters, log": "num_params"}
    networks = [
        {"arch": study.space.to_json(network.arch), "costs": network.costs, "scratch": scratch[:, i].tolist()}
        for i, network in enumerate(study.networks)
    ]
    return {
        "command": runs.command_line(),
        "settings": asdict(study.config),
        "space": study.space.name,
        "image_size": study.space.image_size,
        "data": Path(study.config.data).name,
        "splits": asdict(study.info.splits),
        "epochs": study.config.epochs,
        "num_seeds": len(scratch),
        "machine": _machine(study.config),
        "date": now(),
        "minutes": {"scratch": scratch_minutes(study), **{arm.label: arm.minutes for arm in arms}},
        "bars": bars,
        "networks": networks,
        "noise": noise,
        "arms": [_arm(arm, scratch, noise, bars) for arm in arms],
        "baselines": {
            label: _statistics([np.log(n.costs[cost]) for n in study.networks], scratch, gaps=False)
            for label, cost in costs.items()
        },
    }


def _arm(arm: Arm, scratch: np.ndarray, noise: Statistics | None, bars: Mapping[str, float]) -> dict[str, Any]:
    norms = {}
    for kind, accuracies in arm.accuracies.items():
        statistics = _statistics(accuracies, scratch)
        norms[kind] = {"accuracies": accuracies, "statistics": statistics, "missed": missed(statistics, noise, bars)}
    return {**{k: v for k, v in asdict(arm).items() if k != "accuracies"}, "norms": norms}


def _statistics(predicted: Sequence[float], scratch: np.ndarray, *, gaps: bool = True) -> Statistics:
    """Against the mean over the seeds, of all networks and without the extremes, and against each seed."""
    mean = scratch.mean(axis=0)
    found: Statistics = {
        "all": _json(compare(predicted, mean, gaps=gaps)),
        "without_extremes": _json(compare(predicted[1:-1], mean[1:-1], gaps=gaps)),
        "per_seed": [_json(compare(predicted, one, gaps=gaps)) for one in scratch],
    }
    if gaps:  # of one network: no interval over networks
        found["smallest_gap"] = asdict(Estimate(float(mean[-1] - predicted[-1])))
    return found


def _noise(scratch: np.ndarray) -> Statistics:
    """One training as the predictor of another, and what that lets the mean's predictors reach."""
    first, second = scratch[:2]
    inner = scratch[:, 1:-1]
    return {
        "one_by_another": {
            "all": _json(compare(first, second, gaps=False)),
            "without_extremes": _json(compare(first[1:-1], second[1:-1], gaps=False)),
        },
        "ceiling": {"all": _json(ceiling(scratch)), "without_extremes": _json(ceiling(inner))},
    }


def missed(statistics: Statistics, noise: Statistics | None, bars: Mapping[str, float] = BARS) -> list[str]:
    """The bars that an arm does not reach; r² and τ may also come within the margin of the ceiling."""

    def reaches(name: str, sign: str) -> bool:
        value, direction = (statistics["all"][n]["value"] for n in (name, sign))
        if value is None or direction <= 0:
            return False
        if value >= BARS[name] or noise is None:
            return bool(value >= BARS[name])
        limit = noise["ceiling"]["all"][name]
        tells = (limit["low"] or 0) > 0  # else chance alone would come near it
        return bool(tells and value >= limit["value"] - BARS["margin"])

    smallest = statistics["smallest_gap"]["value"] <= bars.get("smallest_gap", math.inf)
    reached = {"r²": reaches("r2", "pearson"), "τ": reaches("kendall", "kendall"), "smallest gap": smallest}
    return [name for name, is_reached in reached.items() if not is_reached]


def _json(statistics: Mapping[str, Estimate]) -> Statistics:
    return {name: asdict(found) for name, found in statistics.items()}


def _machine(config: Config) -> str:
    device = pick_device(config.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_model()
    threads = (config.ray_workers and 1) or torch.get_num_threads()
    return f"{name}, {os_name()}, torch {torch.__version__}, {threads} threads"


def configure(argv: Sequence[str] | None) -> Config:
    """The flags; what they do not say is as the study was begun with, or what suits the images."""
    config = parse(Config, argv, "python -m scripts.rank_study", __doc__ or "")
    folder = study_folder(config)
    if (folder / "config.json").exists():
        begun = runs.begun(folder, Config)
        return fill(config, replace(begun, study=config.study, runs=(), arms=(), ray_workers=0, ray_address=None))
    space = get_space(config.space, config.image_size)
    return fill(config, with_recipe(config, space.image_size, config.data, DIGITS_EPOCHS, space.recipe))


def main(argv: Sequence[str] | None = None) -> None:
    rank_study(configure(argv))


if __name__ == "__main__":
    run(main, "the same command goes on")
