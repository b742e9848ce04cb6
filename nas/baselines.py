"""What would have been picked without a search, beside its winners: trained alike, timed together, on the same images.

Bare: every retrained winner of the newest search, after nas.retrain. Each stands beside

- the fine-tuned network as it is, of a run that was begun with nas.finetune,
- the same network with all its widths narrowed by one share, to the winner's time by the table, trained as the winner
  was (`retrain/narrowed-<winner>/`),
- the fine-tuned network pruned to the winner's measured time (nas.prune), and fine-tuned for as many epochs
  (`prune/as-fast-as-<winner>/`).

Says which of them to take, with 95 % intervals of their accuracies' differences; nas.report shows it. What is there
already is not made again, so that it goes on where it was interrupted.
"""

from __future__ import annotations

from collections.abc import Sequence

from nas.proving.baselines import compare_with_baselines
from nas.proving.search import Config
from nas.runs.next_step import say_next
from search_spaces.command import parse, run


def main(argv: Sequence[str] | None = None) -> None:
    path = compare_with_baselines(parse(Config, argv, "python -m nas.baselines", __doc__ or ""))
    say_next("nas.export", path.parents[1])


if __name__ == "__main__":
    run(main, "run it again to go on")
