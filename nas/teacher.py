"""Distillation from an external teacher: any timm network or one of our winners, its weights in a file on this machine.

The teacher is frozen and sees the images that the student sees, augmented and mixed (Touvron et al., Training
data-efficient image transformers & distillation through attention, ICML 2021, Section 4). Nothing is downloaded, and
nothing in a checkpoint is executed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

import timm
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from timm.models import load_state_dict
from torch import Tensor, nn

from nas import runs
from nas.batches import MEAN, STD
from nas.checkpoint import load_module, load_tensors, mismatch
from nas.data import Images
from nas.training import Criterion, accuracy
from search_spaces import UserError, get_space
from search_spaces.command import flag, flags_given
from search_spaces.files import read_json, sha256


@dataclass(frozen=True)
class TeacherConfig:
    """Flags of a command that trains. EfficientFormerV2 was published with RegNetY-16GF, hard, 0.5."""

    teacher: str | None = flag(
        None, "learn from this network too: a timm name, or the folder of a retrained or exported winner"
    )
    teacher_checkpoint: str | None = flag(
        None, "a timm teacher's weights: .safetensors, or a state dict in .pth or .pt"
    )
    teacher_image_size: int | None = flag(
        None, "pixels a timm teacher was trained at (default: as timm says)", minimum=1
    )
    distillation: Literal["soft", "hard"] = flag("soft", "learn the teacher's distribution, or its most likely class")
    distillation_weight: float = flag(0.5, "share of the teacher in the loss; labels have the rest", above=0, maximum=1)


# A resumed run may find the checkpoint elsewhere: `teacher_facts` say whether it is the same.
MAY_MOVE = ("teacher_checkpoint",)


class Teacher(nn.Module):
    """A frozen network behind our images and our classes.

    Args:
        network: takes (B, 3, height, width) RGB images, scaled to 0..1, less `mean`, over `std`.
        config: the teacher's share in the loss, and what is learnt from it.
        size: the height and width that the network takes.
        order: for each of our classes, its column of the network's logits; None if they are the same.
    """

    scale: Tensor
    shift: Tensor
    order: Tensor | None

    def __init__(
        self,
        network: nn.Module,
        config: TeacherConfig,
        size: tuple[int, int],
        mean: Sequence[float],
        std: Sequence[float],
        order: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.network, self.config, self.size = network, config, size
        ours, theirs = (torch.tensor(values).view(2, 1, 3, 1, 1) for values in ((MEAN, STD), (mean, std)))
        self.register_buffer("scale", ours[1] / theirs[1])
        self.register_buffer("shift", (ours[0] - theirs[0]) / theirs[1])
        self.register_buffer("order", None if order is None else torch.tensor(order))
        self.eval().requires_grad_(False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """(B, classes) logits of (B, 3, H, W) images as `nas.batches.normalize` makes them, of any size."""
        if images.shape[-2:] != self.size:
            images = F.interpolate(images, self.size, mode="bicubic", antialias=True)
        x = (images * self.scale + self.shift).contiguous(memory_format=torch.channels_last)
        logits: Tensor = self.network(x)
        return logits if self.order is None else logits[:, self.order]

    def distil(self, criterion: Criterion, images: Tensor) -> Criterion:
        """The criterion for a student of these images, the teacher's part in it; good for any number of students."""
        return distilled(criterion, self(images), self.config.distillation_weight, self.config.distillation)


def distilled(criterion: Criterion, teacher_logits: Tensor, weight: float, kind: Literal["soft", "hard"]) -> Criterion:
    """(1 - weight) · criterion(logits, target) + weight · cross-entropy against the teacher, for the same images.

    DeiT (Touvron et al. 2021): `soft` is eq. 2 at temperature 1, the KL divergence up to a constant; `hard` is eq. 3.
    The teacher's labels are not smoothed, as there.

    Args:
        teacher_logits: (B, classes), without gradient.
    """
    teaching = teacher_logits.argmax(dim=1) if kind == "hard" else teacher_logits.float().softmax(dim=1)

    def combined(logits: Tensor, target: Tensor) -> Tensor:
        return (1 - weight) * criterion(logits, target) + weight * F.cross_entropy(logits.float(), teaching)

    return combined


