"""Fine-tune a pretrained network of timm on your images, as it is.

    python -m nas.finetune --model tf_efficientnet_lite0 --data photos
    python -m nas.finetune --model tf_efficientnet_lite0 --init lite0.safetensors --data photos --image-size 96

The first thing to do with photos of your own: what it reaches is what smaller networks are compared with, and its run
is the one that they are searched in, on the same splits: `nas.train_supernet --run` goes on with it. The classifier is
fitted to the frozen features first, then all layers are trained (docs/training.md).

Ended earlier than planned, from where it is:
    python -m nas.finetune --resume --epochs 8
"""

from __future__ import annotations

from collections.abc import Sequence

from nas.distributed import collectives
from nas.runs.next_step import say_next
from nas.training.finetune import Config, configure, finetune
from search_spaces.command import parse, run


def main(argv: Sequence[str] | None = None) -> None:
    with collectives.job():
        folder = finetune(configure(parse(Config, argv, "python -m nas.finetune", __doc__ or "")))
        say_next("nas.train_supernet", folder)


if __name__ == "__main__":
    run(main, "go on with --resume")
