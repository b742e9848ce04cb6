"""A process of its own for what may not come to an end."""

from __future__ import annotations

import io
import multiprocessing
from collections.abc import Callable
from typing import Any

import torch

from search_spaces.command import quiet


class ChildFailed(Exception):  # noqa: N818
    """The function raised."""


class ChildLate(ChildFailed):
    """It was not finished in time."""


class Child:
    """The process; a call that takes longer than `limit_s` ends it, the next one starts another."""

    def __init__(self, limit_s: float) -> None:
        self.limit_s = limit_s
        self._pool: Any = None

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        """What the function returns. ChildFailed if it raises or takes too long."""
        if self._pool is None:
            self._pool = multiprocessing.get_context("spawn").Pool(1)
        try:
            answer = self._pool.apply_async(_answer, (function, _packed(args), torch.get_num_threads()))
            return _unpacked(answer.get(self.limit_s))
        except multiprocessing.TimeoutError:
            self.close()
            raise ChildLate(f"not finished after {self.limit_s:g} s") from None

    def close(self) -> None:
        if self._pool is not None:
            self._pool.terminate()
            self._pool = None


def _answer(function: Callable[..., Any], args: bytes, threads: int) -> bytes:
    """In the process: exceptions come back as their text, they may not be such that they can be sent."""
    torch.set_num_threads(threads)
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
