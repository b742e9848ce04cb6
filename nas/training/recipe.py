"""Settings of a training run, and which suit which images."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, TypeVar

import numpy as np
import torch

from nas.data.batches import Augment, StepImages
from nas.data.embedded import EMBEDDED
from nas.distributed import collectives
from nas.distributed.device import pick_device
from nas.runs.checkpoint import code_digest
from search_spaces import SearchSpace, UserError
from search_spaces.command import Flags, check_idle, flag
from search_spaces.dense.space import HeadedSpace

# Mehta and Rastegari (MobileViT, 2022), Sections 3.2 and 4.1: 320, 288, 256, 192 and 160 px around 256; and images of a
# step in eighths of those of the largest, so that all steps have about as many pixels.
MULTI_SCALE = ((5 / 4, 8), (9 / 8, 10), (1.0, 12), (3 / 4, 22), (5 / 8, 32))


@dataclass(frozen=True)
class LoopConfig(Flags):
    """Flags of any training. These defaults are the recipe adamw (docs/training.md)."""

    batch_size: int = flag(256, "images of a step, of all processes together", minimum=1)
    accumulation_steps: int = flag(1, "parts, one after another, of each process's share of a batch", minimum=1)
    lr: float = flag(1e-3, "peak learning rate, at a batch of 1024 (scaled linearly with the batch)", above=0)
    layer_decay: float | None = flag(
        None,
        "learning rate of a layer over that of the next one, by timm (default: all alike)",
        above=0,
        maximum=1,
    )
    optimizer: Literal["adamw", "sgd"] = flag("adamw", "sgd: with a momentum of 0.9")
    lr_ends: float = flag(
        0.01, "learning rate at both ends of the training, of its peak (steps: at the beginning)", above=0, maximum=1
    )
    schedule: Literal["cosine", "steps"] = flag(
        "cosine",
        "of the learning rate after its warm-up; steps: a tenth of it after two thirds of the training, a hundredth "
        "after eleven twelfths",
    )
    weight_decay: float = flag(0.025, "weight decay", minimum=0)
    weight_decay_end: float | None = flag(
        None, "weight decay at the end, reached by a cosine (default: it stays)", minimum=0
    )
    warmup_epochs: float = flag(5.0, "epochs of linear warm-up", minimum=0)
    clip_grad: float = flag(0.01, "gradient clipping, 0 for none", minimum=0)
    clip_mode: Literal["norm", "value", "agc"] = flag("agc", "kind of gradient clipping")
    ema_decay: float = flag(0.99996, "decay of the weights' moving average, reached by warm-up", minimum=0, below=1)
    amp: Literal["auto", "bf16", "fp16", "off"] = flag(
        "auto", "mixed precision; auto: bf16 (fp16 on older GPUs), on a CPU only where that is faster"
    )
    device: str = flag("auto", "cpu, cuda, cuda:1, …; auto: CUDA if there is one")
    num_workers: int = flag(0, "processes that load images, for each that trains (0: it does)", minimum=0)
    seed: int = flag(0, "of initialization, order, augmentation and sampling", minimum=0)
    checkpoint_seconds: float = flag(60.0, "time between checkpoints", minimum=0)


@dataclass(frozen=True)
class StepConfig(LoopConfig):
    """Flags of the training of a classifier, but its length."""

    label_smoothing: float = flag(0.1, "of the labels' loss", minimum=0, below=1)
    drop_path: float | None = flag(
        None,
        "stochastic depth of the last block (default: 0; of a single network by the recipe adamw as published for its "
        "size)",
        minimum=0,
        below=1,
    )
    augment: Literal["auto", "light", "basic", "randaugment", "published", "none"] = flag(
        "auto",
        "light: crops of at least 60 %; basic: crops; randaugment: crops and 2 random operations; published: these, "
        "random erasing, mixup and cutmix; auto: published from 128 px on, else light",
    )
    hflip: bool = flag(True, "mirror images at random (not for digits, letters, signs)")

    def augmentation(self, image_size: int) -> Augment:
        """Of images of this size in the end."""
        if self.augment != "auto":
            return self.augment
        return "published" if image_size >= 128 else "light"


@dataclass(frozen=True)
class TrainConfig(StepConfig):
    """Flags of a training run; see `with_recipe`."""

    recipe: Literal["adamw", "adamw-basic", "adamw-half", "progressive", "finetune", "finetune-gently"] | None = flag(
        None, "settings that stand for flags not given (default: that of the space, adapted to small images)"
    )
    epochs: int = flag(300, "passes over the training split", minimum=1)
    patience: int | None = flag(
        None,
        "end after so many evaluations (some 20 are made) without a better accuracy on the search split, and keep the "
        "last moving average that cannot be told from the best (default: go to the end and keep that)",
        minimum=1,
    )
    progressive: bool = flag(
        False,
        "images and augmentation grow: 5/7 of the size and 0.3 of the strength for the first 13 % of the epochs, 6/7 "
        "and 0.6 until 38 %",
    )
    multi_scale: bool = flag(
        False,
        "steps on images of 5/8, 3/4, 1, 9/8 and 5/4 of the size, with --batch-size of the largest and more of smaller "
        "ones",
    )

    @property
    def is_finetuning(self) -> bool:
        """Whether its recipe is for weights that were trained before."""
        return self.recipe in ("finetune", "finetune-gently")

    def steps(self, epoch: int, num_images: int, image_size: int) -> list[StepImages]:
        """Of an epoch, in the order drawn for it; equally many in each, and each size equally often.

        Raises:
            UserError: a batch of one image, or of more than there are.
        """
        size, _ = self.at_epoch(epoch, image_size)
        if self.batch_size > num_images:
            raise UserError(f"--batch-size {self.batch_size} is more than the {num_images} training images; lower it")
        if self.batch_size < 2:
            raise UserError("--batch-size is 1, and batch norm needs several images; give 2 or more")
        if not self.multi_scale:
            return [StepImages(size, self.batch_size)] * (num_images // self.batch_size)
        if self.batch_size < 8:
            raise UserError(
                f"--batch-size {self.batch_size} has no eighths, which --multi-scale makes batches of; give 8 or more, "
                "or --no-multi-scale"
            )
        eighth = self.batch_size // 8
        cycles, rest = divmod(num_images, eighth * sum(eighths for _, eighths in MULTI_SCALE))
        chosen = list(MULTI_SCALE) * cycles
        for share, eighths in MULTI_SCALE:
            if eighth * eighths <= rest:
                chosen.append((share, eighths))
                rest -= eighth * eighths
        order = np.random.default_rng((self.seed, epoch, len(chosen))).permutation(len(chosen))
        steps = (chosen[i] for i in order)
        return [StepImages(_in_eighths(share * size), eighth * eighths) for share, eighths in steps]

    def steps_per_epoch(self, num_images: int) -> int:
        """UserError if there is none."""
        return len(self.steps(0, num_images, 8))

    def at_epoch(self, epoch: int, image_size: int) -> tuple[int, float]:
        """(image size, strength of augmentation) of an epoch, of images of this size in the end.

        MobileOne's Table 10 (160, 192 and 224 px from epochs 0, 39 and 114 of 300) as shares; sizes are multiples of 8.
        """
        if not self.progressive:
            return image_size, 1.0
        for end, share, strength in ((0.13, 5 / 7, 0.3), (0.38, 6 / 7, 0.6)):
            if epoch < end * self.epochs:
                return _in_eighths(share * image_size), strength
        return image_size, 1.0


def _in_eighths(pixels: float) -> int:
    """The nearest multiple of 8 px."""
    return max(8, 8 * round(pixels / 8))


_FINETUNE: dict[str, Any] = {
    "batch_size": 32,
    "lr": 0.048,  # 1.5e-3 at a batch of 32
    "weight_decay": 0.05,
    "warmup_epochs": 1.0,
    "clip_grad": 1.0,
    "clip_mode": "norm",
    "ema_decay": 0.998,
    "drop_path": 0.0,
    "augment": "light",
}
_GENTLY: dict[str, Any] = {**_FINETUNE, "lr": 0.016, "layer_decay": 0.9}
# Recipes by name, for 128 px and more. `adamw` is `StepConfig`'s defaults: Table 1 of the EfficientFormerV2 supplement,
# and the EMA of its released code.
# `adamw-half` is EfficientViT's: half the rate (Section 4.1), and of its released code the clipping.
# `adamw-basic` is MobileViT's (Section 4.1; no clipping is named; the decay of the EMA is its released code's).
# `progressive` is MobileOne's (Section 3.4, Appendix C.1, Tables 5 and 10), with RandAugment for AutoAugment.
# `finetune` is for weights that were trained before, from 300 to 50,000 images of any size (docs/results.md). That was
# measured with batch normalization: `finetune-gently` is for networks without it, which high rates undo.
_LARGE: dict[str, dict[str, Any]] = {
    "adamw": {},
    "adamw-half": {"lr": 5e-4, "clip_grad": 0.02, "drop_path": 0.0},  # 1e-3 at a batch of 2048
    "adamw-basic": {
        "lr": 2e-3,
        "lr_ends": 0.1,
        "weight_decay": 0.01,
        "warmup_epochs": 3.9,  # 3,000 steps, of the 232,000 in 300 epochs of Fig. 5b
        "clip_grad": 0.0,
        "ema_decay": 0.9995,
        "drop_path": 0.0,
        "augment": "basic",
        "multi_scale": True,
    },
    "finetune": _FINETUNE,
    "finetune-gently": _GENTLY,
    "progressive": {
        "optimizer": "sgd",
        "lr": 0.4,  # 0.1 at a batch of 256
        "weight_decay": 1e-4,
        "weight_decay_end": 1e-5,
        "warmup_epochs": 0.0,
        "clip_grad": 0.0,
        "ema_decay": 0.9995,
        "drop_path": 0.0,
        "augment": "randaugment",
        "progressive": True,
    },
}
# Images under 128 px: short runs on small sets, on a laptop's CPU or one GPU.
_SMALL: dict[str, Any] = {
    "epochs": 30,
    "batch_size": 128,
    "lr": 0.016,
    "weight_decay": 0.05,
    "warmup_epochs": 1.0,
    "clip_grad": 1.0,
    "clip_mode": "norm",
    "ema_decay": 0.998,
    "drop_path": 0.0,
}
# The embedded digits: 8x8 pixels, 1,797 images, no mirror images.
_DIGITS: dict[str, Any] = {
    **_SMALL,
    "batch_size": 64,
    "lr": 0.03,
    "warmup_epochs": 2.0,
    "ema_decay": 0.99,
    "label_smoothing": 0.0,
    "hflip": False,
}
# What small images change in a recipe beside that.
_SMALL_OWN: dict[str, dict[str, Any]] = {
    "adamw": {},
    "adamw-half": {},
    "adamw-basic": {"augment": "auto", "lr_ends": 0.01, "weight_decay": 0.01, "multi_scale": False},
    "progressive": {"augment": "auto", "lr": 1.6, "weight_decay": 1e-4, "clip_grad": 0.0},
    "finetune": _FINETUNE,
    "finetune-gently": _GENTLY,
}
AnyTrainConfig = TypeVar("AnyTrainConfig", bound=TrainConfig)


def with_recipe(
    config: AnyTrainConfig, image_size: int, data: str, digits_epochs: int, suited: str = "adamw"
) -> AnyTrainConfig:
    """The config with the settings of its recipe that are right for the images.

    Args:
        suited: the recipe of a config that names none.
    """
    name = config.recipe or suited
    settings = dict(_LARGE[name])
    if image_size < 128:
        settings |= _SMALL | _SMALL_OWN[name]
    if data == "digits":
        settings |= _DIGITS | _SMALL_OWN[name] | {"epochs": digits_epochs}
    elif data in EMBEDDED:
        settings["hflip"] = False  # digits too
    return replace(config, **{**settings, "recipe": name})


def finetune_epochs(num_images: int) -> int:
    """Of so many training images: 60 of a few hundred, 29 of 1,200, 5 of 42,500."""
    return min(60, max(4, round(1000 / num_images**0.5)))


def check_used(config: LoopConfig) -> None:
    """UserError if a flag was given that the others leave without effect."""
    if config.clip_grad == 0:
        check_idle(config, ("clip_mode",), "--clip-grad above 0")
    if config.weight_decay == 0:
        check_idle(config, ("weight_decay_end",), "--weight-decay above 0")
    if isinstance(config, StepConfig) and config.augment == "none" and config.hflip:
        check_idle(config, ("hflip",), "another --augment than none")


def check_fits(config: TrainConfig, space: SearchSpace) -> None:
    """UserError if the space's networks do not classify, if images of several sizes are to be trained on but they take
    one, or if blocks are to be dropped of networks that have none to drop.
    """
    if isinstance(space, HeadedSpace):
        raise UserError(f"networks of {space.name} have no classifier; give {space.base.name}")
    if config.drop_path and not any(block.residual for block in space.lower(space.largest)):
        raise UserError(f"--drop-path: {space.name} has no blocks that can be dropped; leave it out")
    for name, given in (("progressive", config.progressive), ("multi-scale", config.multi_scale)):
        if given and not space.any_size:
            raise UserError(
                f"--{name} trains on images of several sizes, but networks of {space.name} take {space.image_size} px "
                f"only; leave it out, or give --no-{name}"
            )


LOCAL = ("device", "num_workers", "checkpoint_seconds")  # of a process; the others are the job's
FREE_ON_RESUME = (*LOCAL, "accumulation_steps", "amp")


def check_alike(config: LoopConfig, data_digest: str) -> None:
    """JobError unless all processes of the job have the same settings, data, code and kind of device."""
    settings = {name: value for name, value in asdict(config).items() if name not in LOCAL}
    collectives.agree(
        **settings,
        data_digest=data_digest,
        code_digest=code_digest(),
        torch=torch.__version__,
        device=pick_device(config.device).type,
    )
