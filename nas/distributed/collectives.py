"""One training run by several processes that torchrun starts; without it, one process, and nothing here does anything.

    torchrun --nproc-per-node 2 -m -- nas.train_supernet …

(Without the two dashes torchrun takes our --run for one of its own flags.)

All processes hold the same weights. Each works on its share of every batch, and once a step they average gradients
(`average_`), so that they stay the same. Process 0 is the primary: it alone makes files and prints.

A process that fails says why and ends. The others learn of it when its connections close, and end too: without a word
if it has said why, else with one line. Numbers and texts go by gloo on the CPU also when gradients go by NCCL, since
only gloo notices at once that a peer has gone.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout
from datetime import timedelta
from pathlib import Path
from typing import NoReturn

import torch
import torch.distributed as dist
from torch import Tensor

from nas.distributed.process import is_primary, set_place, world_size
from search_spaces import UserError

TIMEOUT = timedelta(minutes=10)  # the longest that one process may work alone: reading the data, writing a checkpoint
BUCKET_BYTES = 64 * 2**20


class JobError(UserError):
    """Concerns the job, not the process that noticed."""


# ---- the job


def places(processes: int) -> tuple[dist.Store, list[dict[str, str]]]:
    """For a job on this host without torchrun: what that tells each process in its environment.

    The store, by which they meet, must live as long as they do.
    """
    store = dist.TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    common = {"WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes, "MASTER_ADDR": "localhost"}
    common |= {"MASTER_PORT": store.port, "TORCHELASTIC_USE_AGENT_STORE": True, "TORCHELASTIC_RESTART_COUNT": 0}
    ranks = ({**common, "RANK": rank, "LOCAL_RANK": rank} for rank in range(processes))
    return store, [{name: str(value) for name, value in place.items()} for place in ranks]


@contextmanager
def job() -> Iterator[None]:
    """Joins the processes that torchrun started, if it did, for as long as the block runs; the others print nothing.

    Raises:
        UserError: with the process's number, for what the block raises here.
        JobError: a process ended, or the job is told to stop (SIGTERM).
        SystemExit: another process has said what was wrong.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        yield
        return
    terminate = signal.signal(signal.SIGTERM, _stop)
    if "RANK" not in os.environ:
        raise UserError("WORLD_SIZE is set and RANK is not; start the processes with torchrun, or unset WORLD_SIZE")
    store, number, world = next(dist.rendezvous("env://", timeout=TIMEOUT))
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo"
    dist.init_process_group(backend, store=store, rank=number, world_size=world, timeout=TIMEOUT)
    set_place(number, world)
    try:
        with Path(os.devnull).open("w") as nowhere, nullcontext() if is_primary() else redirect_stdout(nowhere):
            yield
    except SystemExit:
        raise
    except BaseException as error:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # torchrun's, who may notice first: let the reason be printed
        if not _first_to_end(store):
            raise SystemExit(1) from None
        print(file=sys.stderr)  # after process 0's bar
        if isinstance(error, UserError) and not isinstance(error, JobError):
            raise UserError(f"process {number} of {world} on {socket.gethostname()}: {error}") from None
        raise
    dist.destroy_process_group()
    set_place(0, 1)
    signal.signal(signal.SIGTERM, terminate)


def _stop(number: int, _: object) -> NoReturn:
    signal.signal(number, signal.SIG_IGN)
    raise _ended()


def _ended() -> JobError:
    return JobError(
        "a process of the job ended, or the job was told to stop; the files written so far are whole: go on with "
        "--resume, with any number of processes"
    )


def _first_to_end(store: dist.Store) -> bool:
    try:
        return store.add("ended", 1) == 1
    except RuntimeError:  # its host is the one that ended
        return True


@contextmanager
def _communicating() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        if re.search(r"time(d )?out", str(error), re.IGNORECASE):
            minutes = TIMEOUT.total_seconds() / 60
            waited = f"another process has kept this one waiting for {minutes:g} minutes"
            raise JobError(f"{waited}; see what holds it, end the job and go on with --resume") from error
        raise _ended() from error


