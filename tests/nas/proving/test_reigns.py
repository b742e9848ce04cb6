"""Which of several families is best within which time, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from nas.proving.families_page import as_text, families_page, sentences
from nas.proving.reigns import Families, Network, reigns
from nas.runs.baselines import Accuracy

COUNT = 1000


def network(family: str, name: str, accuracy: float, latency_ms: float) -> tuple[Network, np.ndarray]:
    """With its right answers: the first images, so that a more accurate network is right wherever a lesser one is."""
    interval = Accuracy(accuracy, accuracy - 0.01, accuracy + 0.01)
    times = (latency_ms, 1.02 * latency_ms)
    found = Network(family, f"runs/{family}", name, 32, interval, times, 1_000_000, 10_000_000)
    return found, np.arange(COUNT) < round(COUNT * accuracy)


def families(*members: tuple[Network, np.ndarray]) -> Families:
    networks, right = zip(*members, strict=True)
    return Families("python -m nas.compare", "a runtime", (), COUNT, networks, tuple(reigns(networks, right)))


ALPHA = [network("alpha", "a1", 0.60, 0.1), network("alpha", "a2", 0.70, 0.4), network("alpha", "a3", 0.80, 2.0)]
BETA = [network("beta", "b1", 0.65, 0.2), network("beta", "b2", 0.702, 0.41), network("beta", "b3", 0.75, 1.0)]


def by_time(*members: tuple[Network, np.ndarray]) -> list[tuple[Network, np.ndarray]]:
    return sorted(members, key=lambda member: member[0].latency_ms)


def test_a_reign_begins_with_a_more_accurate_network_than_all_faster_ones() -> None:
    found = families(*by_time(*ALPHA, *BETA))
    assert [reign.network for reign in found.reigns] == ["a1", "b1", "a2", "b3", "a3"], "b2 begins it"
    assert [reign.from_ms for reign in found.reigns] == pytest.approx([0.101, 0.202, 0.404, 0.4141, 2.02])


def test_rivals_are_the_best_of_other_families_that_are_about_as_fast() -> None:
    found = {reign.network: reign.rivals for reign in families(*by_time(*ALPHA, *BETA)).reigns}
    assert found["a1"] == ()
    (rival,) = found["a2"]
    assert (rival.network, rival.other) == ("alpha a2", "beta b2"), "2.5 % slower, and counts"
    assert rival.value == pytest.approx(-0.002) and rival.low < -0.001
    (rival,) = found["a3"]
    assert rival.other == "beta b3" and rival.value == pytest.approx(0.05) and 0.03 < rival.low < rival.high < 0.07


def test_what_is_told_apart_is_said() -> None:
    found = families(*by_time(*ALPHA, *BETA))
    said = list(sentences(found))
    assert said[0].startswith("From 0.101 ms to 0.202 ms, alpha is best: its a1 has 60.00 % at 0.101 ms, and no other")
    assert "better than alpha a1 (5.0 points, 95 %: 3." in said[1]
    assert said[4].startswith("From 2.020 ms on, alpha is best: its a3 has 80.00 % at 2.020 ms, better than beta b3")
    assert "not told apart from beta b2 (-0.2 points" in said[2]
    assert all(sentence in as_text(found) for sentence in said)


def test_the_page_treats_names_as_text() -> None:
    page = families_page(families(network("<b>&", "<script>x</script>", 0.5, 1.0)))
    assert "<script>x" not in page and "&lt;b&gt;&amp;" in page
