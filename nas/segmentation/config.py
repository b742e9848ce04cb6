"""Flags of nas.segment, and which settings suit which images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from nas.dense.config import EMBEDDED_RECIPE, DenseConfig
from nas.scenes import MasksConfig
from search_spaces.command import flag


@dataclass(frozen=True)
class MaskTraining(MasksConfig):
    """Flags of images with masks that are trained on."""

    augment: Literal["published", "light", "hflip", "none"] = flag(
        "published",
        "published: crops of images of 0.5 to 2 times the size, and mirror images; light: crops of at least 70 %; "
        "hflip: mirror images (not of digits, letters, signs)",
    )


@dataclass(frozen=True)
class Config(DenseConfig, MaskTraining):
    batch_size: int = flag(32, "images of a step, of all processes together: two at least are normalized", minimum=2)


# MobileViT in DeepLabv3 (Mehta and Rastegari, 2022, Appendix D; apple/ml-cvnets,
# config/segmentation/deeplabv3_mobilevit_small.yaml), on each of 4 GPUs.
PUBLISHED: dict[str, Any] = {
    "image_size": 512,
    "epochs": 50,
    "batch_size": 32,
    "lr": 7.2e-3,  # 9e-4 at a batch of 128
    "lr_ends": 0.1,
    "weight_decay": 0.01,
    "warmup_epochs": 0.6,  # 500 steps of PASCAL VOC's and COCO's images
    "clip_grad": 0.0,
    "ema_decay": 0.9995,
    "augment": "published",
}
EMBEDDED: dict[str, Any] = EMBEDDED_RECIPE | {
    "epochs": 24,
    "lr": 0.384,  # 3e-3 at a batch of 8
}
