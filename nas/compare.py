"""Compare searches of one supernet: who finds the better networks, with how many evaluations, in what time.

Searches that differ in their seeds alone are one group, shown by its mean and spread. Bare: all finished searches of
the newest run. For some, or those of several runs that have the same supernet:
    python -m nas.compare runs/a/search-nsga2 runs/a/search-predictor --max-latency-ms 1 2

The hypervolume is the area of accuracy and log MES that what was evaluated dominates, from the accuracy of guessing and
the MES of the largest network on. Evaluations count the archs that a race dropped, as --budget does. Writes
comparison.json and the page comparison.html.
"""

from __future__ import annotations

from collections.abc import Sequence

from nas.comparison.compare import Config, compare
from search_spaces.command import parse, run


def main(argv: Sequence[str] | None = None) -> None:
    compare(parse(Config, argv, "python -m nas.compare", __doc__ or ""))


if __name__ == "__main__":
    run(main)
