from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from nas.objective.mes import Objective, Term
from nas.searching.winners import pick_winners, recommend
from search_spaces import UserError

IMAGES = 1000


def point(step: int, accuracy: float, mes: float, num_params: int) -> dict[str, Any]:
    costs = {"mes": mes, "num_params": num_params, "latency_ms": 1.0}
    return {"step": step, "arch": {"step": step}, "accuracy": accuracy, **costs, "pareto": True}


def nested(points: Sequence[dict[str, Any]]) -> np.ndarray:
    """Each network is right about the images that a less accurate one is right about, and some more."""
    return np.stack([np.arange(IMAGES) < round(IMAGES * p["accuracy"]) for p in points])


def picked(points: list[dict[str, Any]], limits: Objective, least: float | None, count: int, **more: Any) -> list[int]:
    return [w["step"] for w in pick_winners(points, limits, least, count, nested, **more)]


TRAJECTORY = [point(i, 0.9 - 0.05 * i, 100 * 2.0**i, 1000 - 100 * i) for i in range(9)]


def objective(**limits: float) -> Objective:
    return Objective((Term("num_params", 3e6, 1.0),), limits)


def test_winners_are_the_most_accurate_and_what_dominates_most_beyond_it() -> None:
    assert picked(TRAJECTORY, objective(), None, 3) == [0, 4, 8]
    assert picked(TRAJECTORY, objective(), None, 1) == [0]
    assert picked(TRAJECTORY, objective(), None, 100) == list(range(9))
    heights = np.array([p["accuracy"] - 0.1 for p in TRAJECTORY])
    areas = {(i, j): heights[i] * i + heights[j] * (j - i) for i in range(1, 9) for j in range(i + 1, 9)}
    assert (0, *max(areas, key=lambda pair: areas[pair])) == tuple(picked(TRAJECTORY, objective(), None, 3, chance=0.1))


def test_a_slump_of_the_front_is_passed_over() -> None:
    """Once two winners cost the same and one was clearly worse, while a better network beside them was none."""
    front = [point(0, 0.82, 100, 9), point(1, 0.70, 200, 8), point(2, 0.69, 400, 7), point(3, 0.62, 404, 6)]
    assert picked(front, objective(), None, 4) == [0, 1, 2]
    assert picked(front, objective(), None, 2) == [0, 2]


def test_of_networks_within_noise_the_cheapest_wins() -> None:
    close = [point(0, 0.800, 100, 9), point(1, 0.799, 200, 8), point(2, 0.7, 800, 6)]
    assert picked(close, objective(), None, 3) == [1, 2]  # one image of 1,000 is no more than an error


def test_winners_differ_by_more_images_than_chance_explains() -> None:
    front = [point(0, 0.804, 100, 9), point(1, 0.800, 200, 8)]
    assert picked(front, objective(), None, 2) == [0, 1]  # 4 images, all to the better: an error is 2

    def others(points: Sequence[dict[str, Any]]) -> np.ndarray:
        """The first is right about 12 other images than the second, and wrong about 8."""
        first = nested(points)
        first[0, :8], first[0, 804:812] = False, True
        return first

    assert [w["step"] for w in pick_winners(front, objective(), None, 2, others)] == [1]


def test_under_limits_the_most_accurate_network_within_them_wins() -> None:
    close = [point(0, 0.800, 100, 9), point(1, 0.799, 200, 8), point(2, 0.7, 800, 6)]
    assert picked(close, objective(), None, 2) == [1, 2]
    assert picked(close, objective(num_params=10), None, 2) == [0, 2]
    assert picked(close, objective(num_params=10), None, 1) == [0]


def test_what_stands_beside_the_winners_is_none_of_them() -> None:
    assert picked(TRAJECTORY, objective(), None, 2, beside={"step": 0}) == [1, 8]
    assert picked(TRAJECTORY[:1], objective(), None, 2, beside={"step": 0}) == [0]


# ---- which one to take


def named(*numbers: int) -> list[dict[str, Any]]:
    return [{**TRAJECTORY[i], "name": f"w{i}"} for i in numbers]


def test_the_cheapest_that_is_not_told_to_be_less_accurate_is_recommended() -> None:
    same = [{**p, "accuracy": 0.899} if p["step"] == 3 else p for p in TRAJECTORY]
    found = recommend(
        [{**same[1], "name": "w1"}, {**same[3], "name": "w3"}, *named(8)], same, objective(), nested, 1000
    )
    assert found["name"] == "w3"
    assert found["sentence"] == (
        "Take w3: it has 0.70 of the parameters of the most accurate network found, and is not told to be less "
        "accurate: it loses 0.1 points (95 %: 0.0 to 0.3, on the same 1,000 search images)."
    )


def test_all_winners_may_be_told_to_be_less_accurate() -> None:
    found = recommend(named(1, 8), TRAJECTORY, objective(), nested, 1000)
    assert found["name"] == "w1" and "and loses 5.0 points (95 %: 3.7 to 6.4" in found["sentence"]


def test_under_limits_the_most_accurate_winner_is_recommended() -> None:
    found = recommend(named(2, 8), TRAJECTORY, objective(num_params=850), nested, 1000)
    assert found == {"name": "w2", "sentence": "Take w2: it is the most accurate network found within the limits."}


# ---- limits


def test_winners_are_within_the_limits() -> None:
    assert picked(TRAJECTORY, objective(num_params=600), None, 2) == [4, 8]
    assert picked(TRAJECTORY, objective(), 0.8, 2) == [0, 2]
    assert picked(TRAJECTORY, objective(num_params=900), 0.7499, 9) == [1, 2, 3]


def test_dominated_networks_do_not_win() -> None:
    dominated = [{**p, "accuracy": 0.5, "pareto": False} if p["step"] == 4 else p for p in TRAJECTORY]
    assert picked(dominated, objective(), None, 99) == [0, 1, 2, 3, 5, 6, 7, 8]


def test_a_network_that_only_one_outside_the_limits_dominates_may_win() -> None:
    large = {**point(9, 0.95, 1e6, 2000), "latency_ms": 0.1}
    within = [{**p, "pareto": False} for p in TRAJECTORY]
    assert picked([*within, large], objective(), None, 99) == [9]
    assert picked([*within, large], objective(num_params=1500), None, 99) == list(range(9))


def test_limits_that_no_network_meets() -> None:
    with pytest.raises(
        UserError, match=r"no network found reaches accuracy 0\.95; the best within the limits has 0\.9000"
    ):
        picked(TRAJECTORY, objective(), 0.95, 3)
    odd = [{**p, "accuracy": 0.81236} for p in TRAJECTORY]
    with pytest.raises(UserError, match=r"the best within the limits has 0\.8123$"):  # which is reached
        picked(odd, objective(), 0.9, 3)
    with pytest.raises(UserError, match=r"reaches accuracy 0\.8; the best within the limits has 0\.6500"):
        picked(TRAJECTORY, objective(num_params=500), 0.8, 3)
    with pytest.raises(
        UserError, match="no network found has num_params of at most 100, the smallest has 200; search on"
    ):
        picked(TRAJECTORY, objective(num_params=100), None, 3)