# ---- numbers and texts


def total(*numbers: float) -> list[float]:
    """Each number's sum over the processes."""
    sums = torch.tensor(numbers, dtype=torch.float64)
    if world_size() > 1:
        with _communicating():
            dist.all_reduce(sums)
    return sums.tolist()


def gather(text: str) -> list[str]:
    """Every process's text, in the order of their numbers."""
    if world_size() == 1:
        return [text]
    data = text.encode()
    with _communicating():
        lengths = [torch.zeros(1, dtype=torch.int64) for _ in range(world_size())]
        dist.all_gather(lengths, torch.tensor([len(data)]))
        longest = max(int(length) for length in lengths)
        texts = [torch.zeros(longest, dtype=torch.uint8) for _ in lengths]
        dist.all_gather(texts, torch.tensor(list(data.ljust(longest)), dtype=torch.uint8))
    return [bytes(t[: int(n)].tolist()).decode() for t, n in zip(texts, lengths, strict=True)]


def agree(**facts: object) -> None:
    """Raises JobError, naming the first process and fact that differ, unless all processes have the same facts."""
    first, *others = (json.loads(text) for text in gather(json.dumps([socket.gethostname(), _texts(facts)])))
    for number, (host, other) in enumerate(others, start=1):
        for name, value in first[1].items():
            if other[name] != value:
                raise JobError(
                    f"process {number} on {host} differs from process 0 on {first[0]}: {name} is {other[name]}, not "
                    f"{value}; start all processes with the same flags, data, code and run folder"
                )


def _texts(facts: dict[str, object]) -> dict[str, str]:
    return {name: str(value) for name, value in facts.items()}


# ---- tensors


class Flat:
    """A one-dimensional tensor, `data`, with the same elements as `tensors`, of one type and one device."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self.tensors = list(tensors)
        sizes = [tensor.numel() for tensor in self.tensors]
        self.data = tensors[0].new_empty(sum(sizes)) if tensors else torch.empty(0)
        # in each tensor's own order of memory, or copying leaves the fast path
        parts = zip(self.data.split(sizes), self.tensors, strict=True) if tensors else ()
        self.views = [part.as_strided(tensor.shape, tensor.stride()) for part, tensor in parts]

    @torch.no_grad()
    def read(self) -> Tensor:
        """`data`, as the tensors are now."""
        if self.tensors:
            torch._foreach_copy_(self.views, self.tensors)
        return self.data

    @torch.no_grad()
    def write(self, data: Tensor) -> None:
        """Makes the tensors what `data` says."""
        if self.tensors:
            self.data.copy_(data)
            torch._foreach_copy_(self.tensors, self.views)


def mean(data: Tensor) -> Tensor:
    """The mean over the processes, in place."""
    if world_size() > 1:
        with _communicating():
            dist.all_reduce(data)
        data /= world_size()
    return data


def average_(tensors: Iterable[Tensor]) -> None:
    """Makes each tensor its mean over the processes, which all give as many of the same shapes."""
    for flat in _flats(tensors):
        flat.write(mean(flat.read()))


def copy_from_first_(tensors: Iterable[Tensor]) -> None:
    """Makes each tensor process 0's."""
    for flat in _flats(tensors):
        with _communicating():
            dist.broadcast(flat.read(), 0)
        flat.write(flat.data)


def _flats(tensors: Iterable[Tensor]) -> Iterator[Flat]:
    """The tensors in a few groups; none without other processes."""
    if world_size() == 1:
        return
    group: list[Tensor] = []
    size = 0
    for tensor in tensors:
        if group and size + tensor.nbytes > BUCKET_BYTES:
            yield Flat(group)
            group, size = [], 0
        group.append(tensor)
        size += tensor.nbytes
    if group:
        yield Flat(group)
