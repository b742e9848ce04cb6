"""Compare searches of one supernet: who finds the better networks, with how many evaluations, in what time.

Searches that differ in their seeds alone are one group, shown by its mean and spread. Bare: all finished searches of
the newest run. For some, or those of several runs that have the same supernet:
    python -m nas.compare runs/a/search-nsga2 runs/a/search-predictor --max-latency-ms 1 2

The retrained winners of runs of several families, on the same test images and timed together by the runtime of the
first run's table: which family is best within which time. Writes families.json and the page families.html.
    python -m nas.compare --winners runs/efficientformerv2 runs/mobileone

The hypervolume is the area of accuracy and log MES that what was evaluated dominates, from the accuracy of guessing and
the MES of the largest network on. Evaluations count the archs that a race dropped, as --budget does. Writes
comparison.json and the page comparison.html.
"""

from __future__ import annotations

from collections.abc import Sequence

from nas.comparison.compare import Config, compare
from nas.proving.families import compare_families
from search_spaces.command import parse, run


def main(argv: Sequence[str] | None = None) -> None:
    config = parse(Config, argv, "python -m nas.compare", __doc__ or "")
    compare_families(config) if config.winners else compare(config)


if __name__ == "__main__":
    run(main)
