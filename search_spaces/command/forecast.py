"""How long a long job will take: said once, on standard error, as soon as its first steps are timed."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from tqdm import tqdm

LEAST_STEPS, LEAST_S = 3, 3.0  # timed, after the first step, which allocates and compiles
WORTH_SAYING_S = 10.0


class Forecast:
    """
    Args:
        what: is to be done, as in "12 epochs of 1,275 images".
        steps: that are left of it, about equally long.
        now_s: a clock.
    """

    def __init__(self, what: str, steps: float, now_s: Callable[[], float] = time.monotonic) -> None:
        self.what, self.steps, self.now_s = what, steps, now_s
        self._begun_s: float | None = None  # after the first step; None again once all is said
        self._timed: float | None = None  # steps since then

    def update(self, steps: float = 1) -> None:
        """To be called after so many steps."""
        if self._timed is None:
            self._begun_s, self._timed = self.now_s(), 0.0
        elif self._begun_s is not None:
            self._timed += steps
            took_s = self.now_s() - self._begun_s
            if self._timed >= LEAST_STEPS and took_s >= LEAST_S:
                self._begun_s = None
                say_time(self.what, self.steps * took_s / self._timed)


def say_time(what: str, seconds: float) -> None:
    """A line on standard error, unless it is over before anybody has read that."""
    if seconds >= WORTH_SAYING_S:
        tqdm.write(f"{what}: about {duration(seconds)}", file=sys.stderr)


def duration(seconds: float) -> str:
    """In two digits: 40 seconds, 8 minutes, 2.5 hours."""
    if seconds < 90:
        return f"{10 * round(seconds / 10)} seconds"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} minutes"
    return f"{seconds / 3600:.1f} hours"
