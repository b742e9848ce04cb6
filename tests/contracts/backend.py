"""What every latency backend must satisfy."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod

import pytest

from latency_lut.plan import make_plan
from latency_lut.protocol import Backend, Clock, Settings, measure
from search_spaces import SearchSpace


class BackendContract(ABC):
    """Inherit, and give the backend with its clock."""

    @classmethod
    @abstractmethod
    def make_backend(cls) -> tuple[Backend, Clock]:
        """A backend and the clock that its runs advance."""

    @pytest.fixture(scope="class")
    @classmethod
    def machine(cls) -> tuple[Backend, Clock]:
        return cls.make_backend()

    def test_describes_itself(self, machine: tuple[Backend, Clock]) -> None:
        runtime = dataclasses.asdict(machine[0].describe())
        assert runtime.pop("threads") >= 1
        assert all(isinstance(value, str) and value for value in runtime.values()), runtime
        assert machine[0].name.isidentifier(), "it is part of file names"

    def test_every_kind_of_block_runs_alone_and_after_others(
        self, machine: tuple[Backend, Clock], tiny: SearchSpace
    ) -> None:
        backend, clock = machine
        graphs = {(g[0].kind, g[-1].kind, len(g)): g for g in make_plan(tiny).graphs.values()}
        assert len(graphs) > 5
        for blocks in (*graphs.values(), *((g[-1],) for g in graphs.values())):
            before = clock.now_ns()
            backend.load(backend.export_blocks(blocks))(2)
            assert clock.now_ns() > before

    def test_networks_are_timed(self, machine: tuple[Backend, Clock], tiny: SearchSpace) -> None:
        backend, clock = machine
        archs = {"smallest": tiny.smallest, "largest": tiny.largest}
        runs = {name: backend.load(backend.export_network(tiny, arch)) for name, arch in archs.items()}
        timings = measure(runs, Settings(samples=3, min_sample_ms=0.2), clock).timings
        assert 0 < timings["smallest"].min_ms <= timings["smallest"].median_ms < 1000
        assert timings.keys() == runs.keys()

    def test_an_export_repeats(self, machine: tuple[Backend, Clock], tiny: SearchSpace) -> None:
        backend, blocks = machine[0], tiny.lower(tiny.smallest)
        assert backend.export_blocks(blocks) == backend.export_blocks(blocks)
        assert backend.export_network(tiny, tiny.largest) == backend.export_network(tiny, tiny.largest)
