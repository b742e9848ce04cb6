from __future__ import annotations

import numpy as np
import pytest

from nas.data.drawing import MAX_SEARCH_IMAGES, draw, draw_plainly, sizes


def counts(labels: np.ndarray, part: np.ndarray) -> list[int]:
    return np.bincount(labels[part], minlength=labels.max() + 1).tolist()


def test_classes_have_their_share_of_every_split() -> None:
    labels = np.repeat([0, 1, 2], [100, 50, 20])
    drawn = draw(labels, np.arange(170), 17, 34, seed=0)
    assert counts(labels, drawn.test) == [20, 10, 4]
    assert counts(labels, drawn.search) == [10, 5, 2]
    assert sorted(np.concatenate(drawn)) == list(range(170))


@pytest.mark.parametrize("seed", range(3))
def test_every_class_keeps_images_to_train_on(seed: int) -> None:
    labels = np.repeat(np.arange(300), np.random.default_rng(seed).integers(1, 4, 300))
    num_search, num_test = sizes(len(labels), 0.4, 0.4)
    drawn = draw(labels, np.arange(len(labels)), num_search, num_test, seed)
    assert min(counts(labels, drawn.train)) >= 1
    assert len(drawn.test) == num_test
    assert sorted(np.concatenate(drawn)) == list(range(len(labels)))


def test_groups_stay_together_near_the_sizes_wanted() -> None:
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(200), rng.integers(1, 12, 200))
    labels = groups % 4
    groups = rng.permutation(1000)[groups]  # any numbers
    num_search, num_test = sizes(len(labels), 0.2, 0.15)
    drawn = draw(labels, groups, num_search, num_test, seed=1)
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert not set(groups[drawn[one]]) & set(groups[drawn[other]])
    assert abs(len(drawn.test) - num_test) < 12 and abs(len(drawn.search) - num_search) < 12
    assert min(counts(labels, drawn.train)) > 0


def test_few_large_groups_are_shared_out_over_the_classes() -> None:
    """Two objects a class: no class can give a share of 20 %, but some can give an object."""
    labels = np.repeat(np.arange(10), 100)
    drawn = draw(labels, np.arange(1000) // 50, 120, 200, seed=0)
    assert len(drawn.test) == 200 and len(drawn.search) in (100, 150)
    assert min(counts(labels, drawn.train)) >= 50


def test_a_group_of_two_classes_counts_for_the_rarer_one() -> None:
    labels = np.array([0] * 50 + [1])
    groups = np.array([*range(50), 7])  # the only image of class 1 is a copy of one of class 0
    for seed in range(20):
        drawn = draw(labels, groups, 8, 10, seed)
        assert {7, 50} <= set(drawn.train)


def test_the_draw_follows_from_the_seed_and_not_from_the_numbers_of_groups() -> None:
    labels = np.arange(100) % 5
    first = draw(labels, np.arange(100), 12, 20, seed=0)
    assert all((a == b).all() for a, b in zip(first, draw(labels, np.arange(100) * 3, 12, 20, seed=0), strict=True))
    assert set(first.test) != set(draw(labels, np.arange(100), 12, 20, seed=1).test)


def test_sizes_and_the_plain_draw() -> None:
    assert sizes(1797, 0.2, 0.15) == (216, 359)
    assert sizes(1_000_000, 0.0, 0.15) == (MAX_SEARCH_IMAGES, 0)
    drawn = draw_plainly(20, 3, 4, seed=5)
    order = np.random.default_rng(5).permutation(20)
    assert (np.concatenate([drawn.test, drawn.search, drawn.train]) == order).all()
    assert (len(drawn.test), len(drawn.search)) == (4, 3)


def test_nothing_to_draw_from() -> None:
    assert [len(part) for part in draw(np.zeros(0, int), np.zeros(0, int), 0, 0, 0)] == [0, 0, 0]
