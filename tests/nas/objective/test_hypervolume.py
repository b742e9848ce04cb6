"""The dominated area against brute force, Optuna's public figure and cases by hand."""

from __future__ import annotations

import numpy as np
import pytest

from nas.objective.hypervolume import Progress, hypervolume_history

ORIGIN = np.zeros(2)


def on_grid(points: np.ndarray, reference: np.ndarray, cells: int) -> float:
    """The area of the unit cells that a point dominates; exact for points of whole numbers."""
    centers = np.stack(np.meshgrid(*[np.arange(cells) + 0.5] * 2), axis=-1).reshape(-1, 1, 2)
    return float(np.sum(np.any(np.all(points >= centers, axis=2), axis=1) & np.all(centers[:, 0] > reference, axis=1)))


@pytest.mark.parametrize("seed", range(5))
def test_area_is_that_of_the_grid(seed: int) -> None:
    points = np.random.default_rng(seed).integers(-2, 12, (40, 2)).astype(float)  # with ties, repeats, some below
    reference = np.array([1.0, 2.0])
    history = hypervolume_history(points, reference)
    assert history.tolist() == [on_grid(points[: i + 1], reference, 12) for i in range(len(points))]


def test_area_does_not_depend_on_the_order() -> None:
    rng = np.random.default_rng(0)
    points = rng.random((200, 2))
    final = {hypervolume_history(rng.permutation(points), ORIGIN)[-1].round(12) for _ in range(5)}
    assert len(final) == 1


def test_area_is_optunas() -> None:
    optuna = pytest.importorskip("optuna")
    pytest.importorskip("plotly")
    points, reference = np.random.default_rng(1).random((60, 2)), np.array([0.2, 0.1])
    study = optuna.create_study(directions=["maximize", "maximize"])
    study.add_trials([optuna.trial.create_trial(values=values.tolist()) for values in points])
    with pytest.warns(optuna.exceptions.ExperimentalWarning):
        shown = optuna.visualization.plot_hypervolume_history(study, reference.tolist())
    assert hypervolume_history(points, reference) == pytest.approx(list(shown.data[0].y))


def test_what_is_not_above_the_reference_in_both_adds_nothing() -> None:
    points = np.array([[0.0, 5.0], [5.0, 0.0], [-3.0, 9.0], [-1.0, -1.0], [2.0, 3.0], [0.0, 9.0]])
    assert hypervolume_history(points, ORIGIN).tolist() == [0, 0, 0, 0, 6, 6]


def test_no_points() -> None:
    assert hypervolume_history(np.zeros((0, 2)), ORIGIN).tolist() == []


class TestProgress:
    #                     area          1          1 (dominated)  3           4
    points = np.array([[1.0, 1.0], [0.5, 1.0], [1.0, 3.0], [2.0, 1.0]])
    progress = Progress.of(points, np.array([1.0, 2.0, 3.0, 4.0]), ORIGIN)

    def test_it_is_a_step_function(self) -> None:
        assert self.progress.value.tolist() == [1, 1, 3, 4]
        assert self.progress.at(np.array([0.9, 1, 2.5, 3, 99])).tolist() == [0, 1, 1, 3, 4]
        assert self.progress.steps.tolist() == [1, 3, 4]
        assert self.progress.final == 4

    @pytest.mark.parametrize(("target", "spent"), [(0.5, 1), (1, 1), (1.1, 3), (3, 3), (3.5, 4), (4, 4), (4.001, None)])
    def test_reaches(self, target: float, spent: float | None) -> None:
        assert self.progress.reaches(target) == spent

    def test_steps_keep_the_end(self) -> None:
        assert Progress.of(np.array([[1.0, 1.0], [0.5, 0.5]]), np.array([1.0, 2.0]), ORIGIN).steps.tolist() == [1, 2]

    def test_an_equal_area_is_reached_whatever_the_order(self) -> None:
        rng = np.random.default_rng(0)
        points, spent = rng.random((100, 2)), np.arange(1.0, 101)
        target = Progress.of(points, spent, ORIGIN).final
        assert all(Progress.of(rng.permutation(points), spent, ORIGIN).reaches(target) for _ in range(20))

    def test_points_may_come_in_any_order_of_time(self) -> None:
        order = np.array([2, 0, 3, 1])
        shuffled = Progress.of(self.points[order], order + 1.0, ORIGIN)
        assert shuffled.value.tolist() == self.progress.value.tolist()
        assert shuffled.spent.tolist() == self.progress.spent.tolist()
