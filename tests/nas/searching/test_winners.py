from __future__ import annotations

from typing import Any

import pytest

from nas.objective.mes import Objective, Term
from nas.searching.winners import pick_winners
from search_spaces import UserError


def point(step: int, accuracy: float, mes: float, num_params: int) -> dict[str, Any]:
    return {"step": step, "accuracy": accuracy, "mes": mes, "num_params": num_params, "latency_ms": 1.0, "pareto": True}


TRAJECTORY = [point(i, 0.9 - 0.05 * i, 100 * 2.0**i, 1000 - 100 * i) for i in range(9)]


def objective(**limits: float) -> Objective:
    return Objective((Term("num_params", 3e6, 1.0),), limits)


def steps(winners: list[dict[str, Any]]) -> list[int]:
    return [w["step"] for w in winners]


def test_winners_are_spread_over_the_front() -> None:
    assert steps(pick_winners(TRAJECTORY, objective(), None, 3)) == [0, 4, 8]
    assert steps(pick_winners(TRAJECTORY, objective(), None, 1)) == [0]
    assert steps(pick_winners(TRAJECTORY, objective(), None, 100)) == list(range(9))


def test_winners_are_within_the_limits() -> None:
    assert steps(pick_winners(TRAJECTORY, objective(num_params=600), None, 2)) == [4, 8]
    assert steps(pick_winners(TRAJECTORY, objective(), 0.8, 2)) == [0, 2]
    assert steps(pick_winners(TRAJECTORY, objective(num_params=900), 0.7499, 9)) == [1, 2, 3]


def test_dominated_networks_do_not_win() -> None:
    dominated = [{**p, "accuracy": 0.5, "pareto": False} if p["step"] == 4 else p for p in TRAJECTORY]
    assert steps(pick_winners(dominated, objective(), None, 99)) == [0, 1, 2, 3, 5, 6, 7, 8]


def test_a_network_that_only_one_outside_the_limits_dominates_may_win() -> None:
    large = {**point(9, 0.95, 1e6, 2000), "latency_ms": 0.1}
    within = [{**p, "pareto": False} for p in TRAJECTORY]
    assert steps(pick_winners([*within, large], objective(), None, 99)) == [9]
    assert steps(pick_winners([*within, large], objective(num_params=1500), None, 99)) == list(range(9))


def test_limits_that_no_network_meets() -> None:
    with pytest.raises(
        UserError, match=r"no network found reaches accuracy 0\.95; the best within the limits has 0\.9000"
    ):
        pick_winners(TRAJECTORY, objective(), 0.95, 3)
    odd = [{**p, "accuracy": 0.81236} for p in TRAJECTORY]
    with pytest.raises(UserError, match=r"the best within the limits has 0\.8123$"):  # which is reached
        pick_winners(odd, objective(), 0.9, 3)
    with pytest.raises(UserError, match=r"reaches accuracy 0\.8; the best within the limits has 0\.6500"):
        pick_winners(TRAJECTORY, objective(num_params=500), 0.8, 3)
    with pytest.raises(
        UserError, match="no network found has num_params of at most 100, the smallest has 200; search on"
    ):
        pick_winners(TRAJECTORY, objective(num_params=100), None, 3)
