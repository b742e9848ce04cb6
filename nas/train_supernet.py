"""Train the weight-sharing supernet of a search space.

Bare: the nano space on scikit-learn's digits, under three minutes on two cores. For ImageNet on a GPU:
    python -m nas.train_supernet --space efficientformerv2 --data /path/to/imagenet --num-workers 16
The parts of a pretrained network, in the run in which nas.finetune has trained it:
    python -m nas.train_supernet --run my-run
On several GPUs or machines, with torchrun's own flags before the dashes:
    torchrun --nproc-per-node 8 -m -- nas.train_supernet --space efficientformerv2 --data imagenet --num-workers 16

Of networks that find objects (SSDLite) or classify pixels (DeepLabv3), searched by AP or mIoU, with flags of their own:
    python -m nas.train_supernet --task detect --data photos --space timm/tf_efficientnet_lite0 --init lite0.safetensors
    python -m nas.train_supernet --task segment --help

Ended earlier than planned, from where it is:
    python -m nas.train_supernet --resume --epochs 18

The defaults below are the recipe adamw, that of EfficientFormerV2; --recipe progressive is MobileOne's, adamw-half
EfficientViT's, adamw-basic MobileViT's, and a space has its own where no flag is given. Images under 128 px have a
shorter one (30 epochs, batch 128; adamw: lr 0.016, weight decay 0.05, clipping at norm 1; and the loss, sampling and
norm whose ranking of networks is nearest to that of training from scratch: ce, balanced, shared), and the digits one of
their own.
"""

from __future__ import annotations

from collections.abc import Sequence

from nas.distributed import collectives
from nas.runs.next_step import say_next
from nas.supernets.tasks import config_of_command, train_supernet
from search_spaces.command import parse, run


def main(argv: Sequence[str] | None = None) -> None:
    with collectives.job():
        flags = config_of_command(argv)
        folder = train_supernet(parse(flags, argv, "python -m nas.train_supernet", __doc__ or ""))
        say_next("nas.search", folder)


if __name__ == "__main__":
    run(main, "go on with --resume")
