from __future__ import annotations

import random

import numpy as np
import pytest

from latency_lut.tables import adaptation
from latency_lut.tables.adaptation import Adapter
from latency_lut.tables.table import LatencyTable
from search_spaces import BlockSpec, SearchSpace
from tests.nas.tiny import make_table
from tests.toy_family import ToySpace

OFFSET_MS = 0.02


@pytest.fixture(scope="module")
def adapter(table: LatencyTable, nano: SearchSpace) -> Adapter:
    return Adapter(table, nano)


def there(adapter: Adapter, nano: SearchSpace) -> np.ndarray:
    """(blocks,) factors of a device that is slow at attention, and the slower the fewer MACs a block has."""

    def factor(block: BlockSpec) -> float:
        return 2 * (2.5 if "attention" in block.kind else 1.0) * float(block.macs / 1e6) ** -0.1

    blocks = nano.all_blocks()
    return np.array([factor(blocks[key]) for key in adapter.keys])


def random_parts(adapter: Adapter, nano: SearchSpace, count: int, seed: int = 1) -> np.ndarray:
    rng = random.Random(seed)
    return adapter.parts([nano.sample(rng) for _ in range(count)])


def test_parts_add_up_to_what_the_table_predicts(adapter: Adapter, table: LatencyTable, nano: SearchSpace) -> None:
    sums = adapter.parts([nano.smallest, nano.largest]).sum(1) + table.calibration.offset_ms
    assert sums == pytest.approx([table.latency_ms(nano, arch) for arch in (nano.smallest, nano.largest)])


def test_a_device_is_learned_from_twenty_networks(adapter: Adapter, nano: SearchSpace) -> None:
    factors, parts, others = there(adapter, nano), adapter.parts(adapter.choose(20)), random_parts(adapter, nano, 50)
    times_ms, wanted_ms = parts @ factors + OFFSET_MS, others @ factors + OFFSET_MS
    fit = adapter.best_fit(parts, times_ms)
    error = np.abs((others @ fit.factors + fit.offset_ms) / wanted_ms - 1)
    one = np.median(times_ms / parts.sum(1))
    assert error.mean() < 0.01 < 0.04 < np.abs(others.sum(1) * one / wanted_ms - 1).mean()
    assert (fit.factors > 0).all()


@pytest.mark.parametrize(
    ("count", "strength", "disturbed", "slow"), [(20, 1.0, 5, 2.0), (20, 1.0, 17, 4.0), (12, 0.4, 8, 3.0)]
)
def test_a_fit_to_a_disturbed_network_comes_to_rest(
    adapter: Adapter,
    nano: SearchSpace,
    monkeypatch: pytest.MonkeyPatch,
    count: int,
    strength: float,
    disturbed: int,
    slow: float,
) -> None:
    parts = adapter.parts(adapter.choose(count))
    times_ms = parts @ there(adapter, nano) + OFFSET_MS
    times_ms[disturbed] *= slow

    def predicted_ms() -> np.ndarray:
        fit = adapter.fit(parts, times_ms, strength)
        return parts @ fit.factors + fit.offset_ms

    before = predicted_ms()
    monkeypatch.setattr(adaptation, "STEPS", adaptation.STEPS + 1)
    assert predicted_ms() == pytest.approx(before, rel=0.02)


def test_left_out_errors_are_those_of_fits_without_the_network(adapter: Adapter, nano: SearchSpace) -> None:
    """In closed form they are of the model at its last step, so near, not the same."""
    factors, parts = there(adapter, nano), adapter.parts(adapter.choose(20))
    noise = np.random.default_rng(0).normal(1, 0.03, 20)
    times_ms = (parts @ factors + OFFSET_MS) * noise
    closed = adapter.fit(parts, times_ms, 0.15).left_out
    refitted = []
    for i in range(20):
        others = np.arange(20) != i
        fit = adapter.fit(parts[others], times_ms[others], 0.15)
        refitted.append(1 - (parts[i] @ fit.factors + fit.offset_ms) / times_ms[i])
    assert closed == pytest.approx(refitted, abs=0.012) and np.abs(refitted).max() > 0.03


def test_an_equal_device_has_equal_rows(adapter: Adapter, nano: SearchSpace) -> None:
    parts = adapter.parts(adapter.choose(12))
    fit = adapter.best_fit(parts, parts.sum(1))
    assert fit.factors == pytest.approx(1, abs=0.02) and fit.offset_ms == pytest.approx(0, abs=0.01)


def test_chosen_networks_tell_more_than_random_ones(adapter: Adapter, nano: SearchSpace) -> None:
    chosen = adapter.choose(20)
    assert chosen[:2] == [nano.smallest, nano.largest] and len(set(chosen)) == 20
    assert chosen == adapter.choose(20) and adapter.choose(10) == chosen[:10]

    def error(parts: np.ndarray) -> float:
        factors, others = there(adapter, nano), random_parts(adapter, nano, 100, seed=9)
        fit = adapter.best_fit(parts, parts @ factors)
        return float(np.abs((others @ fit.factors + fit.offset_ms) / (others @ factors) - 1).mean())

    at_random = np.mean([error(random_parts(adapter, nano, 20, seed)) for seed in range(2, 6)])
    assert error(adapter.parts(chosen)) < at_random


def test_a_small_space_gives_what_it_has() -> None:
    space = ToySpace()
    assert len(Adapter(make_table(space), space).choose(10_000)) <= space.size()
