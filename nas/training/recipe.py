"""Settings of a training run, and which suit which images."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

from search_spaces.command import flag


@dataclass(frozen=True)
class StepConfig:
    """Flags of a training run, but its length. These defaults are Table 1 of the EfficientFormerV2 supplement."""

    batch_size: int = flag(256, "images of a step, of all processes together", minimum=1)
    accumulate: int = flag(1, "parts, one after another, of each process's share of a batch", minimum=1)
    lr: float = flag(1e-3, "peak learning rate, at a batch of 1024 (scaled linearly with the batch)", above=0)
    weight_decay: float = flag(0.025, "AdamW's weight decay", minimum=0)
    warmup_epochs: float = flag(5.0, "epochs of linear warm-up", minimum=0)
    clip_grad: float = flag(0.01, "gradient clipping, 0 for none", minimum=0)
    clip_mode: Literal["norm", "value", "agc"] = flag("agc", "kind of gradient clipping")
    ema_decay: float = flag(0.9999, "decay of the weights' moving average, reached by warm-up", minimum=0, below=1)
    label_smoothing: float = flag(0.1, "of the labels' loss", minimum=0, below=1)
    drop_path: float = flag(0.0, "stochastic depth of the last block", minimum=0, below=1)
    augment: Literal["auto", "light", "published", "none"] = flag("auto", "published from 128 px on, else light")
    hflip: bool = flag(True, "mirror images at random (not for digits, letters, signs)")
    amp: Literal["auto", "bf16", "fp16", "off"] = flag(
        "auto", "mixed precision; auto: bf16 (fp16 on older GPUs), on a CPU only where that is faster"
    )
    device: str = flag("auto", "cpu, cuda, cuda:1, …; auto: CUDA if there is one")
    loaders: int = flag(0, "processes that load images, for each that trains (0: it does)", minimum=0)
    seed: int = flag(0, "of initialization, order, augmentation and sampling", minimum=0)
    checkpoint_seconds: float = flag(60.0, "time between checkpoints", minimum=0)


@dataclass(frozen=True)
class TrainConfig(StepConfig):
    """Flags of a training run; see `with_recipe`."""

    epochs: int = flag(300, "passes over the training split", minimum=1)


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
AnyTrainConfig = TypeVar("AnyTrainConfig", bound=TrainConfig)


def with_recipe(config: AnyTrainConfig, image_size: int, data: str, digits_epochs: int) -> AnyTrainConfig:
    """The config with the recipe that suits the images; `TrainConfig`'s own is for 128 px and more."""
    if data == "digits":
        return replace(config, **{**_DIGITS, "epochs": digits_epochs})
    return replace(config, **_SMALL) if image_size < 128 else config


LOCAL = ("device", "loaders", "checkpoint_seconds")  # of a process; the others are the job's
FREE_ON_RESUME = (*LOCAL, "accumulate", "amp")
