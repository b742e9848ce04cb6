"""What every latency backend must satisfy."""

from __future__ import annotations

import dataclasses
import shutil
from abc import ABC, abstractmethod
from pathlib import Path

import pytest
import torch

from latency_lut.backends.base import Backend, FileBackend, Job, blocks_job, network_job
from latency_lut.backends.protocol import measure
from latency_lut.measurement.manifest import checksum
from latency_lut.tables.plan import make_plan
from search_spaces import SearchSpace


def graphs_of_every_kind(space: SearchSpace) -> list[Job]:
    """The blocks of each kind alone, after and before others, and in chains."""
    graphs = {(g[0].kind, g[-1].kind, len(g)): g for g in make_plan(space).graphs.values()}
    assert len(graphs) > 5
    return [blocks_job(blocks) for blocks in (*graphs.values(), *((g[-1],) for g in graphs.values()))]


class BackendContract(ABC):
    """Inherit, and give the backend."""

    @classmethod
    @abstractmethod
    def make_backend(cls) -> Backend:
        """A backend that runs here."""

    @pytest.fixture(scope="class")
    @classmethod
    def backend(cls) -> Backend:
        return cls.make_backend()

    def test_describes_itself(self, backend: Backend) -> None:
        runtime = dataclasses.asdict(backend.describe())
        assert runtime.pop("threads") >= 0
        assert all(isinstance(value, str) and value for value in runtime.values()), runtime
        assert runtime["precision"] == backend.precision
        assert backend.name.isidentifier(), "it is part of file names"

    def test_every_kind_of_block_runs_alone_and_after_others(self, backend: Backend, tiny: SearchSpace) -> None:
        for job in graphs_of_every_kind(tiny):
            before = backend.clock.now_ns()
            backend.prepare(job).run(2)
            assert backend.clock.now_ns() > before

    def test_networks_are_timed(self, backend: Backend, tiny: SearchSpace) -> None:
        archs = {"smallest": tiny.smallest, "largest": tiny.largest}
        sessions = {name: backend.prepare(network_job(tiny, arch)) for name, arch in archs.items()}
        runs = {name: session.run for name, session in sessions.items()}
        timings = measure(runs, backend.settings(3), backend.clock).timings
        assert 0 < timings["smallest"].min_ms <= timings["smallest"].median_ms
        assert timings.keys() == runs.keys()

    def test_devices_are_shares(self, backend: Backend, tiny: SearchSpace) -> None:
        devices = backend.prepare(network_job(tiny, tiny.smallest)).devices
        assert not devices or sum(devices.values()) == pytest.approx(1)

    def test_preparing_leaves_random_state_and_threads_alone(self, backend: Backend, tiny: SearchSpace) -> None:
        before, threads = torch.get_rng_state(), torch.get_num_threads()
        torch.set_num_threads(2)
        try:
            backend.prepare(blocks_job(tiny.lower(tiny.smallest)[:2]))
            assert torch.get_num_threads() == 2
        finally:
            torch.set_num_threads(threads)
        assert torch.equal(before, torch.get_rng_state())


class FileBackendContract(BackendContract):
    """Of a backend that runs models from files."""

    @pytest.mark.parametrize("which", ["blocks", pytest.param("network", marks=pytest.mark.heavy)])
    def test_an_export_repeats(self, which: str, backend: FileBackend, tiny: SearchSpace, tmp_path: Path) -> None:
        job = network_job(tiny, tiny.largest) if which == "network" else blocks_job(tiny.lower(tiny.smallest))
        paths = [tmp_path / f"{name}{backend.suffix}" for name in "ab"]
        for path in paths:
            backend.export(job, path)
        assert checksum(paths[0]) == checksum(paths[1])

    def test_a_loaded_model_needs_its_file_no_longer(
        self, backend: FileBackend, tiny: SearchSpace, tmp_path: Path
    ) -> None:
        path = tmp_path / f"model{backend.suffix}"
        backend.export(blocks_job(tiny.lower(tiny.smallest)[:2]), path)
        session = backend.load(path)
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        session.run(1)
