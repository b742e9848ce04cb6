"""Search a trained supernet for networks that are accurate, fast and small.

Bare: the newest supernet run by the newest latency table that fits it (built first if there is none), in ten minutes or
less: the published joint slimming, or a predictor's search on fewer images where that would take longer.
    python -m nas.search --strategy slimming
    python -m nas.search --alpha-latency 1.0 --alpha-size 0.5
    python -m nas.search --strategy predictor --budget 150 --seed 0
    python -m nas.search --table phone=p.json laptop=l.json --alpha-latency phone=1 laptop=2 --max-latency-ms phone=2
"""

from __future__ import annotations

from collections.abc import Sequence

from nas.objective.figure import classifies
from nas.runs import load_run_info
from nas.runs.next_step import say_next, train_searched
from nas.searching.result import read_result
from nas.searching.search import Config, configure, search
from search_spaces.command import parse, run


def main(argv: Sequence[str] | None = None) -> None:
    folder = search(configure(parse(Config, argv, "python -m nas.search", __doc__ or "")))
    space = load_run_info(folder.parent).space
    if classifies(space):
        say_next("nas.retrain", folder.parent, "--search", folder.name)
    else:
        print(f"next: {train_searched(folder.parent, space, read_result(folder)['recommended']['name'])}")


if __name__ == "__main__":
    run(main, "go on with --resume")
