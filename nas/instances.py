"""Train Mask R-CNN, a box and a mask for each object, over a network of any space, and make its file for a phone.

    python -m nas.instances
    python -m nas.instances --data images --annotations train.json --test-annotations val.json --backbone RUN:winner-1
    python -m nas.instances --data photos --backbone timm/efficientformerv2_s0 --init pretrained
    python -m nas.instances --data photos --backbone efficientvit:m4 --init m4.safetensors --lr 0.0064

--data is a folder of images with COCO's annotations in it, polygons and run lengths; bare, embedded scenes. Photos have
the recipe that EfficientFormerV2 is published with, 12 epochs (1x); the last line above is EfficientViT's, half the
rate. AP is COCO's, by masks and by boxes. Everything lies in runs/NAME/instances, and report.html there shows it
(docs/instances.md).

Other files, or an earlier end, of a run:
    python -m nas.instances --resume --run NAME --formats onnx
    python -m nas.instances --resume --run NAME --epochs 6
"""

from __future__ import annotations

from collections.abc import Sequence

from nas.dense.job import configure, train
from nas.distributed import collectives
from nas.instance_segmentation.kind import Instances
from search_spaces.command import parse, run


def main(argv: Sequence[str] | None = None) -> None:
    kind = Instances()
    with collectives.job():
        config = configure(kind, parse(kind.config, argv, "python -m nas.instances", __doc__ or ""))
        train(Instances(config.sizes), config)


if __name__ == "__main__":
    run(main, "go on with --resume")
