"""x"""

from __future__ import annotations

from collections.abc import Sequence

from nas.dense.job import configure, train
from nas.detection.kind import Detection
from nas.distributed import collectives
from search_spaces.command import parse, run


def main(argv: Sequence[str] | None = None) -> None:
    kind = Detection()
    with collectives.job():
        train(kind, configure(kind, parse(kind.config, argv, "python -m nas.detect", __doc__ or "")))


if __name__ == "__main__":
    run(main, "go on with --resume")
