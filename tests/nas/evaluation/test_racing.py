"""Races of invented networks: each image's margin moves by a normal step, of a size and a mean of each action."""

from __future__ import annotations

import numpy as np
import pytest

from nas.evaluation.racing import Finish, Outcomes, Race

NUM_IMAGES = 600


def outcomes(margins: np.ndarray) -> Outcomes:
    return Outcomes(margins > 0, margins.astype(np.float32))


def invented(seed: int, actions: int = 12) -> tuple[Outcomes, list[Outcomes], np.ndarray]:
    """A base, in the order of a race, its actions and their gains."""
    rng = np.random.default_rng(seed)
    base = rng.normal(1, 2, NUM_IMAGES)
    base = base[np.argsort(np.abs(base))]
    sizes, means = rng.uniform(0.01, 0.5, actions), rng.normal(0, 0.1, actions)
    moved = [base + rng.normal(mean * size, size, NUM_IMAGES) for size, mean in zip(sizes, means, strict=True)]
    return outcomes(base), [outcomes(margins) for margins in moved], rng.uniform(1, 30, actions)


def run(race: Race, actions: list[Outcomes]) -> list[Finish]:
    while images := race.ahead():
        for i in race.running:
            race.see(i, actions[i][images])
        race.drop()
    return race.finishes()


def winner(finishes: list[Finish], base: Outcomes, gains: np.ndarray) -> int:
    accuracy = base.correct.mean()
    return min(
        (i for i, finish in enumerate(finishes) if not finish.dropped),
        key=lambda i: ((accuracy - finishes[i].accuracy) / gains[i], i),
    )


def exact(actions: list[Outcomes]) -> list[Finish]:
    return [Finish(float(a.correct.mean()), NUM_IMAGES) for a in actions]


def almost(actions: list[Outcomes], seed: int) -> list[Outcomes]:
    """Networks that are wrong about few of the outcomes."""
    rng = np.random.default_rng(seed)
    return [outcomes(a.margins + rng.normal(0, 0.01, NUM_IMAGES)) for a in actions]


@pytest.mark.parametrize("rough", [False, True])
def test_a_race_is_won_by_the_action_that_wins_on_all_images(rough: bool) -> None:
    same, seen = [], []
    for seed in range(100):
        base, actions, gains = invented(seed)
        race = Race(base, gains.tolist(), rough)
        if rough:
            run(race, almost(actions, seed))
            race.lead()
            (leader,) = race.running
            assert run(race, actions)[leader].led
            race.follow()
        finishes = run(race, actions)
        assert sum(finish.led for finish in finishes) == rough
        same.append(winner(finishes, base, gains) == winner(exact(actions), base, gains))
        seen += [f.images_seen for f in finishes]
        for finish, action in zip(finishes, actions, strict=True):
            assert finish.dropped == (finish.images_seen < NUM_IMAGES)
            assert finish.dropped or finish.accuracy == action.correct.mean()
            assert (finish.rough_images_seen > 0) == rough
    assert np.mean(same) >= 0.95
    assert np.mean(seen) < 0.4 * NUM_IMAGES
    assert not rough or np.mean(np.array(seen) == 0) > 0.6


def test_an_estimate_leaves_the_images_not_seen_as_they_were() -> None:
    base, actions, gains = invented(0)
    finishes = run(Race(base, gains.tolist()), actions)
    dropped = [(f, a) for f, a in zip(finishes, actions, strict=True) if f.dropped]
    assert dropped
    for finish, action in dropped:
        right = action.correct[: finish.images_seen].sum() + base.correct[finish.images_seen :].sum()
        assert finish.accuracy == right / NUM_IMAGES


def test_equal_actions_are_not_told_apart() -> None:
    base, actions, gains = invented(1)
    best = winner(exact(actions), base, gains)
    twice, both = [*actions, actions[best]], [*gains, gains[best]]
    finishes = run(Race(base, both), twice)
    assert not finishes[best].dropped and finishes[best] == finishes[-1]
    assert any(finish.dropped for finish in finishes)


def test_an_action_alone_finishes() -> None:
    base, actions, _ = invented(2, actions=1)
    assert run(Race(base, [3.0]), actions) == exact(actions)


def test_a_rough_race_ends_with_one_action_and_decides_nothing_else() -> None:
    base, actions, _ = invented(3, actions=2)
    rng = np.random.default_rng(0)
    bad = outcomes(base.margins - np.abs(rng.normal(2, 0.1, NUM_IMAGES)))
    race = Race(base, [1.0, 1.0], rough=True)
    run(race, [actions[0], bad])
    race.lead()
    assert race.running == [0]
    run(race, [actions[1], bad])  # what the action itself does counts
    race.follow()
    assert not race.running
    good, other = run(race, [])
    assert good.accuracy == actions[1].correct.mean() and 0 < good.rough_images_seen < NUM_IMAGES
    assert other.dropped and other.images_seen == 0 and other.rough_images_seen == good.rough_images_seen


def test_fewer_images_than_a_look_needs() -> None:
    base, actions, gains = invented(4)
    few = slice(0, 20)
    finishes = run(Race(base[few], gains.tolist()), [a[few] for a in actions])
    assert [f.accuracy for f in finishes] == [a[few].correct.mean() for a in actions]
