"""Train a segmenter, DeepLabv3 on a network of a run, a space or timm, on images with masks, and write its files.

Bare, on embedded scenes; a photo folder of your own has images/ and masks/, PNG with an index a pixel (255 does not
count), or COCO's JSON:
    python -m nas.segment
    python -m nas.segment --data photos --classes names.txt --backbone runs/NAME/retrain/winner-1
    python -m nas.segment --data photos --backbone timm/mobilevit_s --init pretrained --image-size 512

The run's folder segment/ has the weights, an ONNX and a Core ML file that give the class of each pixel, and
report.html: IoU of each class, what is taken for what, and test images with what the network makes of them
(docs/segmentation.md).

Ended earlier than planned, from where it is:
    python -m nas.segment --resume --epochs 30

Photos have the recipe published for MobileViT (512 px, 50 epochs), the embedded scenes a short one; the defaults below
are for what neither says.
"""

from __future__ import annotations

from collections.abc import Sequence

from nas.dense.job import configure, train
from nas.distributed import collectives
from nas.segmentation.kind import Segmentation
from search_spaces.command import parse, run


def main(argv: Sequence[str] | None = None) -> None:
    kind = Segmentation()
    with collectives.job():
        train(kind, configure(kind, parse(kind.config, argv, "python -m nas.segment", __doc__ or "")))


if __name__ == "__main__":
    run(main, "go on with --resume")
