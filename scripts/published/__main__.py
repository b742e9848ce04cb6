"""A table of a paper trained again: the same networks and settings on your images, the paper's column beside.

    python -m scripts.published                                      # which tables there are
    python -m scripts.published mobileone-branches --data cifar10/train.tar --image-size 64 --epochs 10 --seeds 2

All rows are trained from scratch by one recipe, that of their family, and tested on the same images; flags given hold
for all rows. Under 128 px the small space of a family stands for the paper's network. What it finds is in the study's
folder (`runs/studies/…`): result.json and a table in Markdown. Interrupted, the same command goes on.
"""

from __future__ import annotations

from search_spaces.command import start

if __name__ == "__main__":
    start.prepare()

from collections.abc import Sequence

from scripts.published.arms import TABLES
from scripts.published.study import Config, configure, study
from search_spaces.command import align, parse, run


def main(argv: Sequence[str] | None = None) -> None:
    config = parse(Config, argv, "python -m scripts.published", __doc__ or "")
    if config.table:
        study(configure(config))
        return
    print(align([(name, table.title, table.source) for name, table in TABLES.items()], "<<<"))


if __name__ == "__main__":
    run(main, "the same command goes on")