def load_teacher(config: TeacherConfig, classes: tuple[str, ...], device: torch.device) -> Teacher | None:
    """The teacher that the flags name, on the device; None if they name none.

    Args:
        classes: of the data; a timm teacher's logits must be in this order, which its checkpoint does not tell.

    Raises:
        UserError: no such network or file; weights of another network or number of classes, or not finite; a winner of
            ours trained on classes of other names; flags that do not go together.
    """
    path = _weights_file(config)
    if path is None:
        return None
    ours = config.teacher_checkpoint is None
    teacher = _our_teacher(config, path, classes) if ours else _timm_teacher(config, path, len(classes))
    return teacher.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def teacher_facts(config: TeacherConfig) -> dict[str, str]:
    """What `runs.begin` notes and `runs.reopen` compares besides the flags: the checksum of the teacher's weights.

    Raises:
        UserError: no such network or file; flags that do not go together.
    """
    path = _weights_file(config)
    return {"teacher_sha256": sha256(path)} if path else {}


def teacher_result(teacher: Teacher, search: Images, image_size: int, loaders: int = 0) -> dict[str, Any]:
    """What a `result.json` says of the teacher. Prints its accuracy, a fraction: classes in another order show there.

    Args:
        search: the search split; it takes the teacher less time than a few epochs of training do.
    """
    config = teacher.config
    found = accuracy(teacher, search, image_size, teacher.scale.device, loaders)
    print(f"teacher {config.teacher}: {100 * found:.2f} % of the search split", flush=True)
    sha256 = teacher_facts(config)["teacher_sha256"]
    return {
        "name": config.teacher,
        "checkpoint": config.teacher_checkpoint,
        "sha256": sha256,
        "search_accuracy": found,
    }


# ---- which file


def _weights_file(config: TeacherConfig) -> Path | None:
    name, checkpoint = config.teacher, config.teacher_checkpoint
    if name is None:
        own = TeacherConfig(**{field.name: getattr(config, field.name) for field in fields(TeacherConfig)})
        if given := flags_given(own):
            raise UserError(f"{given[0]} is for a teacher; name one with --teacher")
        return None
    path = Path(name).expanduser()
    if checkpoint is None and path.exists():
        return _winner_file(path, config)
    _check_timm_name(name)
    if checkpoint is None:
        raise UserError(f"--teacher {name} has no weights, and none are downloaded; give --teacher-checkpoint FILE")
    file = Path(checkpoint).expanduser()
    if not file.is_file():
        raise UserError(f"--teacher-checkpoint {checkpoint} is no file; give the weights of {name}")
    return file


def _winner_file(path: Path, config: TeacherConfig) -> Path:
    if config.teacher_image_size is not None:
        raise UserError(f"--teacher-image-size is for timm's networks; {path} says its own: leave it out")
    file = path / "model.safetensors" if path.is_dir() else path
    if not file.exists():
        raise UserError(
            f"--teacher {path} has no {file.name}; give a folder that nas.retrain has finished, or that "
            "nas.export has written with timm among its --formats"
        )
    return file


def _check_timm_name(name: str) -> None:
    """UserError with the nearest names, unless `name` is timm's, with or without a tag (`resnet18.a1_in1k`)."""
    if Path(name).expanduser().is_dir() and not timm.is_model(name):
        raise UserError(f"--teacher {name} is a folder, with weights of its own; leave out --teacher-checkpoint")
    try:
        if timm.is_model(name):
            timm.get_pretrained_cfg(name)
            return
    except RuntimeError:  # a tag that this network does not have
        pass
    nearest = get_close_matches(name.lower().partition(".")[0], timm.list_models())
    remedy = f"the nearest are {', '.join(nearest)}" if nearest else "timm.list_models() lists its networks"
    raise UserError(f"--teacher {name} is neither a folder here nor a network of timm {timm.__version__}; {remedy}")


# ---- timm's networks


def _timm_teacher(config: TeacherConfig, path: Path, num_classes: int) -> Teacher:
    name, pixels = str(config.teacher), config.teacher_image_size
    registered = timm.get_pretrained_cfg(name)  # none of a name that timm has given up
    sized = pixels and registered and registered.fixed_input_size  # others take any size, and no such argument
    options: dict[str, Any] = {"img_size": pixels} if sized else {}
    try:
        network: Any = timm.create_model(name, pretrained=False, num_classes=num_classes, **options)
    except _TIMM_ERRORS as error:
        raise UserError(
            f"timm cannot build {name}: {_reason(error)}; give another --teacher or its image size"
        ) from None
    cfg = network.pretrained_cfg
    size = (pixels, pixels) if pixels else tuple(cfg["input_size"][1:])
    state = _timm_state(path)
    theirs = _num_classes(cfg["classifier"], state)
    if theirs is not None and theirs != num_classes:
        raise _other_number(theirs, num_classes)
    if found := mismatch(network, state):
        raise UserError(
            f"{path} does not fit {name} at {size[0]} px: {found}; give that network's weights, or the size they were "
            "trained at with --teacher-image-size"
        )
    _check_finite(state, path)
    network.load_state_dict(state)
    teacher = Teacher(network, config, size, cfg["mean"], cfg["std"])
    _try(teacher, name, num_classes)
    return teacher


