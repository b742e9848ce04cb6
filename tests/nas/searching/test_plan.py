from __future__ import annotations

from typing import Any

import pytest

from nas.evaluation.speed import Speed
from nas.searching.plan import FEWER_CALIBRATION, FEWEST_IMAGES, MINUTES, Plan, PlanConfig, as_planned, plans, slimmed
from search_spaces.command import parse
from tests.nas.tiny import tiny_space

SPACE = tiny_space()


def planned(speed: float, images: int = 7500, calibration: int = 2048, **given: Any) -> Plan:
    """With so many seconds an image, of either kind."""
    return plans(PlanConfig(**given), SPACE, Speed(speed, speed), images, calibration)[1]


def test_what_takes_minutes_is_the_published_search() -> None:
    plan = planned(1e-6)
    assert (plan.strategy, plan.budget, plan.num_images, plan.calibration_images) == ("slimming", None, 7500, 2048)


def test_slimming_counts_the_actions_of_all_its_steps() -> None:
    sizes = [len(choice.options) - 1 for choice in SPACE.choices]
    exact = planned(1e-9, exact=True).networks / 0.48
    assert sum(sizes) <= exact <= sum(sizes) * len(sizes)
    assert planned(1e-9, only=("width",)).networks < planned(1e-9).networks
    assert planned(1e-9, strategy="slimming", budget=10).networks == pytest.approx(3)


def test_a_budget_that_would_end_slimming_is_a_predictors() -> None:
    """Also where there is time for more."""
    actions = int(slimmed(PlanConfig(), SPACE))
    assert planned(1e-9, budget=actions).strategy == "predictor"
    assert planned(1e-9, budget=actions + 1).strategy == "slimming"
    for given in ({"exact": True}, {"only": ("width",)}, {"strategy": "slimming"}):
        assert planned(1e-9, budget=10, **given).strategy == "slimming"


def test_what_would_take_longer_is_a_predictors_search_on_as_many_images_as_there_is_time_for() -> None:
    speed = 2e-3  # 150 networks on all images: 48 minutes
    plan = planned(speed, budget=150, strategy="predictor")
    assert (plan.strategy, plan.budget, plan.calibration_images) == ("predictor", 150, FEWER_CALIBRATION)
    assert FEWEST_IMAGES < plan.num_images < 7500
    assert 0.99 * 60 * MINUTES < plan.seconds(Speed(speed, speed)) <= 60 * MINUTES
    assert planned(1.0).num_images == FEWEST_IMAGES
    assert planned(1.0, images=225).num_images == 225
    assert planned(1.0, calibration=0).calibration_images == 0


def test_what_is_given_stays() -> None:
    given: dict[str, Any] = {"strategy": "nsga2", "budget": 400, "num_images": 6000, "calibration_images": 1000}
    assert planned(1.0, calibration=1000, **given) == Plan("nsga2", 400, 400.0, 6000, 1000)
    assert planned(1.0, exact=True).strategy == "slimming"
    assert planned(1.0, num_images=300).num_images == 300
    assert planned(1.0, images=225, num_images=300).num_images == 225


@pytest.mark.parametrize(
    ("strategy", "flags", "budget"),
    [
        ("slimming", ("--budget", "none"), None),
        ("predictor", ("--budget", "none"), 150),
        ("random", ("--budget", "none"), 500),
        ("random", ("--budget", "200"), 200),
        ("slimming", (), 100),
    ],
)
def test_a_resumed_search_takes_its_budget_back_by_none(strategy: Any, flags: tuple[str, ...], budget: int) -> None:
    begun = PlanConfig(strategy=strategy, budget=100, num_images=600)
    config = as_planned(parse(PlanConfig, flags, "prog", ""), begun)
    assert (config.strategy, config.budget, config.num_images) == (strategy, budget, 600)
