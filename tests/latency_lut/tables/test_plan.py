from __future__ import annotations

import random
from itertools import pairwise

import pytest
import torch

from latency_lut.backends.base import blocks_job
from latency_lut.tables.plan import NUM_CALIBRATION, calibration_archs, fit_line, make_plan
from search_spaces import SPACES, BlockSpec, SearchSpace, get_space, macs
from tests.latency_lut.fake import cost_ns


@pytest.mark.parametrize("name", SPACES)
@pytest.mark.parametrize("overhead_ns", [0, 12_345])
def test_known_costs_are_recovered_whatever_the_overhead(name: str, overhead_ns: int) -> None:
    space = get_space(name)
    plan = make_plan(space)
    times = {graph: overhead_ns + sum(cost_ns(b.key) for b in blocks) for graph, blocks in plan.graphs.items()}
    expected = {key: cost_ns(key) for key in space.all_blocks()}
    assert plan.costs(times) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", SPACES)
def test_blocks_of_a_graph_fit_each_other(name: str) -> None:
    for blocks in make_plan(get_space(name)).graphs.values():
        for before, after in pairwise(blocks):
            assert before.output_shape() == after.input_shape()


def test_blocks_run_behind_a_head_that_hands_its_map_on() -> None:
    graphs = make_plan(get_space("mobilevit-nano+ssdlite", 64, 3)).graphs
    blocks = next(b for b in graphs.values() if (b[0].kind, b[-1].kind) == ("box_head", "local"))
    job, alone = blocks_job(blocks), blocks_job(blocks[-1:])
    with torch.inference_mode():
        x = torch.zeros(1, *job.input_shape)
        y, *found = job.module()(x)
        assert y.shape == alone.module()(x).shape
    assert len(found) == len(blocks) - 1, "what the heads found is dropped, so a runtime need not compute it"


def test_a_block_without_a_reference_is_measured_alone(nano: SearchSpace) -> None:
    stem = next(block for block in nano.lower(nano.largest) if block.kind == "stem")

    class OnlyStem(type(nano)):  # type: ignore[misc]
        def __init__(self) -> None:
            pass

        def all_blocks(self) -> dict[str, BlockSpec]:
            return {stem.key: stem}

    plan = make_plan(OnlyStem())
    assert plan.graphs == {stem.key: (stem,)}
    assert plan.costs({stem.key: 1.5}) == {stem.key: 1.5}


def test_calibration_networks_span_the_space(nano: SearchSpace) -> None:
    archs = calibration_archs(nano)
    assert archs == calibration_archs(nano)
    assert len(set(archs)) == NUM_CALIBRATION
    sizes = sorted(macs(nano, arch) for arch in archs)
    assert (sizes[0], sizes[-1]) == (macs(nano, nano.smallest), macs(nano, nano.largest))
    assert all(b / a < 2.5 for a, b in pairwise(sizes))


def test_a_line_is_recovered() -> None:
    costs = [1.0, 2.0, 3.0, 5.0, 8.0, 13.0]
    assert fit_line(costs, [1.1 * c + 0.25 for c in costs]) == pytest.approx((1.1, 0.25))


def test_one_outlier_does_not_bend_the_line() -> None:
    costs = [1.0, 2.0, 3.0, 5.0, 8.0, 13.0]
    times = [1.1 * c + 0.25 for c in costs[:-1]] + [30.0]
    assert fit_line(costs, times) == pytest.approx((1.1, 0.25))


def test_few_networks_fit_a_scale_only() -> None:
    assert fit_line([1.0, 2.0, 4.0], [1.2, 2.4, 4.8]) == pytest.approx((1.2, 0.0))
    assert fit_line([2.0] * 8, [3.0] * 8) == (1.5, 0.0)


def test_the_line_beats_all_others_nearby() -> None:
    rng = random.Random(0)
    costs = [rng.uniform(1, 10) for _ in range(10)]
    times = [c * rng.uniform(0.9, 1.3) + 0.2 for c in costs]

    def error(scale: float, offset: float) -> float:
        return sum(abs((scale * c + offset) / t - 1) for c, t in zip(costs, times, strict=True))

    scale, offset = fit_line(costs, times)
    best = error(scale, offset)
    for _ in range(1000):
        assert best <= error(scale + rng.gauss(0, 0.1), offset + rng.gauss(0, 0.1)) + 1e-12
