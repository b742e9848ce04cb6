"""Train the winners of a search as ordinary networks, by the recipe of the supplement's Table 1, and test them.

Bare: every winner of the newest search, starting from its inherited weights. As published, from scratch:
    python -m nas.retrain --init scratch --epochs 300
What the supernet's training is worth, beside it: parts of the pretrained network that it started from:
    python -m nas.retrain --init pretrained-slice --suffix sliced
Several at a time, the less accurate ones stopped early:
    python -m nas.retrain --archs candidates.json --ray-workers 4

A last time, on everything but the test images, before it is shipped:
    python -m nas.retrain --winners winner-2 --all-data

Ended earlier than planned, from where it is:
    python -m nas.retrain --resume --epochs 18

The defaults below are the published recipe, as docs/training.md says item by item; images under 128 px have the shorter
one of nas.train_supernet.
"""

from __future__ import annotations

from collections.abc import Sequence

from nas.distributed import collectives
from nas.runs.next_step import say_next
from nas.training.winner import Config
from nas.training.winners import configure, train_all
from search_spaces.command import parse, run


def main(argv: Sequence[str] | None = None) -> None:
    with collectives.job():
        config, folder, jobs = configure(parse(Config, argv, "python -m nas.retrain", __doc__ or ""))
        train_all(config, folder, jobs)
        say_next("nas.export" if config.archs or config.all_data else "nas.baselines", folder)


if __name__ == "__main__":
    run(main, "go on with --resume")
