"""Networks with weights from files on this machine: timm's, and winners of ours. Nothing is downloaded or executed."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

from nas import runs
from nas.data.batches import MEAN, STD
from nas.data.splits import Normalization
from nas.networks.checkpoints import check_finite, check_fits, fitted, read_state
from nas.runs.checkpoint import differences, load_info, load_module, load_tensors
from nas.runs.folders import WEIGHTS
from nas.runs.results import REMEDY, TrainedResult
from search_spaces import SearchSpace, UserError, get_space
from search_spaces.command import Flags, check_idle, flag, reason
from search_spaces.command.files import read_json
from search_spaces.command.typed import load_typed, read_typed
from search_spaces.timm_network import PREFIX
from search_spaces.timm_network.space import TimmSpace
from search_spaces.timm_network.timm_models import TIMM_ERRORS

PRETRAINED = "pretrained"  # for --init: timm's own weights


@dataclass(frozen=True)
class CheckpointImages(Flags):
    mean: tuple[float, ...] = flag(
        (), "R, G, B of 0 to 1 that the checkpoint's images had taken off (default: as timm says)", minimum=0, maximum=1
    )
    std: tuple[float, ...] = flag((), "and that they were divided by", minimum=1e-4, maximum=1)


AS_TOLD = CheckpointImages()


# ---- timm's networks


def normalization(
    name: str, checkpoint: Path, mean: tuple[float, ...], std: tuple[float, ...], flags: tuple[str, str]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(mean, std) of a checkpoint's images: those given, or of a config.json beside it, or timm's for the network.

    Says where they are from, unless they were given: weights do not tell, and with others accuracy is silently lower.

    Args:
        flags: that give them.

    Raises:
        UserError: one of the two alone, or other than three numbers.
    """
    if mean or std:
        if len(mean) != 3 or len(std) != 3:
            raise UserError(
                f"{flags[0]} and {flags[1]} are {len(mean)} and {len(std)} numbers; give 3 each, of R, G, B"
            )
        return mean, std
    config, file = timm.get_pretrained_cfg(name), checkpoint.with_name("config.json")
    if told := _told_normalization(name, file):
        print(f"images of {checkpoint} have mean {told[0]} and std {told[1]} taken off, as {file} says", flush=True)
        return told
    assumed = (tuple(config.mean), tuple(config.std)) if config else (MEAN, STD)
    like = f"timm's {name} has" if config else "ImageNet's have"
    print(
        f"images of {checkpoint} are assumed to have mean {assumed[0]} and std {assumed[1]} taken off, as {like}; "
        f"give {flags[0]} and {flags[1]} if it was trained with others",
        flush=True,
    )
    return assumed


def _told_normalization(name: str, file: Path) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """By the config.json that timm saves beside weights for the Hugging Face Hub, if it is of this network."""
    if not file.is_file():
        return None
    try:
        found = read_json(file)
        config = read_typed(_HubConfig, {key: found["pretrained_cfg"][key] for key in ("mean", "std")}, file.name)
        same = found["architecture"] == name.partition(".")[0]
    except (KeyError, TypeError, ValueError, UserError):  # of something else
        return None
    return (config.mean, config.std) if same and len(config.mean) == len(config.std) == 3 else None


@dataclass(frozen=True)
class _HubConfig:
    mean: tuple[runs.Mean, ...]
    std: tuple[runs.Std, ...]


def check_takes(network: nn.Module, name: str, size: tuple[int, int], num_classes: int, flags: tuple[str, str]) -> None:
    """Runs one black image, so that what the network cannot take is said before anything else is done with it.

    Args:
        size: height and width, in pixels.
        flags: that name the network, and its size.

    Raises:
        UserError: it cannot, or its output is not a logit a class.
    """
    try:
        with torch.no_grad():
            logits = network(torch.zeros(1, 3, *size))
    except TIMM_ERRORS as error:
        raise UserError(f"{name} cannot take {size[0]} px: {reason(error)}; give another {flags[1]}") from None
    if not isinstance(logits, Tensor) or logits.shape != (1, num_classes):
        raise UserError(f"{name} is no classifier; give another {flags[0]}")


def load_timm(network: Any, name: str, path: Path, num_classes: int, size: int, size_flag: str) -> None:
    """Loads a checkpoint into timm's network, made with that number of classes.

    Args:
        size: pixels that the network was made for, `size_flag` the flag that says so.

    Raises:
        UserError: a file that cannot be read, weights of another network or number of classes, or not finite.
    """
    state = fitted(network, name, read_state(path), path)
    check_fits(network, name, state, path, num_classes, size, size_flag)
    network.load_state_dict(state)


def load_prepared(network: nn.Module, state: Mapping[str, Tensor]) -> str | None:
    """Loads tensors that `fitted` gave; what does not fit, if anything: then nothing is loaded."""
    if found := differences(network, dict(state)):
        return str(found)
    network.load_state_dict(state)
    return None


# ---- our networks


