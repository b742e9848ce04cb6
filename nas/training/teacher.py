"""Distillation from an external teacher: any timm network or one of our winners, its weights in a file on this machine.

The teacher is frozen and sees the images that the student sees, augmented and mixed (Touvron et al., Training
data-efficient image transformers & distillation through attention, ICML 2021, Section 4). Nothing is downloaded, and
nothing in a checkpoint is executed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas.data import Data
from nas.data.classes import read_classes
from nas.data.splits import Normalization
from nas.evaluation.accuracy import accuracy, warn_near_chance
from nas.networks.weights import check_takes, load_timm, load_winner, normalization, winner_file
from nas.training.trainer import Criterion
from search_spaces import UserError
from search_spaces.command import Flags, flag, flags_given
from search_spaces.command.files import sha256
from search_spaces.timm_network.timm_models import check_timm_name, create_timm, timm_options
from supernet.losses import Logits

TaughtCriterion = Callable[[Logits, Tensor], Tensor]


@dataclass(frozen=True)
class TeacherConfig(Flags):
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
    teacher_mean: tuple[float, ...] = flag(
        (), "R, G, B of 0 to 1 that its images had taken off (default: as timm says)", minimum=0, maximum=1
    )
    teacher_std: tuple[float, ...] = flag((), "and that they were divided by", above=0, maximum=1)
    teacher_classes: str | None = flag(
        None, "file with a timm teacher's classes in the order of its outputs (default: in that of the data)"
    )
    distillation: Literal["soft", "hard"] = flag("soft", "learn the teacher's distribution, or its most likely class")
    distillation_weight: float = flag(
        0.5,
        "share of the teacher in the loss; labels have the rest (of two classifiers each learns one of them)",
        above=0,
        maximum=1,
    )


OTHER_ORDER = (
    "was it trained on these classes, in this order, on images normalized like this? --teacher-classes FILE gives its "
    "order of the classes, --teacher-mean and --teacher-std its normalization"
)


class Renormalized(nn.Module):
    """A network that takes images of `theirs`, for (B, 3, H, W) images of `ours`."""

    scale: Tensor
    shift: Tensor

    def __init__(self, network: nn.Module, theirs: Normalization, ours: Normalization) -> None:
        super().__init__()
        self.network = network
        mean, std, our_mean, our_std = (
            torch.tensor(values).view(1, 3, 1, 1) for one in (theirs, ours) for values in (one.mean, one.std)
        )
        self.register_buffer("scale", our_std / std, persistent=False)
        self.register_buffer("shift", (our_mean - mean) / std, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images * self.scale + self.shift)
        return logits


class Teacher(nn.Module):
    """A frozen network behind our images and our classes.

    Args:
        network: takes (B, 3, height, width) RGB images of `theirs`.
        config: the teacher's share in the loss, and what is learnt from it.
        size: the height and width that the network takes.
        ours: the normalization of the images that the student sees.
        order: for each of our classes, its column of the network's logits; None if they are the same.
    """

    order: Tensor | None

    def __init__(
        self,
        network: nn.Module,
        config: TeacherConfig,
        size: tuple[int, int],
        theirs: Normalization,
        ours: Normalization,
        order: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.network, self.config, self.size = Renormalized(network, theirs, ours), config, size
        self.register_buffer("order", None if order is None else torch.tensor(order))
        self.eval().requires_grad_(False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """(B, classes) logits of (B, 3, H, W) images as the student sees them, of any size."""
        if images.shape[-2:] != self.size:
            images = F.interpolate(images, self.size, mode="bicubic", antialias=True)
        logits: Tensor = self.network(images.contiguous(memory_format=torch.channels_last))
        return logits if self.order is None else logits[:, self.order]

    def distil(self, criterion: Criterion, images: Tensor) -> TaughtCriterion:
        """The criterion for a student of these images, the teacher's part in it; good for any number of students."""
        return distilled(criterion, self(images), self.config.distillation_weight, self.config.distillation)


def use_both_classifiers(student: nn.Module) -> None:
    """Has a student of two classifiers (one of timm's, a supernet) return the logits of each while it trains."""
    if enable := getattr(student, "set_distilled_training", None):
        enable()


def distilled(
    criterion: Criterion, teacher_logits: Tensor, weight: float, kind: Literal["soft", "hard"]
) -> TaughtCriterion:
    """(1 - weight) · criterion(logits, target) + weight · cross-entropy against the teacher, for the same images.

    Of two classifiers the first learns from the labels and the second from the teacher: DeiT's `DistillationLoss`,
    which EfficientFormerV2's released code has too. One learns from both.

    DeiT (Touvron et al. 2021): `soft` is eq. 2 at temperature 1, the KL divergence up to a constant; `hard` is eq. 3.
    The teacher's labels are not smoothed, as there.

    Args:
        teacher_logits: (B, classes), without gradient.
    """
    teaching = teacher_logits.argmax(dim=1) if kind == "hard" else teacher_logits.float().softmax(dim=1)

    def combined(logits: Logits, target: Tensor) -> Tensor:
        of_labels, of_teacher = (logits, logits) if isinstance(logits, Tensor) else logits
        return (1 - weight) * criterion(of_labels, target) + weight * F.cross_entropy(of_teacher.float(), teaching)

    return combined


