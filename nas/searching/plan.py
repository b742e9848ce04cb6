"""What a search evaluates where it is not told: so much that it ends within minutes, by the speed measured here.

Slimming, the published search, on all search images if that takes `MINUTES` at most; else `predictor`, on all or as
many as there is time for: with 150 networks it found the hypervolume that slimming has with 769
(docs/results-archive.md). So has a budget that ends slimming before its last step.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields
from functools import reduce
from operator import add
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from nas import runs
from nas.objective.costs import Costs
from nas.objective.figure import classifies
from nas.objective.precisions import Precision
from nas.searching.samplers import draw
from nas.searching.strategies import default_budget
from search_spaces import Arch, SearchSpace
from search_spaces.command import Flags, amend, flag, given
from search_spaces.command.forecast import Forecast, duration

if TYPE_CHECKING:
    from nas.evaluation.speed import Speed

MINUTES = 10.0
FEWEST_IMAGES = 500  # two standard errors of an accuracy are at most 4.5 points, of a difference far less
FEWER_CALIBRATION = 512
# Of a slimming's image-forwards, each action evaluated alone: what shared beginnings leave, and what races leave of
# that (docs/results-archive.md).
SHARED, RACED = 0.48, 0.30
TIMED = 2  # random networks whose speed is measured, beside the largest and the smallest


@dataclass(frozen=True)
class PlanConfig(Flags):
    """How much a search evaluates."""

    strategy: Literal["slimming", "random", "nsga2", "tpe", "gp", "predictor"] | None = flag(
        None,
        f"how to search (default: slimming, as published, if that takes {MINUTES:g} minutes at most and --budget does "
        "not end it, else predictor)",
    )
    budget: int | None = flag(
        None,
        "networks to evaluate (default: 150 by predictor, 500 by others; slimming ends by itself, or after the step "
        "that reaches it)",
        minimum=1,
    )
    exact: bool = flag(False, "slimming evaluates every action on all images, also those that cannot win")
    only: tuple[str, ...] = flag(
        (), "fields of choices that slimming may shrink, of those that python -m search_spaces shows (default: all)"
    )
    num_images: int | None = flag(
        None,
        f"images of the search split to evaluate on (default: all, or as many as {MINUTES:g} minutes are enough for, "
        f"{FEWEST_IMAGES} at least)",
        minimum=1,
    )
    calibration_images: int | None = flag(
        None,
        "training images that each network's norms are recalibrated on, 0: none (default: if norms are shared 2048, "
        f"fewer above 128 px, or {FEWER_CALIBRATION} where {MINUTES:g} minutes are too few)",
        minimum=0,
    )


AnyConfig = TypeVar("AnyConfig", bound=PlanConfig)


@dataclass(frozen=True)
class Plan:
    """
    Args:
        networks: whose evaluations by themselves would take as long as the search does.
    """

    strategy: str
    budget: int | None
    networks: float
    num_images: int
    calibration_images: int

    def seconds(self, speed: Speed) -> float:
        calibration_s = self.calibration_images * speed.calibration_s + speed.ranges_s
        return self.networks * (self.num_images * speed.evaluation_s + calibration_s)


def as_planned(config: AnyConfig, begun: AnyConfig) -> AnyConfig:
    """The config of a resumed search, with what it was begun with in place of what it does not say.

    A budget of "none" is said: the default of the strategy.
    """
    names = [f.name for f in fields(PlanConfig) if getattr(config, f.name) is None and f.name not in given(config)]
    config = amend(config, **{name: getattr(begun, name) for name in names})
    if config.budget is None and config.strategy not in (None, "slimming"):
        config = amend(config, budget=default_budget(str(config.strategy)))
    return config


def with_plan(
    config: AnyConfig, run_folder: Path, costs: Costs, device: str, precisions: Collection[Precision]
) -> AnyConfig:
    """The config with what it does not say; a line says what that is, and how long it will take in all precisions."""
    from nas.distributed.device import pick_device
    from nas.evaluation.speed import measure_speed
    from nas.networks.inherit import calibration_count, load_supernet

    splits, space = runs.load_run_info(run_folder).splits, costs.space
    supernet = load_supernet(run_folder, pick_device(device))
    calibration = min(calibration_count(supernet, config.calibration_images), splits.train)
    archs = [space.largest, space.smallest, *draw(costs, random.Random(0), TIMED, ())]
    speed = reduce(add, (measure_speed(supernet, archs, precision) for precision in precisions))
    published, plan = plans(config, space, speed, splits.search, calibration)
    each = f" in each of {' and '.join(precisions)}" if len(precisions) > 1 else ""
    print(_told(plan, published, speed, splits.search, each), flush=True)
    found: dict[str, Any] = {"strategy": plan.strategy, "budget": plan.budget}
    if plan.num_images < splits.search:
        found["num_images"] = plan.num_images
    if plan.calibration_images < calibration:
        found["calibration_images"] = plan.calibration_images
    return amend(config, **found)


def forecast(config: PlanConfig, costs: Costs, known: Sequence[Arch]) -> Forecast:
    """Of a search that goes on, or by workers, where no speed is measured.

    Args:
        known: evaluated already; those beyond limits, which may be others by now, save slimming alone time.
    """
    if config.strategy == "slimming":
        asked, saved = int(slimmed(config, costs.space)), len(known)
    else:
        asked, saved = config.budget or 0, int(costs.within(costs.space.encode(known)).sum()) if known else 0
    left = max(0, min(asked, config.budget or asked) - saved)
    return Forecast(f"{config.strategy}, {left} networks more", left)


def plans(
    config: PlanConfig, space: SearchSpace, speed: Speed, search_images: int, calibration_images: int
) -> tuple[Plan, Plan]:
    """What would be without regard to time, and what is to be: the same where that takes `MINUTES` at most."""
    images = min(config.num_images or search_images, search_images)
    whole = [
        Plan(strategy, *_networks(config, strategy, space), images, calibration_images)
        for strategy in suited(config, space)
    ]
    in_time = next((plan for plan in whole if plan.seconds(speed) <= 60 * MINUTES), None)
    return whole[0], in_time or _smaller(config, whole[-1], speed)


def suited(config: PlanConfig, space: SearchSpace) -> tuple[str, ...]:
    """The strategies that go with what is given, the one to be taken if there is time for it first."""
    if config.strategy:
        return (config.strategy,)
    if config.exact or config.only:
        return ("slimming",)
    if config.budget and config.budget < slimmed(config, space):
        return ("predictor",)
    return ("slimming", "predictor")


def races(config: PlanConfig, space: SearchSpace) -> bool:
    """Whether the actions of a slimming step do: AP and mIoU are known only once all images have been seen."""
    return not config.exact and classifies(space.name)


def slimmed(config: PlanConfig, space: SearchSpace) -> float:
    """About how many networks slimming evaluates until nothing can be taken away."""
    shrinkable = [len(c.options) - 1 for c in space.choices if not config.only or c.field in config.only]
    # In a random order of all steps, a choice of m steps has its last after m / (m + 1) of them.
    return sum(shrinkable) * sum(steps / (steps + 1) for steps in shrinkable)


def _networks(config: PlanConfig, strategy: str, space: SearchSpace) -> tuple[int | None, float]:
    """The budget, and how many networks' evaluations it takes the time of."""
    if strategy != "slimming":
        budget = config.budget or default_budget(strategy)
        return budget, float(budget)
    actions = slimmed(config, space)
    return config.budget, min(actions, config.budget or actions) * (RACED if races(config, space) else SHARED)


