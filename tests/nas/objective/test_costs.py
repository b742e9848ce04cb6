from __future__ import annotations

import random
import re
from typing import get_args

import numpy as np
import pytest

from nas.objective.costs import Costs, check_limits, rounded_up
from nas.objective.mes import Objective, Term
from nas.objective.precisions import Precision
from search_spaces import SearchSpace, UserError, get_space, num_params
from tests.nas.tiny import tiny_space

SPACE = tiny_space()
SMALLEST = {"num_params": num_params(SPACE, SPACE.smallest)}


def costs(limits: dict[str, float], space: SearchSpace = SPACE) -> Costs:
    return Costs(space, {}, Objective((Term("num_params", 3e6, 1.0),), limits))


def test_within_and_excess() -> None:
    limits = {"num_params": 60000.0, "macs": 3e5}
    limited = costs(limits)
    rng = random.Random(0)
    archs = [SPACE.sample(rng) for _ in range(50)]
    encoded = SPACE.encode(archs)
    metrics = [limited.one(arch) for arch in archs]
    within = limited.within(encoded)
    assert within.tolist() == [limited.objective.feasible(m) for m in metrics] and 0 < within.sum() < 50
    expected = [[np.log(m[name] / limit) for name, limit in limits.items()] for m in metrics]
    np.testing.assert_allclose(limited.excess(encoded), expected, rtol=1e-12)
    assert costs({}).within(encoded).all()


def test_memory_is_that_of_the_precision() -> None:
    objective = Objective((Term("memory_mb", 6.0, 1.0),), {})
    in_float, in_half, in_int8 = (Costs(SPACE, {}, objective, p).one(SPACE.largest) for p in get_args(Precision))
    peak = max(block.peak_activations for block in SPACE.lower(SPACE.largest))
    assert [c["memory_mb"] for c in (in_float, in_half, in_int8)] == [4 * peak / 1e6, 2 * peak / 1e6, peak / 1e6]
    assert in_int8["mes"] == pytest.approx(4 * in_float["mes"]), "activations alone"
    assert in_int8["num_params"] == in_float["num_params"] and in_int8["macs"] == in_float["macs"]


def test_limits_that_can_be_met() -> None:
    check_limits(costs({}))
    check_limits(costs({"num_params": SMALLEST["num_params"]}))
    check_limits(costs({"num_params": SMALLEST["num_params"], "latency_ms": 1e-9}))  # without a table it is not known


def test_a_limit_below_all() -> None:
    smallest = f"of at most 9, the smallest is {SMALLEST['num_params']}; no network has macs .*; raise --max-params"
    with pytest.raises(UserError, match=smallest):
        check_limits(costs({"num_params": 9, "macs": 9}))


def test_the_smallest_network_need_not_be_the_fastest() -> None:
    """A device that is slow for narrow last stages: its least latency is below that of the smallest network."""

    def latency(positions: np.ndarray) -> np.ndarray:
        return np.asarray(10.0 - positions[:, 3] + 0.1 * positions.sum(axis=1))

    def limited(**limits: float) -> Costs:
        found = costs(limits)
        found.metrics["latency_ms"] = latency
        return found

    least = float(latency(SPACE.encode([SPACE.smallest]))[0]) - 0.9
    check_limits(limited(latency_ms=least))
    with pytest.raises(UserError, match=f"no network has latency_ms of at most .*, the smallest is {least:.6g}"):
        check_limits(limited(latency_ms=least - 0.01))
    check_limits(limited(**SMALLEST))
    with pytest.raises(UserError, match=r"within all limits at once, the nearest has latency_ms of .* \(limit"):
        check_limits(limited(latency_ms=least, **SMALLEST))


@pytest.mark.parametrize("only", [("width",), ("present", "attention"), ("expansion",)])
def test_limits_are_those_of_what_only_leads_to(only: tuple[str, ...]) -> None:
    arch = SPACE.largest
    while actions := [action for action in SPACE.slim(arch) if action.field in only]:
        arch = actions[0].arch
    least, flags = num_params(SPACE, arch), " ".join(only)
    assert least > SMALLEST["num_params"]
    check_limits(costs({"num_params": least}), only)
    check_limits(costs({"num_params": least - 1}))
    with pytest.raises(UserError, match=f"no network that --only {flags} leads to has num_params of at most"):
        check_limits(costs({"num_params": least - 1}), only)


def test_limits_of_a_large_space() -> None:
    space = get_space("efficientformerv2")
    with pytest.raises(UserError, match="no network has macs of at most 100000, the smallest is ") as refused:
        check_limits(costs({"num_params": 1e6, "macs": 1e5}, space))
    nearest = float(re.findall(r"the smallest is (\S+);", str(refused.value))[0])
    assert nearest < 1.00001 * Costs(space, {}, costs({}).objective).one(space.smallest)["macs"]
    check_limits(costs({"macs": nearest}, space))  # what the message names is met


def test_values_are_rounded_up() -> None:
    assert [rounded_up(v) for v in (200, 0.1234561, 55037600.5)] == ["200", "0.123457", "55037700"]
