"""Train a detector, boxes of objects, over a network of any space, and make its files for a phone.

    python -m nas.detect
    python -m nas.detect --data photos --backbone runs/NAME/retrain/winner-1
    python -m nas.detect --data images --annotations train.json --test-annotations val.json --backbone RUN:winner-1
    python -m nas.detect --data photos --backbone timm/tf_efficientnet_lite0 --init lite0.safetensors

--data is a folder of images with COCO's annotations in it (or Pascal VOC's XML); bare, embedded scenes. The head is
SSDLite, as published with MobileViT. AP is COCO's. ONNX and Core ML files have NMS in them; what they give is compared
with PyTorch. Everything lies in runs/NAME/detect, and report.html there shows it (docs/detection.md).

Other files, or an earlier end, of a run:
    python -m nas.detect --resume --run NAME --formats onnx
    python -m nas.detect --resume --run NAME --epochs 80
"""

from __future__ import annotations

from collections.abc import Sequence

from nas.dense.job import configure, train
from nas.detection.kind import Detection
from nas.distributed import collectives
from search_spaces.command import parse, run


def main(argv: Sequence[str] | None = None) -> None:
    kind = Detection()
    with collectives.job():
        train(kind, configure(kind, parse(kind.config, argv, "python -m nas.detect", __doc__ or "")))


if __name__ == "__main__":
    run(main, "go on with --resume")
