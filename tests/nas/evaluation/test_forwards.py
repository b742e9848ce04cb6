from __future__ import annotations

import pytest

from nas.evaluation.forwards import Forwards, image_forwards
from nas.evaluation.racing import Finish
from search_spaces import macs
from tests.nas.tiny import tiny_space

SPACE = tiny_space()
BASE = SPACE.largest
ARCHS = [action.arch for action in SPACE.slim(BASE)]


def test_alone_every_image_runs_through_the_whole_network() -> None:
    assert image_forwards(SPACE, BASE, [BASE], [10]) == 10
    assert image_forwards(SPACE, BASE, [BASE], [10], shared=False) == 10
    for arch in ARCHS:
        share = macs(SPACE, arch) / macs(SPACE, BASE)
        assert image_forwards(SPACE, BASE, [arch], [10], shared=False) == pytest.approx(10 * share)
        assert image_forwards(SPACE, BASE, [arch], [10]) == pytest.approx(10 * share)


def test_a_shared_beginning_runs_once_for_the_most_images() -> None:
    trunk, last = SPACE.lower(BASE), SPACE.lower(ARCHS[-1])
    start = next(i for i, (a, b) in enumerate(zip(trunk, last, strict=False)) if a != b)
    beginning, own, total = (sum(b.macs for b in blocks) for blocks in (trunk[:start], last[start:], trunk))
    assert beginning and own
    twice = image_forwards(SPACE, BASE, [ARCHS[-1], ARCHS[-1]], [7, 5])
    assert twice == pytest.approx((7 * beginning + 12 * own) / total)
    with_base = image_forwards(SPACE, BASE, [ARCHS[-1], BASE], [7, 5])
    assert with_base == pytest.approx((7 * beginning + 7 * own + 5 * (total - beginning)) / total)


def test_calibration_and_both_races_are_counted_and_a_known_arch_once() -> None:
    forwards = Forwards(SPACE, 100, [8, 8, 4])
    race = [Finish(0.5, 0, 30, dropped=True), Finish(0.5, 100, 40, led=True), Finish(0.5, 100, 20)]
    archs = [ARCHS[0], ARCHS[-1], ARCHS[3]]
    forwards.add(BASE, archs, race)
    rough = image_forwards(SPACE, BASE, [*archs, BASE], [38, 48, 28, 8])
    leader, other = (image_forwards(SPACE, BASE, [arch], [120]) for arch in archs[1:])
    assert forwards.run == pytest.approx(rough + leader + other)
    assert forwards.shared == pytest.approx(image_forwards(SPACE, BASE, archs, [120] * 3))
    assert forwards.alone == pytest.approx(120 * sum(macs(SPACE, a) for a in archs) / macs(SPACE, BASE))
    before = forwards.to_json()
    forwards.add(BASE, archs)
    assert forwards.to_json() == before
    forwards.add(BASE, archs, [Finish(0.5, 0)] * 3)
    assert forwards.to_json() == before