@dataclass(frozen=True)
class Facts:
    """What tells a network of a space of ours, retrained or exported, from others, and what its images were."""

    arch: dict[str, Any]
    image_size: int
    classes: tuple[str, ...]
    mean: tuple[runs.Mean, ...]
    std: tuple[runs.Std, ...]

    def __post_init__(self) -> None:
        """ValueError without a space, or with other channels than R, G, B."""
        if not isinstance(self.arch.get("space"), str):
            raise ValueError("its arch has no space")
        if len(self.mean) != 3 or len(self.std) != 3:
            raise ValueError("it has no mean and std of R, G, B")


@dataclass(frozen=True)
class Winner:
    """Such a network, with its weights."""

    network: nn.Module
    facts: Facts


def load_winner(path: Path) -> Winner:
    """
    Args:
        path: a `model.safetensors` that nas.export has written, or nas.retrain in its run.

    Raises:
        UserError: no such file, or not finite.
    """
    tensors, info = load_tensors(path)
    try:
        facts = _exported_facts(info) if "arch" in info else _run_facts(path)
        space = get_space(facts.arch["space"], facts.image_size, len(facts.classes))
        network = space.build(space.from_json(facts.arch))
    except (IndexError, KeyError, ValueError, RecursionError, UserError) as error:
        raise UserError(f"{path} is no winner, retrained in its run or exported: {error}; give its folder") from None
    load_module(network, tensors, path)
    check_finite(tensors, path)
    return Winner(network, facts)


def _exported_facts(info: dict[str, Any]) -> Facts:
    """By the file, which says everything of itself, each fact as JSON. KeyError or ValueError if it does not."""
    texts = read_typed(dict[str, str], info, "its header")
    raw = {field.name: json.loads(texts[field.name]) for field in dataclasses.fields(Facts)}
    return read_typed(Facts, raw, "its header")


def _run_facts(path: Path) -> Facts:
    """By the run that the file lies in. IndexError or UserError if it lies in none."""
    run = runs.load_run_info(path.parent.resolve().parents[1])
    arch = load_typed(TrainedResult, path.with_name("result.json"), REMEDY)["arch"]
    return Facts(arch, run.image_size, run.classes, run.mean, run.std)


def winner_file(path: Path, flag: str) -> Path:
    """The weights' file of a folder that a winner lies in, or the file itself. UserError if there is none."""
    file = path / WEIGHTS if path.is_dir() else path
    if not file.exists():
        raise UserError(
            f"{flag} {path} has no {file.name}; give a folder that nas.retrain has finished, or that "
            "nas.export has written with timm among its --formats"
        )
    return file


# ---- what --init names


def init_file(init: str) -> Path:
    """The weights' file that it names, or of the folder that it names. UserError if there is none."""
    path = Path(init).expanduser()
    file = path / WEIGHTS if path.is_dir() else path
    if not file.is_file():
        raise UserError(f"--init {init}: there is no {file}; give a file of weights, a folder of ours, or pretrained")
    return file


def timm_name(space: SearchSpace, arch: str) -> str:
    """timm's name of a published network, by which it brings weights from their authors' layout into its own."""
    return space.network.name if isinstance(space, TimmSpace) else f"{space.name.partition('-')[0]}_{arch}"


def check_architecture(init: str, file: Path, names: Sequence[str]) -> None:
    """UserError if the config.json that timm saves for the Hugging Face Hub beside a folder's weights names another
    network than these of timm's.
    """
    config = file.with_name("config.json")
    told = _told_architecture(config) if file.name == WEIGHTS else None
    if told is not None and told not in [name.partition(".")[0] for name in names]:
        raise UserError(
            f"--init {init} has the weights of {told}, as {config} says, not of {names[0]}; name that network, by "
            f"--model {told} or --space {PREFIX}{told}"
        )


def _told_architecture(file: Path) -> str | None:
    try:
        found = read_json(file) if file.is_file() else None
    except UserError:  # no JSON
        return None
    told = found.get("architecture") if isinstance(found, dict) else None
    return told if isinstance(told, str) else None


def init_normalization(space: SearchSpace, init: str | None, config: CheckpointImages) -> Normalization:
    """How images are normalized for networks that start from what `init` names; None for fresh weights.

    As the weights' own images were: by the flags, or as a run or an exported file of ours says, or by `normalization`.

    Raises:
        UserError: no such file; flags where something else says it, or other than three numbers each.
    """
    if init in (None, PRETRAINED):
        check_idle(config, ("mean", "std"), "--init FILE")
        return Normalization(space.mean, space.std)
    file = init_file(str(init))
    if facts := _facts_of(file):
        check_idle(config, ("mean", "std"), f"weights of others, {init} says its own")
        return Normalization(facts.mean, facts.std)
    names = [timm_name(space, arch) for arch in space.published] or [space.name]
    name = next((name for name in names if _told_normalization(name, file.with_name("config.json"))), names[-1])
    return Normalization(*normalization(name, file, config.mean, config.std, ("--mean", "--std")))


def _facts_of(file: Path) -> Facts | None:
    """What a network of ours says of itself, or its run; None of weights that others made."""
    try:
        info = load_info(file)
        return _exported_facts(info) if "arch" in info else _run_facts(file)
    except (IndexError, KeyError, ValueError, RecursionError, UserError):
        return None
