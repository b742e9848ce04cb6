"""The real compiler and tuner where they are installed; everywhere the order of tuning, and what is said."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import platformdirs
import pytest
import torch
from torch import nn

from latency_lut.backends import tvm as backend_tvm
from latency_lut.backends.base import Job
from latency_lut.backends.protocol import Sample, Settings
from latency_lut.backends.registry import make_backend
from latency_lut.backends.tvm import RECORDS, TunedTvmBackend, TvmBackend
from latency_lut.measurement.journal import Journal
from search_spaces import UserError
from tests.latency_lut.fake import FakeMachine


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's, here."""
    monkeypatch.setattr(platformdirs, "user_cache_dir", lambda *_: str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def job() -> Job:
    """Two kernels, a normalization that is folded into one of them."""
    layers = (nn.Conv2d(4, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 5))
    return Job((4, 8, 8), lambda: nn.Sequential(*layers))


def error(backend: TvmBackend, job: Job) -> float:
    """Largest difference to the module's output, relative to its largest value."""
    tvm = pytest.importorskip("tvm")
    images = np.random.default_rng(0).standard_normal((1, *job.input_shape), dtype=np.float32)
    output = backend.compiled(job)(tvm.runtime.tensor(images)).numpy()
    with torch.no_grad():
        expected = job.module()(torch.from_numpy(images)).numpy()
    return float(np.abs(output - expected).max() / np.abs(expected).max())


def test_compiled_kernels_compute_what_the_module_does(job: Job) -> None:
    pytest.importorskip("tvm")
    assert error(TvmBackend(), job) < 1e-5
    TvmBackend().prepare(job).run(2)


@pytest.mark.slow
def test_tuned_kernels_do_too_and_are_tuned_once(job: Job, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("tvm", "xgboost", "psutil"):
        pytest.importorskip(package)
    monkeypatch.setattr(backend_tvm, "ROUNDS", (2, 4))
    assert error(TunedTvmBackend(), job) < 1e-5
    (records,) = cache.rglob(RECORDS[1])
    tried = records.read_text()
    assert tried.count("\n") > 4
    records.write_text(tried + tried.splitlines()[0][:9])  # as a kill leaves it
    assert error(TunedTvmBackend(tuning_s=0), job) < 1e-5
    assert records.read_text() == tried, "what is torn is cut off, nothing is tried again"


class Tuner:
    """Stands for MetaSchedule: counts the candidates of each kernel, each of which takes a second."""

    def __init__(self, weights: dict[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
        self.tried = dict.fromkeys(weights, 0)
        self.order: list[tuple[str, int]] = []
        self.now_s = 0.0
        kernels = [SimpleNamespace(weight=weight, dispatched=[name]) for name, weight in weights.items()]
        meta_schedule = SimpleNamespace(
            relax_integration=SimpleNamespace(extract_tasks=lambda *_: kernels),
            CostModel=SimpleNamespace(create=lambda *_, **__: None),
            runner=SimpleNamespace(
                LocalRunner=lambda **_: SimpleNamespace(pool=SimpleNamespace(shutdown=lambda: None))
            ),
        )
        monkeypatch.setitem(sys.modules, "tvm", SimpleNamespace())
        monkeypatch.setitem(sys.modules, "tvm.s_tir", SimpleNamespace(meta_schedule=meta_schedule))
        monkeypatch.setattr(backend_tvm, "_tried", lambda kernel, _database, most: min(self.tried[kernel], most))
        monkeypatch.setattr(backend_tvm, "_tune_kernel", self._tune_kernel)
        monkeypatch.setattr(backend_tvm.time, "monotonic", lambda: self.now_s)

    def _tune_kernel(self, kernel: Any, trials: int, *_: Any) -> None:
        (name,) = kernel.dispatched
        self.order.append((name, trials))
        self.tried[name] += trials
        self.now_s += trials


def test_all_kernels_come_first_to_a_few_trials_the_frequent_ones_before(monkeypatch: pytest.MonkeyPatch) -> None:
    tuner = Tuner({"once": 1, "often": 9}, monkeypatch)
    backend_tvm.tune(None, None, None, deadline=1000)
    assert tuner.order == [("often", 16), ("once", 16), ("often", 48), ("once", 48)]


def test_tuning_ends_with_its_time_and_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    tuner = Tuner({"a": 3, "b": 2}, monkeypatch)
    backend_tvm.tune(None, None, None, deadline=20)
    assert tuner.order == [("a", 16), ("b", 16)]
    backend_tvm.tune(None, None, None, deadline=1000)
    assert tuner.order[2:] == [("a", 48), ("b", 48)]
    backend_tvm.tune(None, None, None, deadline=1000)
    assert len(tuner.order) == 4, "nothing is missing"


@pytest.mark.parametrize("name", ["tvm", "xgboost", "psutil"])
def test_what_is_missing_is_named_with_its_remedy(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("tvm", "xgboost", "psutil", "cloudpickle"):
        monkeypatch.setitem(sys.modules, package, None if package == name else SimpleNamespace())
    with pytest.raises(UserError, match=rf"^{name} is not installed; pip install 'apache-tvm\[meta-schedule"):
        TunedTvmBackend().describe()


def test_a_measurement_goes_on_with_the_same_time_for_tuning_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(tuning_s: int) -> None:
        with Journal.kept(tmp_path / "t.json", True, {}, TunedTvmBackend(tuning_s=tuning_s), Settings(2)) as journal:
            journal.append("a", [Sample(1.0, None, 1.0)])
            raise KeyboardInterrupt

    monkeypatch.setattr(TunedTvmBackend, "describe", FakeMachine().describe)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            interrupted(7)
    with pytest.raises(UserError, match=r"was begun with tuning_s 7 \(now 8\); go on with that, or start over"):
        interrupted(8)


def test_the_time_for_tuning_reaches_the_backend() -> None:
    backend = make_backend("tvm_tuned", tuning_s=7)
    assert isinstance(backend, TunedTvmBackend) and backend.tuning_s == 7
