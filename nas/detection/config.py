"""Flags of nas.detect, and which settings suit which images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from nas.dense.config import EMBEDDED_RECIPE, DenseConfig
from nas.scenes import BoxesConfig
from search_spaces.command import flag


@dataclass(frozen=True)
class BoxTraining(BoxesConfig):
    """Flags of images with boxes that are trained on."""

    augment: Literal["ssd", "ssdlite", "light", "hflip", "none"] = flag(
        "ssd",
        "ssd: colours, images that shrink, crops around boxes, mirror images; ssdlite: crops and mirror images; light: "
        "crops of at least 70 %; hflip: mirror images (not of digits, letters, signs)",
    )


@dataclass(frozen=True)
class Config(DenseConfig, BoxTraining):
    pass


# MobileViT in SSDLite: apple/ml-cvnets, config/detection/ssd_coco/mobilevit.yaml, on each of 4 GPUs.
PUBLISHED: dict[str, Any] = {
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
EMBEDDED: dict[str, Any] = EMBEDDED_RECIPE | {
    "epochs": 20,
    "lr": 0.512,  # 4e-3 at a batch of 8
}
