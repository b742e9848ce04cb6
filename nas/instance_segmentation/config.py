"""Flags of nas.instances, and which settings suit which images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from nas.dense.config import EMBEDDED_RECIPE, DenseConfig
from nas.scenes import BoxesConfig
from search_spaces.command import flag
from search_spaces.dense.maskrcnn import Sizes


@dataclass(frozen=True)
class Config(DenseConfig, BoxesConfig):
    formats: tuple[Literal["onnx"], ...] = flag(
        ("onnx",), "files to write in the end (Core ML's converter has no RoIAlign)"
    )
    augment: Literal["hflip", "light", "none"] = flag(
        "hflip", "hflip: mirror images (not of digits, letters, signs); light: crops of at least 70 %"
    )
    head_width: int = flag(256, "channels of the pyramid and of the layers that make masks", minimum=8)
    proposals: int = flag(1000, "places of an image that are looked at", minimum=1)
    samples: int = flag(512, "of these, that are learned from, a quarter on objects", minimum=4)
    detections: int = flag(100, "objects that are found on an image, at most", minimum=1)

    @property
    def sizes(self) -> Sizes:
        return Sizes(self.head_width, self.proposals, self.samples, self.detections)


# EfficientFormerV2 in Mask R-CNN, 1x: snap-research/EfficientFormer, detection/configs/
# mask_rcnn_efficientformerv2_s2_fpn_1x_coco.py; two images on each of 8 GPUs. EfficientViT's differs in half the rate
# (microsoft/Cream, EfficientViT/downstream/configs/mask_rcnn_efficientvit_m4_fpn_1x_coco.py).
PUBLISHED: dict[str, Any] = {
    "image_size": 800,
    "epochs": 12,
    "batch_size": 16,
    "lr": 0.0128,  # 2e-4 at a batch of 16
    "lr_ends": 0.001,
    "schedule": "steps",
    "weight_decay": 0.05,
    "warmup_epochs": 0.07,  # 500 steps of COCO's images
    "clip_grad": 0.0,
    "ema_decay": 0.0,
    "augment": "hflip",
}
EMBEDDED: dict[str, Any] = EMBEDDED_RECIPE | {
    "backbone": "efficientformerv2-nano:smallest",
    "epochs": 8,
    "lr": 0.384,  # 3e-3 at a batch of 8
    "head_width": 32,
    "proposals": 100,
    "samples": 32,
    "detections": 20,
}
