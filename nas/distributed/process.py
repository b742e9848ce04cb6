"""Which process of a training job this one is; nas.distributed.collectives joins the job. Imports without torch."""

from __future__ import annotations

import os

_number, _count = 0, 1


def set_place(number: int, count: int) -> None:
    global _number, _count
    _number, _count = number, count


def rank() -> int:
    return _number


def world_size() -> int:
    return _count


def is_primary() -> bool:
    """Whether this process makes files, prints and shows progress."""
    return _number == 0


def local_rank() -> int:
    """This process's number among those of its host."""
    return int(os.environ["LOCAL_RANK"]) if _count > 1 else 0


def launcher() -> list[str]:
    """The words that start a module in as many processes as this job has."""
    if _count == 1:
        return ["python", "-m"]
    local = int(os.environ["LOCAL_WORLD_SIZE"])
    return ["torchrun", "--nnodes", str(_count // local), "--nproc-per-node", str(local), "-m", "--"]
