"""The network below the head, and its weights to start from: what --backbone and --init name."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import NotRequired, TypedDict

from nas import runs
from nas.data.splits import Normalization
from nas.dense.result import space_of
from nas.networks.backbones import Network, State, network_of
from nas.networks.start import load_start
from nas.networks.weights import AS_TOLD, CheckpointImages, init_normalization
from search_spaces import Arch, SearchSpace, UserError, arch_label, get_space
from search_spaces.dense.space import HeadedSpace


@dataclass(frozen=True)
class Start:
    """
    Args:
        space: for the images of the task; one with a head, if the network has been searched with it.
        state: tensors by the names that `space.build(arch)` has; None for fresh ones.
        normalization: of the images that it takes.
    """

    space: SearchSpace
    arch: Arch
    state: State | None
    normalization: Normalization

    @property
    def digest(self) -> str | None:
        """Of the tensors."""
        if self.state is None:
            return None
        sha = hashlib.sha256()
        for name, tensor in sorted(self.state.items()):
            sha.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
        return sha.hexdigest()


def searched_in(backbone: str) -> Path | None:
    """The run of networks with a head that `RUN:NAME` names one of; None if it names something else."""
    place, sign, _ = backbone.rpartition(":")
    if not sign or not _is_run(place):
        return None
    folder = runs.find_run(place, "run.json", "python -m nas.train_supernet")
    return None if isinstance(runs.load_run_info(folder), runs.ClassesRun) else folder


class _Begun(TypedDict):
    """Of the `config.json` of a training, as far as it is new enough."""

    normalization: NotRequired[Normalization]


def find_start(backbone: str, init: str | None, image_size: int, images: CheckpointImages = AS_TOLD) -> Start:
    """
    Args:
        backbone: folder of a trained network; RUN:NAME with a network of a run; or SPACE:ARCH with a named arch, the
            largest if it is left out, or a file of one.
        init: its weights, as `nas.networks.backbones.network_of` or, of SPACE:ARCH, `nas.networks.start.load_start`
            have it; None: those that it has, or fresh ones.
        images: of weights that `init` names a file of.

    Raises:
        UserError: no such network or weights, or images of a size that it cannot have.
    """
    if Path(backbone).expanduser().is_dir():
        found = network_of(None, backbone, init, images)
    else:
        place, _, name = backbone.rpartition(":") if ":" in backbone else (backbone, "", "largest")
        found = network_of(place, name, init, images) if _is_run(place) else _of_space(place, name, init, images)
    if isinstance(found.space, HeadedSpace):
        if searched_in(backbone):
            return Start(*found)
        raise UserError(f"--backbone {backbone} has a head of its own; give a network of {found.space.base.name}")
    space = get_space(found.space.name, image_size, found.space.num_classes)
    return Start(space, space.from_json(found.space.to_json(found.arch)), found.state, found.normalization)


def begun_start(folder: Path, image_size: int, num_classes: int) -> Start:
    """What a training began with; its checkpoint has the weights, so those of --backbone and --init may be gone.

    Args:
        folder: of its stage.
        num_classes: of the images.
    """
    space = space_of(runs.fact(folder, "space", str), image_size, num_classes)
    images = runs.begun_with(_Begun, folder).get("normalization", Normalization(space.mean, space.std))
    return Start(space, space.from_json(runs.fact(folder, "arch", dict)), None, images)


def _is_run(place: str) -> bool:
    return any((folder / place / "run.json").exists() for folder in (Path(), runs.RUNS))


def _of_space(name: str, arch: str, init: str | None, images: CheckpointImages) -> Network:
    space = get_space(name)
    chosen, normalization = space.load_arch(arch), init_normalization(space, init, images)
    if init is None:
        return Network(space, chosen, None, normalization)
    of, network, _ = load_start(space, init, {arch: chosen})
    if of != chosen:
        raise UserError(
            f"--init {init} has the weights of {arch_label(space, of)}, not of {arch}; give --backbone "
            f"{name}:{arch_label(space, of)}"
        )
    return Network(space, chosen, network.state_dict(), normalization)
