from __future__ import annotations

from dataclasses import replace

import pytest

from nas.reporting.verdict import as_text, rows, rule, sentences, verdict
from nas.runs.baselines import Baselines
from tests.nas.synthetic_baselines import NARROWED, PRUNED, WHOLE, WINNER, baselines, network

SLOW = replace(WINNER, sessions_ms=(1.9, 2.01))  # as slow as the fine-tuned network, in one of its sessions
WORSE = network("winner-1", "winner", "winner-1", 0.78, 1.0)
SMALL = network("winner-2", "winner", "winner-2", 0.795, 0.8)
TINY = network("winner-3", "winner", "winner-3", 0.60, 0.2)
BETTER = replace(PRUNED, accuracy=replace(PRUNED.accuracy, value=0.82, high=0.83))
AS_IT_IS = "Take the fine-tuned network as it is: no winner is faster without being told to be less accurate; "
NEAREST = "the nearest, winner-1, is 2.00x faster than the fine-tuned network and loses 2.0 points (95 %: 1.0 to 3.0)."


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (
            baselines(),
            "Take winner-1: it is 2.00x faster than the fine-tuned network and is not told apart from it in ",
        ),
        (baselines(WHOLE, SLOW), "Take the fine-tuned network as it is: no winner is told to be faster."),
        (baselines(WHOLE, TINY, WORSE), AS_IT_IS + NEAREST),
        (
            baselines(WHOLE, WORSE, max_loss=0.5),
            "no winner is faster without being told to lose more than 0.5 points; the",
        ),
        (
            baselines(WHOLE, WORSE, max_loss=1.5),
            "Take winner-1: it is 2.00x faster than the fine-tuned network and loses",
        ),
        (baselines(WHOLE, WINNER, SMALL, TINY), "Take winner-2: it is 2.50x faster"),
        (
            baselines(WHOLE, WINNER, NARROWED, BETTER),
            "prune/as-fast-as-winner-1, not winner-1: it is as fast, and better by 2.0 points (95 %: 1.0 to 3.0).",
        ),
        (baselines(WHOLE, WINNER, replace(BETTER, sessions_ms=(1.2,))), "Take winner-1: "),  # better, but slower
        (
            baselines(WHOLE, WORSE, PRUNED),
            "Take the pruned network prune/as-fast-as-winner-1, no winner: it is 2.00x faster than the fine-tuned ",
        ),
        (baselines(WHOLE, TINY, WORSE, broken_limits=("latency_ms",)), "Take winner-1: it is 2.00x faster than "),
        (baselines(WINNER, NARROWED), "This run has no fine-tuned network that could be taken as it is"),
    ],
)
def test_the_verdict_says_what_to_take(found: Baselines, expected: str) -> None:
    assert expected in verdict(found)
    assert "\n" not in verdict(found) and verdict(found) in as_text(found, ())


def test_it_says_why_it_is_not_what_the_search_recommended() -> None:
    found = baselines(WHOLE, WINNER, SMALL, TINY)
    unlike = "The search had recommended winner-1, by inherited weights and on search images; this is after"
    assert unlike in verdict(replace(found, recommended="winner-1"))
    assert verdict(replace(found, recommended="winner-2")) == verdict(found)


def test_the_rule_is_said() -> None:
    assert "are not told to be less accurate, the fastest is taken (if there is none, the fastest base" in rule(
        baselines()
    )
    assert "lose more than 2 points, the fastest" in rule(baselines(max_loss=2.0))
    assert "is beyond the search’s limit of latency, so the most" in rule(baselines(broken_limits=("latency_ms",)))


def test_each_winner_has_a_sentence() -> None:
    found = baselines(WHOLE, WORSE, NARROWED, PRUNED, missing={"narrowed-winner-9": "the narrowest is too slow"})
    winner, missing = sentences(found)
    assert winner == (
        "winner-1 is 2.00x faster than the fine-tuned network and loses 2.0 points (95 %: 1.0 to 3.0); "
        "it is not told apart from the narrowed network (0.0 points, 95 %: -1.0 to 1.0) "
        "and worse than the pruned network by 1.5 points (95 %: 0.5 to 2.5)."
    )
    assert missing == "narrowed-winner-9 is missing: the narrowest is too slow."
    assert "not told to be faster (1.03x) than" in next(sentences(baselines(WHOLE, SLOW)))


def test_a_row_for_each_winner_and_each_of_its_baselines() -> None:
    other = network("narrowed-winner-2", "narrowed", "winner-2", 0.7, 0.9001)
    table = rows(baselines(WHOLE, WINNER, NARROWED, SMALL, other))
    assert [row[:2] for row in table] == [
        ["winner-1", "winner"],
        ["", "fine-tuned network"],
        ["", "narrowed network"],
        ["winner-2", "winner"],
        ["", "fine-tuned network"],
        ["", "narrowed network"],
    ]
    assert table[0][2:6] == ["80.00 %\n(79.0–81.0)", "–", "1.005\n(1.000–1.010)", "100 %"]
    assert table[5][3:] == ["+9.5\n(+8.5 to +10.5)", "0.905\n(0.900–0.909)", "113 %", "2.00", "30.0"]
