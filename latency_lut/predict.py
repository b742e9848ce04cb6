"""python -m latency_lut.predict: the latency of networks by a table, and where it goes.

python -m latency_lut.predict --arch s0                  # every block, by the newest table in runs/tables
python -m latency_lut.predict --arch s0 s1 mine.json     # several, compared
python -m latency_lut.predict                            # all named networks of the table's space
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from latency_lut.tables.predict import PredictConfig, predict_networks
from search_spaces.command import parse, run


def main(argv: Sequence[str] | None = None) -> None:
    predict_networks(parse(PredictConfig, argv, "python -m latency_lut.predict", __doc__ or ""))


if __name__ == "__main__":
    run(lambda: main(sys.argv[1:]))