def load_teacher(
    config: TeacherConfig, classes: tuple[str, ...], ours: Normalization, device: torch.device
) -> Teacher | None:
    """The teacher that the flags name, on the device; None if they name none.

    Args:
        classes: of the data; a timm teacher's logits are taken to be in this order, unless `teacher_classes` says
            another: its checkpoint does not tell.
        ours: the normalization of the images that the student sees.

    Raises:
        UserError: no such network or file; weights of another network or number of classes, or not finite; a winner of
            ours trained on classes of other names; flags that do not go together.
    """
    path = _weights_file(config)
    if path is None:
        return None
    load = _our_teacher if config.teacher_checkpoint is None else _timm_teacher
    teacher = load(config, path, classes, ours)
    return teacher.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def teacher_facts(config: TeacherConfig) -> dict[str, str]:
    """What `runs.begin` notes and `runs.reopen` compares besides the flags: checksums of the teacher's files.

    Raises:
        UserError: no such network or file; flags that do not go together.
    """
    path = _weights_file(config)
    if path is None:
        return {}
    facts = {"teacher_sha256": sha256(path)}
    if config.teacher_classes:
        facts["teacher_classes_sha256"] = sha256(Path(config.teacher_classes).expanduser())
    return facts


def may_move(config: TeacherConfig) -> tuple[str, ...]:
    """Flags that a resumed run may have others of: files, of which `teacher_facts` say whether they are the same."""
    files = ("teacher_checkpoint", "teacher_classes")
    return files if config.teacher_checkpoint else (*files, "teacher")


def teacher_result(teacher: Teacher, data: Data, image_size: int, num_workers: int = 0) -> dict[str, Any]:
    """What a `result.json` says of the teacher. Prints its accuracy, a fraction: classes in another order show there.

    Args:
        data: its search split takes the teacher less time than a few epochs of training do.
    """
    config = teacher.config
    found = accuracy(teacher, data.search, image_size, teacher.network.scale.device, num_workers)
    print(f"teacher {config.teacher}: {100 * found:.2f} % of the search split", flush=True)
    remedy = OTHER_ORDER if config.teacher_checkpoint else "give another --teacher"
    warn_near_chance(f"teacher {config.teacher}", found, len(data.search), len(data.classes), remedy)
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
        if given := flags_given(config, TeacherConfig):
            raise UserError(f"{given[0]} is for a teacher; name one with --teacher")
        return None
    path = Path(name).expanduser()
    if checkpoint is None and path.exists():
        return _winner_file(path, config)
    check_timm_name("--teacher", "--teacher-checkpoint", name)
    if checkpoint is None:
        raise UserError(f"--teacher {name} has no weights, and none are downloaded; give --teacher-checkpoint FILE")
    file = Path(checkpoint).expanduser()
    if not file.is_file():
        raise UserError(f"--teacher-checkpoint {checkpoint} is no file; give the weights of {name}")
    return file


def _winner_file(path: Path, config: TeacherConfig) -> Path:
    for name in ("teacher_image_size", "teacher_mean", "teacher_std", "teacher_classes"):
        if getattr(config, name):
            raise UserError(f"--{name.replace('_', '-')} is for timm's networks; {path} says its own: leave it out")
    return winner_file(path, "--teacher")


# ---- timm's networks


def _timm_teacher(config: TeacherConfig, path: Path, classes: tuple[str, ...], ours: Normalization) -> Teacher:
    name, pixels, num_classes = str(config.teacher), config.teacher_image_size, len(classes)
    theirs = read_classes(config.teacher_classes, "--teacher-classes") if config.teacher_classes else classes
    order = _order(theirs, classes)
    network = create_timm("--teacher", name, num_classes, timm_options(name, pixels))
    cfg = network.pretrained_cfg
    size = (pixels, pixels) if pixels else tuple(cfg["input_size"][1:])
    load_timm(network, name, path, num_classes, size[0], "--teacher-image-size")
    flags = ("--teacher-mean", "--teacher-std")
    own = Normalization(*normalization(name, path, config.teacher_mean, config.teacher_std, flags))
    teacher = Teacher(network, config, size, own, ours, order)
    check_takes(teacher, name, size, num_classes, ("--teacher", "--teacher-image-size"))
    return teacher


# ---- our networks


def _our_teacher(config: TeacherConfig, path: Path, classes: tuple[str, ...], ours: Normalization) -> Teacher:
    winner = load_winner(path)
    facts = winner.facts
    size = (facts.image_size, facts.image_size)
    own = Normalization(facts.mean, facts.std)
    return Teacher(winner.network, config, size, own, ours, _order(facts.classes, classes))


def _order(theirs: tuple[str, ...], ours: tuple[str, ...]) -> list[int] | None:
    if theirs == ours:
        return None
    if len(theirs) != len(ours):
        raise UserError(
            f"teacher has {len(theirs)} classes, the data {len(ours)}; give a checkpoint trained on these classes"
        )
    if unknown := [name for name in ours if name not in theirs]:
        raise UserError(
            f"teacher does not know the classes {', '.join(unknown[:5])}; give a checkpoint trained on these classes"
        )
    return [theirs.index(name) for name in ours]