def _num_classes(classifier: str | tuple[str, ...] | None, state: dict[str, Tensor]) -> int | None:
    """Rows of the (first) classifier in a checkpoint, if timm knows its name and it is there."""
    name = classifier if isinstance(classifier, str) else next(iter(classifier or ()), "")
    weight = state.get(f"{name}.weight")
    return None if weight is None or weight.ndim == 0 else len(weight)


_TIMM_ERRORS = (AssertionError, AttributeError, IndexError, RuntimeError, TypeError, ValueError)


def _timm_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint, averaged ones if it has both, without the prefixes of wrappers."""
    remedy = "save the network's state_dict() alone, best as .safetensors"
    try:
        state = load_state_dict(str(path), weights_only=True)
    except (*_TIMM_ERRORS, EOFError, KeyError, OSError, SafetensorError) as error:
        raise UserError(f"{path} cannot be read, or not without executing it ({_reason(error)}); {remedy}") from None
    if not state or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise UserError(f"{path} holds {', '.join(state)[:80] or 'nothing'}, no tensors by name; {remedy}")
    return state


def _try(teacher: Teacher, name: str, num_classes: int) -> None:
    """One image through it, so that what it cannot take is said before the student trains."""
    try:
        logits = teacher(torch.zeros(1, 3, *teacher.size))
    except _TIMM_ERRORS as error:
        size = teacher.size[0]
        raise UserError(f"{name} cannot take {size} px: {_reason(error)}; give another --teacher-image-size") from None
    if not isinstance(logits, Tensor) or logits.shape != (1, num_classes):
        raise UserError(f"{name} is no classifier; give another --teacher")


def _reason(error: Exception) -> str:
    """The first sentence."""
    return re.split(r"\n|\. ", str(error))[0].rstrip(".") or type(error).__name__


# ---- our networks


def _our_teacher(config: TeacherConfig, path: Path, classes: tuple[str, ...]) -> Teacher:
    tensors, info = load_tensors(path)
    try:
        if "arch" in info:  # exported: the file says everything of itself
            info = {name: json.loads(info[name]) for name in ("arch", "classes", "image_size", "mean", "std")}
        else:
            run = runs.load_run_info(path.parent.resolve().parents[1])
            info = {**vars(run), "arch": read_json(path.with_name("result.json"))["arch"]}
        arch, pixels, theirs = info["arch"], info["image_size"], tuple(info["classes"])
        space = get_space(arch["space"], pixels, len(theirs))
        network = space.build(space.from_json(arch))
    except (IndexError, KeyError, TypeError, ValueError, UserError) as error:
        raise UserError(f"{path} is no winner, retrained in its run or exported: {error}; give its folder") from None
    order = _order(theirs, classes)
    load_module(network, tensors, path)
    _check_finite(tensors, path)
    return Teacher(network, config, (pixels, pixels), info["mean"], info["std"], order)


def _order(theirs: tuple[str, ...], ours: tuple[str, ...]) -> list[int] | None:
    if theirs == ours:
        return None
    if len(theirs) != len(ours):
        raise _other_number(len(theirs), len(ours))
    if unknown := [name for name in ours if name not in theirs]:
        raise UserError(
            f"teacher does not know the classes {', '.join(unknown[:5])}; give a checkpoint trained on these classes"
        )
    return [theirs.index(name) for name in ours]


# ---- both


def _other_number(theirs: int, ours: int) -> UserError:
    return UserError(f"teacher has {theirs} classes, the data {ours}; give a checkpoint trained on these classes")


def _check_finite(state: dict[str, Tensor], path: Path) -> None:
    if broken := next((name for name, tensor in state.items() if not tensor.isfinite().all()), None):
        raise UserError(f"{path}: {broken} is not finite; give a checkpoint of a training that went well")
