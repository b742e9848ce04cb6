"""python -m latency_lut.diff A B: how two tables of one space differ: two devices, two runtimes or two builds.

Three questions: how were they made, which blocks cost relatively more in B, and does it matter, that is, how do they
order whole networks.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from latency_lut.tables.diff import DiffConfig, diff_tables
from search_spaces.command import parse, run


def main(argv: Sequence[str] | None = None) -> None:
    diff_tables(parse(DiffConfig, argv, "python -m latency_lut.diff", __doc__ or ""))


if __name__ == "__main__":
    run(lambda: main(sys.argv[1:]))
