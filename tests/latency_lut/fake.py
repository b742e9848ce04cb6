"""A machine whose blocks cost what we say, with a clock that only its runs advance."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from latency_lut.backends.base import FileBackend, Job, Runtime, Session
from latency_lut.backends.protocol import Run, Settings

OVERHEAD_NS = 1_000  # of every run


def cost_ns(key: str) -> int:
    """A cost from 10 to 110 µs, unrelated to the block's size."""
    return 10_000 + zlib.crc32(key.encode()) % 100_000


@dataclass
class FakeMachine(FileBackend):
    """A backend that is its own clock. Its models are lists of block keys.

    Args:
        wait_ns_at: by the number of calls so far, how long a call waits for a core before it runs.
        tells_waits: False like a system without schedstat.
        calls: the graph of every call, as a list of block keys.
    """

    threads: int = 1
    wait_ns_at: Callable[[int], int] = lambda _: 0
    tells_waits: bool = True
    overhead_ns: int = OVERHEAD_NS
    calls: list[tuple[str, ...]] = field(default_factory=list)
    name: str = "fake"
    precision: str = "float32"
    suffix: str = ".json"
    _now_ns: int = 0
    _wait_ns: int = 0

    @property
    def clock(self) -> FakeMachine:  # type: ignore[override]
        return self

    def export(self, job: Job, path: Path) -> None:
        path.write_text(json.dumps([block.key for block in job.blocks]), encoding="utf-8")

    def load(self, path: Path) -> Session:
        return Session(self.run_of(tuple(json.loads(path.read_text(encoding="utf-8")))), {"fake": 1.0})

    def run_of(self, keys: Sequence[str]) -> Run:
        """A run of the blocks, one after another."""
        keys = tuple(keys)
        duration_ns = self.overhead_ns + sum(map(cost_ns, keys))

        def run(repeats: int) -> None:
            wait_ns = self.wait_ns_at(len(self.calls))
            self.calls.append(keys)
            self._wait_ns += wait_ns
            self._now_ns += wait_ns + repeats * duration_ns

        return run

    def settings(self, samples: int) -> Settings:
        """A sample is one run, as nothing disturbs any."""
        return Settings(samples, min_sample_ms=0.001)

    def describe(self) -> Runtime:
        return Runtime("fake device", "fake os", "fake runtime", "1", "cpu", self.precision, self.threads)

    def now_ns(self) -> int:
        return self._now_ns

    def wait_ns(self) -> int | None:
        return self._wait_ns if self.tells_waits else None


class SizedMachine(FakeMachine):
    """A run takes as long as the network has parameters, whether its blocks are known or not."""

    def export(self, job: Job, path: Path) -> None:
        size = sum(block.num_params for block in job.blocks) or sum(p.numel() for p in job.build().parameters())
        path.write_text(json.dumps([f"{size}"]), encoding="utf-8")

    def run_of(self, keys: Sequence[str]) -> Run:
        def run(repeats: int) -> None:
            self._now_ns += repeats * (OVERHEAD_NS + 10 * int(keys[0]))

        return run


class Killed(BaseException):
    pass


class MortalMachine(FakeMachine):
    """Dies at its first call after `lifetime` calls."""

    lifetime = 10**9

    def run_of(self, keys: Sequence[str]) -> Run:
        run = super().run_of(keys)

        def mortal(repeats: int) -> None:
            if len(self.calls) >= self.lifetime:
                raise Killed
            run(repeats)

        return mortal
