"""A process of its own for what may not come to an end."""

from __future__ import annotations

import io
import multiprocessing
import signal
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import torch

from search_spaces.command import quiet


class ChildFailed(Exception):  # noqa: N818
    """The function raised, or its process died."""


class ChildLate(ChildFailed):
    """It was not finished in time."""


@dataclass(frozen=True)
class Child:
    """Calls functions, each in a process of its own that ends after `limit_s` seconds."""

    limit_s: float

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        """What the function returns. ChildFailed if it raises, dies or takes too long."""
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe(duplex=False)
        job = (theirs, self.limit_s, torch.get_num_threads(), function, _packed(args))
        child = context.Process(target=_serve, args=job, daemon=True)
        child.start()
        theirs.close()
        try:
            if not ours.poll(self.limit_s):
                raise ChildLate(f"not finished after {self.limit_s:g} s")
            return _unpacked(ours.recv_bytes())
        except EOFError:
            raise ChildFailed("its process died, perhaps for lack of memory") from None
        finally:
            child.kill()
            child.join()
            ours.close()


def _serve(pipe: Connection, limit_s: float, threads: int, function: Callable[..., Any], args: bytes) -> None:
    """In the process: ends in time even if the one that asked is gone, and leaves Ctrl-C to that."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "setitimer"):  # not on Windows
        signal.setitimer(signal.ITIMER_REAL, limit_s)
    torch.set_num_threads(threads)
    pipe.send_bytes(_answer(function, args))


def _answer(function: Callable[..., Any], args: bytes) -> bytes:
    """Exceptions come back as their text, they may not be such that they can be sent."""
    try:
        with quiet():
            return _packed(function(*_unpacked(args)))
    except Exception as error:
        return _packed(ChildFailed(f"{type(error).__name__}: {error}"[:200]))


def _packed(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def _unpacked(data: bytes) -> Any:
    value = torch.load(io.BytesIO(data), weights_only=False)  # from our own process
    if isinstance(value, ChildFailed):
        raise value
    return value