def _smaller(config: PlanConfig, plan: Plan, speed: Speed) -> Plan:
    """On fewer images, where their number is not given, as far as that goes."""
    calibration, images = plan.calibration_images, plan.num_images
    if config.calibration_images is None:
        calibration = min(calibration, FEWER_CALIBRATION)
    if config.num_images is None:
        left_s = 60 * MINUTES / plan.networks - calibration * speed.calibration_s - speed.ranges_s
        images = min(images, max(FEWEST_IMAGES, int(left_s / speed.evaluation_s)))
    return Plan(plan.strategy, plan.budget, plan.networks, images, calibration)


def _told(plan: Plan, published: Plan, speed: Speed, search_images: int, each: str) -> str:
    networks = (f"{plan.budget} networks" if plan.budget else "all steps") + each
    count = f"{plan.num_images:,}" + (f" of {search_images:,}" if plan.num_images < search_images else "")
    norms = f", norms recalibrated on {plan.calibration_images:,}" if plan.calibration_images else ""
    told = f"{plan.strategy}, {networks} on {count} search images{norms}: about {duration(plan.seconds(speed))}"
    if plan == published:
        return told
    return (
        f"{told}, by the speed measured here; {published.strategy} on {published.num_images:,} would take "
        f"{duration(published.seconds(speed))}, and --strategy, --budget, --num-images and --calibration-images set it"
    )
