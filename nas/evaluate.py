"""Evaluate networks with the weights that a supernet gives them: accuracy of each class, and what is taken for what.

Bare: the largest and the smallest network of the newest run, on its search split.
    python -m nas.evaluate --arch winner-1 mine.json --retrained winner-1

A winner is evaluated in the precision that it was searched in, int8 simulated as in the search; any other network in
that of the tables. Writes <run>/evaluate/<name>.json and a page <name>.html, in place of those of the same name.
"""

from __future__ import annotations

from collections.abc import Sequence

from nas.inspection.evaluate import Config, evaluate
from search_spaces.command import parse, run


def main(argv: Sequence[str] | None = None) -> None:
    evaluate(parse(Config, argv, "python -m nas.evaluate", __doc__ or ""))


if __name__ == "__main__":
    run(main)
