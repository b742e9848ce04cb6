"""What is said before a training has ended."""

from __future__ import annotations

from nas.training.progress import forecast


def test_a_forecast_is_of_what_is_left_and_of_what_follows() -> None:
    whole = forecast("supernet tiny", 0, 120, 12, 1275)
    assert (whole.what, whole.steps) == ("supernet tiny: 12 epochs of 1,275 images", 120)
    rest = forecast("tiny winner-1", 90, 120, 12, 1275, (0.5, 0.25))
    assert (
        rest.what
        == "tiny winner-1: the last 3 of 12 epochs of 1,275 images, and as many of each network that follows (2)"
    )
    assert rest.steps == 30 + 0.75 * 120
