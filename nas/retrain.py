"""Train the winners of a search as ordinary networks, by the recipe of the supplement's Table 1, and test them.

Bare: every winner of the newest search, starting from its inherited weights. As published, from scratch:
    python -m nas.retrain --init scratch --epochs 300
What the supernet's training is worth, beside it: parts of the pretrained network that it started from:
    python -m nas.retrain --init pretrained-slice --suffix sliced
Several at a time, the less accurate ones stopped early:
    python -m nas.retrain --archs candidates.json --ray-workers 4

Ended earlier than planned, from where it is:
    python -m nas.retrain --resume --epochs 18

The defaults below are the published recipe, as docs/training.md says item by item; images under 128 px have the shorter
one of nas.train_supernet.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nas import runs
from nas.distributed import collectives
from nas.training.winner import Config, Job
from nas.training.winners import make_jobs, to_go_on_with, train_all
from search_spaces import UserError
from search_spaces.command import check_given, fill, parse, run


def configure(argv: Sequence[str] | None) -> tuple[Config, Path, list[Job]]:
    """The flags, the run's folder and what to train; flags not given are as it was begun, or suit the images."""
    config = parse(Config, argv, "python -m nas.retrain", __doc__ or "")
    runs.check_name("--suffix", config.suffix)
    if config.resume:
        begun = to_go_on_with(config)
        check_given(config, begun, begun.run, ("ray_address",))
        config = fill(config, begun)
    config.check_workers()
    if config.scheduler and not (config.ray_workers or config.resume):
        raise UserError(f"--scheduler {config.scheduler} is for --ray-workers; give both or none")
    return config, *make_jobs(config)


def main(argv: Sequence[str] | None = None) -> None:
    with collectives.job():
        train_all(*configure(argv))


if __name__ == "__main__":
    run(main, "go on with --resume")
