"""One page that shows a run: winners, the curve, the networks, the latency table, training, the commands.

`report.html` is self-contained (it loads nothing, from this machine or any other) and made of whatever the run has so
far. Bare: the newest run.
"""

from __future__ import annotations

from collections.abc import Sequence

from nas.reporting.data import read_artifacts
from nas.reporting.report import Config, next_stage, report
from nas.runs.next_step import say_next
from search_spaces.command import parse, run


def main(argv: Sequence[str] | None = None) -> None:
    folder = report(parse(Config, argv, "python -m nas.report", __doc__ or "")).parent
    if missing := next_stage(read_artifacts(folder)):
        say_next(missing[0], folder, *missing[1:])


if __name__ == "__main__":
    run(main)
