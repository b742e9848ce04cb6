"""Backbones with weights: a run's winner, a network of its supernet, weights that are published, or fresh ones."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

import torch
from torch import Tensor

from nas import runs
from nas.data.splits import Normalization
from nas.networks.inherit import calibration_batches, default_calibration, inherited, load_supernet
from nas.networks.start import load_start
from nas.networks.weights import AS_TOLD, CheckpointImages, Facts, init_normalization, load_winner, winner_file
from nas.runs.folders import WEIGHTS
from search_spaces import Arch, SearchSpace, UserError, arch_label, get_space
from search_spaces.command import check_idle
from search_spaces.command.typed import load_typed
from search_spaces.dense.backbone import Backbone

TRAINED, INHERIT, SCRATCH = "trained", "inherit", "scratch"
CPU = torch.device("cpu")
REMEDY = "search again with nas.search"

State = Mapping[str, Tensor]


class Network(NamedTuple):
    """A network of a space, and its tensors by the names that `space.build(arch)` has; None for fresh ones.

    Args:
        normalization: of the images that it takes.
    """

    space: SearchSpace
    arch: Arch
    state: State | None
    normalization: Normalization


class _Network(TypedDict):
    name: str
    arch: dict[str, Any]


class _Searched(TypedDict):
    """Of a search's `result.json`."""

    winners: list[_Network]
    earlier_winners: list[_Network]


def backbone_of(
    run: str | Path | None,
    winner: str,
    init: str | None = None,
    *,
    image_size: int | None = None,
    output_stride: int | None = None,
    finest_stride: int | None = None,
) -> Backbone:
    """The backbone that a network of a run is, with its weights.

    Args:
        run: its folder or name; None where `winner` says everything.
        winner: the name of a network that was retrained or that a search has picked, that of one of the space
            (`largest`, `s0`), or a JSON file of one; without a run the folder that nas.export or nas.retrain wrote.
        init: `trained`, by nas.retrain (what is taken if it was); `inherit`, the supernet's (else); `scratch`; or as
            nas.train_supernet has it: `pretrained`, timm's own, a file of weights, or a folder that has some.
        image_size: in pixels; None for that of the run. Biases of attentions are resized.
        output_stride, finest_stride: as `Backbone` has them.

    Raises:
        UserError: no such run, network or weights; weights of another network; or strides that it cannot have.
    """
    space, arch, state, _ = network_of(run, winner, init)
    backbone = resized(space, arch, image_size, output_stride, finest_stride)
    if state is not None:
        backbone.load(state)
    return backbone


def network_of(
    run: str | Path | None, winner: str, init: str | None = None, images: CheckpointImages = AS_TOLD
) -> Network:
    """The same network with its space and tensors; `backbone_of` has the arguments and errors.

    Args:
        images: of weights that `init` names a file of.
    """
    if run is None:
        check_idle(images, ("mean", "std"), "--init FILE")
        return _alone(Path(winner), init)
    folder = runs.find_run(str(run), "run.json", "python -m nas.train_supernet")
    info = runs.load_run_info(folder)
    space = info.search_space()
    arch = _arch(folder, space, winner)
    state = _state(folder, space, arch, winner, init)
    if init not in (None, TRAINED, INHERIT, SCRATCH):
        return Network(space, arch, state, init_normalization(space, init, images))
    check_idle(images, ("mean", "std"), "--init FILE")
    return Network(space, arch, state, Normalization(info.mean, info.std))


def resized(
    space: SearchSpace,
    arch: Arch,
    image_size: int | None = None,
    output_stride: int | None = None,
    finest_stride: int | None = None,
) -> Backbone:
    """The network's backbone, freshly initialized, for images of another size than its space's.

    Raises:
        UserError: a size that the space cannot have, or strides that the network cannot.
    """
    if image_size not in (None, space.image_size):
        fields = space.to_json(arch)
        space = get_space(space.name, image_size, space.num_classes)
        arch = space.from_json(fields)
    return Backbone(space, arch, output_stride, finest_stride)


def _alone(path: Path, init: str | None) -> Network:
    """A network that lies in a folder of its own."""
    if init not in (None, TRAINED, SCRATCH):
        raise UserError(f"init {init} of {path} needs the run whose supernet it is of; name it, or leave init out")
    found = load_winner(winner_file(path, "winner"))
    space, arch = _told(found.facts)
    state = None if init == SCRATCH else found.network.state_dict()
    return Network(space, arch, state, Normalization(found.facts.mean, found.facts.std))


def _told(facts: Facts) -> tuple[SearchSpace, Arch]:
    space = get_space(facts.arch["space"], facts.image_size, len(facts.classes))
    return space, space.from_json(facts.arch)


def _retrained(folder: Path, winner: str) -> Path | None:
    """The weights that nas.retrain has made of it, if it has."""
    path = folder / "retrain" / winner / WEIGHTS
    return path if path.exists() else None


def _arch(folder: Path, space: SearchSpace, winner: str) -> Arch:
    if path := _retrained(folder, winner):
        return _told(load_winner(path).facts)[1]
    found = [load_typed(_Searched, path, REMEDY) for path in sorted(folder.glob("search*/result.json"))]
    searched = {n["name"]: n["arch"] for each in found for n in (*each["winners"], *each["earlier_winners"])}
    if winner in searched:
        return space.from_json(searched[winner])
    if winner not in space.named and not Path(winner).exists():
        known = dict.fromkeys((*(p.parent.name for p in folder.glob("retrain/*/result.json")), *searched, *space.named))
        raise UserError(f"{folder} has no network {winner!r}; choose from {', '.join(known)}, or give a JSON file")
    return space.load_arch(winner)


def _state(folder: Path, space: SearchSpace, arch: Arch, winner: str, init: str | None) -> State | None:
    """The network's tensors; None for fresh ones."""
    path = _retrained(folder, winner)
    init = init or (TRAINED if path else INHERIT)
    if init == SCRATCH:
        return None
    if init == INHERIT:
        return _inherited(folder, arch)
    if init == TRAINED:
        if path is None:
            raise UserError(f"{folder} has no retrained {winner!r}; run nas.retrain, or take init {INHERIT}")
        return load_winner(path).network.state_dict()
    of, network, _ = load_start(space, init)
    if of != arch:
        raise UserError(f"init {init} has the weights of {arch_label(space, of)}, not of {winner}; take init {INHERIT}")
    return network.state_dict()


def _inherited(folder: Path, arch: Arch) -> State:
    """Of the run's supernet, its norms recalibrated on the run's images where they are shared."""
    supernet = load_supernet(runs.find_trained(str(folder)), CPU)
    count = default_calibration(supernet)
    images = runs.load_run_images(folder).train if count else None
    batches = () if images is None else calibration_batches(images, supernet.space.image_size, count, CPU)
    return inherited(supernet, arch, batches).state_dict()
