from __future__ import annotations

import pytest

from nas.objective.goals import Goals
from search_spaces.command import parse

TABLES = ("--table", "phone=p.json", "laptop=l.json")


@pytest.mark.parametrize(
    ("flags", "limits"),
    [
        ((*TABLES, "--max-latency-ms", "2", "laptop=none"), {"latency_ms_phone": 2.0}),
        ((*TABLES, "--max-latency-ms", "phone=1", "laptop=2", "--max-latency-ms=none"), {}),
        ((*TABLES, "--max-latency-ms", "none", "laptop=3"), {"latency_ms_laptop": 3.0}),
        (("--max-latency-ms", "2", "--max-latency-ms=None"), {}),
        (("--max-latency-ms", "2", "--max-params", "1e6", "--max-params", "none"), {"latency_ms": 2.0}),
    ],
)
def test_none_takes_back_the_limits_before_it(flags: tuple[str, ...], limits: dict[str, float]) -> None:
    """What `nas.search --resume --max-latency-ms none` adds to the command that it records says so when it is typed."""
    assert parse(Goals, flags, "prog", "").objective().limits == limits
