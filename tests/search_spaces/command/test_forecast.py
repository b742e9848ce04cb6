"""How long a job takes is said once, from its first steps; by a clock of the tests' own."""

from __future__ import annotations

import pytest

from search_spaces.command.forecast import Forecast, duration, say_time


class Clock:
    """Goes on only when told to."""

    def __init__(self) -> None:
        self.s = 0.0

    def __call__(self) -> float:
        return self.s


def said(capsys: pytest.CaptureFixture[str], first_s: float, step_s: float, steps: int) -> list[str]:
    clock = Clock()
    forecast = Forecast("12 epochs of 1,275 images", steps, clock)
    for number in range(steps):
        clock.s += step_s if number else first_s
        forecast.update()
    output = capsys.readouterr()
    assert not output.out, "that is for results"
    return output.err.splitlines()


def test_a_long_job_says_how_long_it_takes_its_first_step_aside(capsys: pytest.CaptureFixture[str]) -> None:
    assert said(capsys, 60, 1, 480) == ["12 epochs of 1,275 images: about 8 minutes"]


@pytest.mark.parametrize(("step_s", "steps"), [(1, 3), (0.01, 200), (1.5, 5)])
def test_what_is_soon_over_says_nothing(capsys: pytest.CaptureFixture[str], step_s: float, steps: int) -> None:
    assert not said(capsys, 1, step_s, steps)


def test_steps_may_come_several_at_a_time(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    forecast = Forecast("timing 100 graphs", 4000, clock)
    for _ in range(5):
        clock.s += 5
        forecast.update(40)
    assert capsys.readouterr().err == "timing 100 graphs: about 8 minutes\n"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(42, "40 seconds"), (89, "90 seconds"), (91, "2 minutes"), (5000, "83 minutes"), (5400, "1.5 hours")],
)
def test_durations_have_two_digits(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_known_time_is_said_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    say_time("2 networks", 9)
    say_time("4 networks", 130)
    assert capsys.readouterr().err == "4 networks: about 2 minutes\n"
