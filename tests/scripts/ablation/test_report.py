"""What the ablations' page and Markdown say of a result."""

from __future__ import annotations

from typing import Any

from nas.evaluation.intervals import interval
from nas.objective.mes import PUBLISHED
from scripts.ablation.report import ablations_page, figure_1, figure_2, markdown


def point(accuracy: float, **more: Any) -> dict[str, Any]:
    costs = {"num_params": 2e6 * accuracy, "latency_ms": 1.5 * accuracy, "mes": 100 / accuracy}
    return {**costs, "accuracy": accuracy, **more}


RESULT: dict[str, Any] = {
    "command": "python -m scripts.ablations --run r",
    "space": "tiny",
    "objective": PUBLISHED.to_json(),
    "num_images": {"search": 400, "test": 100},
    "levels": [point(0.7)],
    "table5": [point(0.7, level=0, method="joint", retrained=0.8)],
    "table6": [point(0.7, level=0, alphas=(1.0, 0.5))],
    "curves": {"joint": [point(0.8), point(0.6)], "depth and width": [point(0.8), point(0.5)]},
    "random": [point(0.5, level=0)],
}


def test_accuracies_have_intervals_of_as_many_images_as_they_are_of() -> None:
    told = markdown(RESULT)
    assert "| 70.0 (60–78) | 80.0 (71–87) |" in told and told.count("70.0 (60–78)") == 2
    for figure, count in ((figure_1(RESULT), 400), (figure_2(RESULT), 100)):
        for trace in figure.data:
            low, high = interval(trace.y[0] / 100, count)
            assert abs(trace.y[0] + trace.error_y.array[0] - 100 * high) < 1e-9
            assert abs(trace.y[0] - trace.error_y.arrayminus[0] - 100 * low) < 1e-9


def test_the_page_says_what_its_words_and_whiskers_are_and_how_it_was_made() -> None:
    page = ablations_page(RESULT)
    assert "Joint: " in page and "100 test images" in page and RESULT["command"] in page
