"""Flags of nas.detect, and which settings suit which images."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from nas.dense.config import DenseConfig
from nas.scenes import BoxesConfig
from nas.scenes.embedded import EMBEDDED
from search_spaces.command import flag


@dataclass(frozen=True)
class Config(DenseConfig, BoxesConfig):
    augment: Literal["ssd", "ssdlite", "light", "hflip", "none"] = flag(
        "ssd",
        "ssd: colours, images that shrink, crops around boxes, mirror images; ssdlite: crops and mirror images; light: "
        "crops of at least 70 %; hflip: mirror images (not of digits, letters, signs)",
    )


# MobileViT in SSDLite: apple/ml-cvnets, config/detection/ssd_coco/mobilevit.yaml, on each of 4 GPUs.
_PUBLISHED: dict[str, Any] = {
    "epochs": 200,
    "batch_size": 32,
    "lr": 7.2e-3,  # 9e-4 at a batch of 128
    "lr_ends": 0.01,  # 0.1 where it begins, 0.001 where it ends
    "weight_decay": 0.01,
    "warmup_epochs": 0.5,  # 500 steps
    "clip_grad": 0.0,
    "ema_decay": 0.9995,
    "augment": "ssd",
}
# The embedded scenes: fresh weights, 600 images of 128 px, digits; a few minutes on two cores.
_EMBEDDED: dict[str, Any] = {
    "backbone": "mobileone-nano:smallest",
    "image_size": 96,
    "epochs": 20,
    "batch_size": 8,
    "lr": 0.512,  # 4e-3 at a batch of 8
    "lr_ends": 0.01,
    "weight_decay": 0.05,
    "warmup_epochs": 2.0,
    "clip_grad": 5.0,
    "clip_mode": "norm",
    "ema_decay": 0.99,
    "augment": "light",
}


def suited(config: Config) -> Config:
    """The config with the recipe that suits its images, whatever it has been given."""
    return replace(config, **(_EMBEDDED if config.data == EMBEDDED else _PUBLISHED))
