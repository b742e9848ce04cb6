"""A step's batch in equal parts: so many for each process, worked on one after another (`--accumulation-steps`).

Each part is normalized by itself and has random draws of its own; gradients and running statistics are means over the
parts. So a step is the same whether its parts are one process's or several's. (Normalizing over all parts, as SyncBN
does, would need an exchange at each norm of each network.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from nas.distributed import collectives, process
from nas.distributed.collectives import Flat
from search_spaces import UserError


class Parts:
    """
    Args:
        accumulation_steps: parts of each process.
        multiple: of what the images of a part must be one (`_WHY`).

    Raises:
        UserError: the batch cannot be split so.
    """

    def __init__(self, model: nn.Module, batch_size: int, accumulation_steps: int, multiple: int) -> None:
        self.own, self.count = accumulation_steps, accumulation_steps * process.world_size()
        _check(batch_size, self.count, accumulation_steps, multiple)
        buffers = list(model.buffers())
        self.statistics = Flat([b for b in buffers if b.is_floating_point()])
        self.counters = Flat([b for b in buffers if b.dtype == torch.int64])
        self._decisions: list[float] | None = None  # of the step that is being worked on
        self._asked = 0

    def each(self, images: Tensor, target: Any) -> Iterator[tuple[int, Tensor, Any]]:
        """(number, images, target) of each of this process's parts.

        For each, the model's running statistics are those that the step began with; afterwards they are the mean of
        what the parts have made of them. As an update is linear in them, averaging these means over the processes, at
        each step or later, gives what one process with all parts has.
        """
        self._decisions = []
        first = process.rank() * self.own
        size = len(images) // self.own
        if self.own == 1:
            self._asked = 0
            yield first, images, target
        else:
            statistics, counters = self.statistics.read().clone(), self.counters.read().clone()
            total = torch.zeros_like(statistics)
            for i in range(self.own):
                part = slice(i * size, (i + 1) * size)
                self._asked = 0
                self.statistics.write(statistics)
                self.counters.write(counters)
                yield first + i, images[part], target[part]
                total += self.statistics.read()
            self.statistics.write(total / self.own)
        self._decisions = None

    def decide(self, compute: Callable[[], float]) -> float:
        """What `compute` gives in the step's first part, in all its parts: all must train the same networks."""
        if self._decisions is None:  # no step, only one that is timed
            return compute()
        if self._asked == len(self._decisions):
            self._decisions.append(collectives.total(compute() if process.is_primary() else 0.0)[0])
        self._asked += 1
        return self._decisions[self._asked - 1]

    def average_statistics(self) -> None:
        """Over the processes."""
        if process.world_size() > 1:
            self.statistics.write(collectives.mean(self.statistics.read()))


# Why the images of a part are a multiple of a number.
_WHY = {
    1: "each part is normalized by itself and needs 2 images",
    2: "mixup pairs images",
    8: "--multi-scale adds eighths of a batch",
    16: "--multi-scale adds eighths of a batch, and mixup pairs images",
}


def _check(batch_size: int, parts: int, accumulation_steps: int, multiple: int) -> None:
    unit, least = multiple * parts, 2 * parts if parts > 1 else 1
    if batch_size % unit or batch_size < least:
        raise UserError(
            f"--batch-size {batch_size} does not make {parts} equal parts (processes × --accumulation-steps: "
            f"{parts // accumulation_steps} × {accumulation_steps}), and {_WHY[multiple]}; give a multiple of {unit}, "
            f"such as {max(batch_size // unit * unit, unit, least)}"
        )
