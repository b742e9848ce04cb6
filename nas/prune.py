"""Prune a network to a part of its MACs, parameters or latency, fine-tune, measure and export it.

Bare: DeiT-T, trained on scikit-learn's digits first, to half its MACs. A network of your own, or one of timm's:
    python -m nas.prune --model runs/my-run/retrain/winner-1 --target latency=0.6
    python -m nas.prune --model deit_tiny_patch16_224 --checkpoint deit.safetensors --data /path/to/imagenet
A timm network without a checkpoint is trained first (--dense-epochs), once for all prunings of its run. The target is a
share of what the network given costs; a pruned network can be pruned again. Of other families than the known ones,
what can be pruned is found by following its channels, and by running it without some.

The default, Taylor importance with all units in one ranking, is NViT's (Yang et al., CVPR 2023), divided by the MACs
that removal saves instead of by latency. With isomorphic groups (Fang et al., ECCV 2024) every structure loses the same
share, which cost 10 to 30 points (docs/results-archive.md, "Pruning"). The training flags are for both trainings; their
defaults are nas.retrain's, but for --drop-path. Either can end earlier: --resume --finetune-epochs 18.
"""

from __future__ import annotations

from collections.abc import Sequence

from nas.pruning.config import Config
from nas.pruning.configure import configure
from nas.pruning.job import prune
from search_spaces.command import parse, run


def main(argv: Sequence[str] | None = None) -> None:
    prune(*configure(parse(Config, argv, "python -m nas.prune", __doc__ or "")))


if __name__ == "__main__":
    run(main, "go on with --resume")
