"""python -m latency_lut.show: what a latency table says, as text and as a page of plots beside it.

Bare: the newest table in runs/tables. One line a block: its cheapest and its usual time, how far the samples behind
it lie apart, what it computes, and what a million multiply-accumulates cost in it. The page `<table>.html` shows the
same by stage, width and kind of block.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from latency_lut.tables.show import ShowConfig, show
from search_spaces.command import parse, run


def main(argv: Sequence[str] | None = None) -> None:
    show(parse(ShowConfig, argv, "python -m latency_lut.show", "Show a latency table, and plot it."))


if __name__ == "__main__":
    run(lambda: main(sys.argv[1:]))
