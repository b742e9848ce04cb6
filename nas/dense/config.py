"""Flags that nas.detect, nas.segment and nas.instances share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from nas.networks.weights import CheckpointImages
from nas.training.recipe import FREE_ON_RESUME, LoopConfig
from search_spaces.command import flag

Format = Literal["onnx", "coreml"]


@dataclass(frozen=True)
class DenseConfig(LoopConfig, CheckpointImages):
    backbone: str = flag(
        "mobileone-nano",
        "network below the head: folder of a trained one, such as runs/NAME/retrain/winner-1; RUN:winner-1, one of a "
        "run's search; or SPACE:ARCH, a named network of a space, also of timm/NAME (default: its largest), or a file",
    )
    init: str | None = flag(
        None,
        "its weights: a file of them, or pretrained (timm's own, downloaded); of RUN:winner-1 also trained, inherit or "
        "scratch (default: those that it has, or else fresh ones)",
    )
    image_size: int = flag(320, "height and width that images are resized to", minimum=32, maximum=2048)
    epochs: int = flag(200, "passes over the training split", minimum=1)
    formats: tuple[Format, ...] = flag(("onnx", "coreml"), "files to write in the end")
    threads: int = flag(1, "of ONNX Runtime in the latency measurement", minimum=1)
    run: str | None = flag(None, "name of the run under runs/ (default: made of backbone, data and time)")
    resume: bool = flag(False, "go on with the run named, or the newest")


# The embedded scenes: fresh weights, 600 images of 128 px, digits; a few minutes on two cores.
EMBEDDED_RECIPE: dict[str, Any] = {
    "backbone": "mobileone-nano:smallest",
    "image_size": 96,
    "batch_size": 8,
    "lr_ends": 0.01,
    "weight_decay": 0.05,
    "warmup_epochs": 2.0,
    "clip_grad": 5.0,
    "clip_mode": "norm",
    "ema_decay": 0.99,
    "augment": "light",
}
# What a resumed training may be given anew: how fast it goes, and what is made of its network.
FREE = (*FREE_ON_RESUME, "threads", "formats", "run", "resume")
