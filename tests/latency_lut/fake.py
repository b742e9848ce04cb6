"""A machine whose blocks cost what we say, with a clock that only its runs advance."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from latency_lut.protocol import Run, Runtime
from search_spaces import Arch, BlockSpec, SearchSpace

OVERHEAD_NS = 1_000  # of every run


def cost_ns(key: str) -> int:
    """A cost from 10 to 110 µs, unrelated to the block's size."""
    return 10_000 + zlib.crc32(key.encode()) % 100_000


@dataclass
class FakeMachine:
    """A backend and its clock.

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
    _now_ns: int = 0
    _wait_ns: int = 0

    def export_blocks(self, blocks: Sequence[BlockSpec]) -> bytes:
        return json.dumps([block.key for block in blocks]).encode()

    def export_network(self, space: SearchSpace, arch: Arch) -> bytes:
        return self.export_blocks(space.lower(arch))

    def load(self, model: bytes) -> Run:
        keys = tuple(json.loads(model))
        duration_ns = self.overhead_ns + sum(map(cost_ns, keys))

        def run(repeats: int) -> None:
            wait_ns = self.wait_ns_at(len(self.calls))
            self.calls.append(keys)
            self._wait_ns += wait_ns
            self._now_ns += wait_ns + repeats * duration_ns

        return run

    def describe(self) -> Runtime:
        return Runtime("fake device", "fake os", "fake runtime", "1", "CPU", "float32", self.threads)

    def now_ns(self) -> int:
        return self._now_ns

    def wait_ns(self) -> int | None:
        return self._wait_ns if self.tells_waits else None
