"""The supernets of a ranking study, and the accuracies that its networks inherit from them.

<study>/arms/<loss>-<sampling>-<norm>/     a run of nas.train_supernet that the study has trained itself
<study>/inherited/<run>-<digest>.json      test accuracies of all networks, by their norms
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nas import runs
from nas.data import DataConfig
from nas.distributed.device import pick_device
from nas.evaluation.accuracy import right_answers
from nas.networks.inherit import calibration_batches, inherited, load_supernet
from nas.supernets import classification as training
from nas.training.recipe import TrainConfig
from scripts.ranking.networks import Study
from search_spaces import UserError
from search_spaces.command.files import read_json, sha256, slug, write_json
from supernet import Supernet

KIND = ("loss", "sampling", "norm")  # what an arm is named by
DETAILS = ("num_random", "largest_epochs", "shrink_epochs")  # added to its label where they are not the default
AS_TRAINED, RECALIBRATED = "as trained", "recalibrated"


@dataclass(frozen=True)
class Arm:
    """A supernet and the accuracies of the study's networks with its weights, by how their norms were got."""

    label: str
    run: str
    epochs: int
    minutes: float
    weights_sha256: str
    accuracies: dict[str, list[float]]


# ---- supernets


def arm_configs(study: Study) -> list[training.Config]:
    """How to train the supernets named by --arms.

    Raises:
        UserError: an arm that there is not.
    """
    config = study.config
    names = [*(field.name for field in (*fields(TrainConfig), *fields(DataConfig))), "space", "image_size"]
    common = training.Config(**{name: getattr(config, name) for name in names})
    common = replace(common, epochs=config.supernet_epochs or config.epochs)
    return [_arm_config(study, common, arm) for arm in dict.fromkeys(config.arms)]


def _arm_config(study: Study, common: training.Config, arm: str) -> training.Config:
    parts = arm.split("/")
    if len(parts) != len(KIND):
        raise UserError(f"--arms {arm}: give {'/'.join(KIND)}, such as kl/sandwich/width")
    folder = study.folder / "arms" / "-".join(parts)
    kind: dict[str, Any] = dict(zip(KIND, parts, strict=True))
    try:
        config = replace(common, run=str(folder), **kind)
        training.check_recipe(config)
    except UserError as error:
        raise UserError(f"--arms {arm}: {error}") from None
    return replace(config, resume=(folder / "supernet/config.json").exists())


def check_runs(study: Study) -> list[Path]:
    """The folders named by --runs.

    Raises:
        UserError: an unfinished run, or one of another space or other images.
    """
    return [_check_run(study, name) for name in dict.fromkeys(study.config.runs)]


def _check_run(study: Study, name: str) -> Path:
    folder = runs.find_trained(name)
    info = runs.load_classes_info(folder)
    for what, own, its in (
        ("space", study.info.space, info.space),
        ("image size", study.info.image_size, info.image_size),
        ("number of classes", study.info.num_classes, info.num_classes),
        ("digest of the splits", study.info.splits.digest, info.splits.digest),
    ):
        if own != its:
            raise UserError(f"{folder}: its {what} is {its}, the study's {own}; give runs of the same space and data")
    return folder


# ---- inherited accuracies


def evaluate_all(study: Study, folders: Sequence[Path]) -> list[Arm]:
    """An arm for each run, with the accuracies of every network: read where they have been found before."""
    device = pick_device(study.config.device)
    arms = [_evaluate(study, folder, device) for folder in folders]
    labels = [arm.label for arm in arms]
    return [a if labels.count(a.label) == 1 else replace(a, label=f"{a.label} ({Path(a.run).name})") for a in arms]


def _evaluate(study: Study, folder: Path, device: torch.device) -> Arm:
    config, result = (read_json(folder / "supernet" / name) for name in ("config.json", "result.json"))
    digest = sha256(folder / "supernet/supernet.safetensors")
    path = study.folder / "inherited" / f"{slug(folder.name)}-{digest[:12]}.json"
    known: dict[str, list[float]] = read_json(path) if path.exists() else {}
    keys = {RECALIBRATED: f"recalibrated on {study.config.calibration_images} images"}
    if config.get("norm") != "shared":  # the running statistics of shared norms are those of no network
        keys = {AS_TRAINED: AS_TRAINED, **keys}
    if missing := {norms: key for norms, key in keys.items() if key not in known}:
        models = _models(study, load_supernet(folder, device), tuple(missing))
        every, num_workers = list(chain(*models.values())), study.config.num_workers
        right = right_answers(every, study.data.test, study.space.image_size, device, num_workers)
        found = right.mean(axis=1)
        known |= dict(zip(missing.values(), found.reshape(len(missing), -1).tolist(), strict=True))
        write_json(path, known)
    accuracies = {norms: known[key] for norms, key in keys.items()}
    return Arm(_label(config), str(folder), result["epochs"], result["minutes"], digest, accuracies)


def _models(study: Study, supernet: Supernet, norms: Sequence[str]) -> dict[str, list[nn.Module]]:
    archs, count = [network.arch for network in study.networks], study.config.calibration_images
    batches: dict[str, tuple[Tensor, ...]] = {AS_TRAINED: ()}
    if RECALIBRATED in norms:
        batches[RECALIBRATED] = calibration_batches(study.data.train, study.space.image_size, count, supernet.device)
    return {kind: [inherited(supernet, arch, batches[kind]) for arch in archs] for kind in norms}


def _label(config: dict[str, Any]) -> str:
    """A run of before these settings has their defaults."""
    default = training.Config()
    kind = "/".join(str(config.get(name, getattr(default, name))) for name in KIND)
    others = {name: config.get(name, getattr(default, name)) for name in DETAILS}
    return " ".join([kind, *(f"{n}={v:g}" for n, v in others.items() if v != getattr(default, n))])
