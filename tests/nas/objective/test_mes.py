from __future__ import annotations

import json
import math

import numpy as np
import pytest
import timm
import torch

from nas.objective.mes import PUBLISHED, Objective, Term, pareto
from nas.objective.metrics import METRICS
from nas.objective.precisions import ACTIVATION_BYTES
from search_spaces import UserError
from tests.contracts.memory import traced_peak


@pytest.mark.parametrize(
    ("latency_ms", "num_params", "mes"),
    [(0.9, 3.5e6, 102.9), (1.1, 6.1e6, 63.8), (1.6, 12.6e6, 30.5), (2.7, 26.1e6, 12.6)],
)
def test_scores_of_the_published_networks(latency_ms: float, num_params: float, mes: float) -> None:
    assert round(PUBLISHED.mes({"latency_ms": latency_ms, "num_params": num_params}), 1) == mes


def test_the_unit_of_memory_is_mobilenetv2s() -> None:
    model = timm.create_model("mobilenetv2_100").eval()
    peak_mb = ACTIVATION_BYTES["float32"] * traced_peak(model, torch.zeros(1, 3, 224, 224)) / 1e6
    assert peak_mb == pytest.approx(6.0, rel=0.01)


def test_json_round_trip() -> None:
    limited = Objective(PUBLISHED.terms, {"memory_mb": 1.5})
    assert Objective.from_json(json.loads(json.dumps(limited.to_json()))) == limited
    assert limited.formula == "100 · (latency / 1 ms)^-1 · (parameters / 3 M)^-0.5"


def test_the_unit_scores_100() -> None:
    assert PUBLISHED.mes({metric.key: metric.unit for metric in METRICS.values()}) == 100


def test_alpha_0_removes_a_metric() -> None:
    with_zero = Objective((Term("latency_ms", 1.0, 1.0), Term("num_params", 3e6, 0.0)), limits={})
    assert with_zero.mes({"latency_ms": 0.5}) == Objective((Term("latency_ms", 1.0, 1.0),), {}).mes({"latency_ms": 0.5})


def test_every_metric_lowers_the_score_by_the_power_of_its_alpha() -> None:
    base = {"latency_ms": 0.7, "num_params": 2e6}
    for term in PUBLISHED.terms:
        worse = {**base, term.metric: 2 * base[term.metric]}
        assert math.isclose(PUBLISHED.mes(worse), PUBLISHED.mes(base) / 2**term.alpha)


def test_many_archs_score_as_each_alone() -> None:
    rng = np.random.default_rng(0)
    metrics = {"latency_ms": rng.uniform(0.1, 5, 1000), "num_params": rng.uniform(1e5, 3e7, 1000)}
    alone = [PUBLISHED.mes({name: values[i] for name, values in metrics.items()}) for i in range(1000)]
    np.testing.assert_allclose(PUBLISHED.mes(metrics), alone, rtol=1e-13)  # NumPy's vectors round powers their own way


def test_limits_include_their_value() -> None:
    limited = Objective(PUBLISHED.terms, {"latency_ms": 1.0, "num_params": 3e6})
    assert limited.feasible({"latency_ms": 1.0, "num_params": 3e6})
    assert not limited.feasible({"latency_ms": 1.0000001, "num_params": 3e6})
    assert not limited.feasible({"latency_ms": 1.0, "num_params": 3e6 + 1})


@pytest.mark.parametrize("alpha", [-0.1, math.nan, math.inf])
def test_a_bad_alpha_is_refused(alpha: float) -> None:
    with pytest.raises(UserError, match="alpha of latency_ms"):
        Term("latency_ms", 1.0, alpha)


@pytest.mark.parametrize("unit", [0.0, -1.0, math.nan, math.inf])
def test_a_bad_unit_is_refused(unit: float) -> None:
    with pytest.raises(UserError, match="unit of latency_ms"):
        Term("latency_ms", unit, 1.0)


def test_a_score_of_nothing_is_refused() -> None:
    with pytest.raises(UserError, match="every alpha is 0"):
        Objective((Term("latency_ms", 1.0, 0.0),), {})


@pytest.mark.parametrize("objectives", [1, 2, 3])
def test_pareto_set_against_brute_force(objectives: int) -> None:
    rng = np.random.default_rng(objectives)
    for _ in range(50):
        points = rng.integers(0, 6, (30, objectives)).astype(float)  # few values, so that there are ties
        expected = []
        for p in points:
            dominated = False
            for q in points:
                if all(b >= a for a, b in zip(p, q, strict=True)) and any(b > a for a, b in zip(p, q, strict=True)):
                    dominated = True
            expected.append(not dominated)
        assert pareto(points).tolist() == expected
