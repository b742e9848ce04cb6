from __future__ import annotations

from pathlib import Path

import pytest

from latency_lut.plan import make_plan
from latency_lut.protocol import MAX_ROUNDS_PER_SAMPLE, Run, Sample, Settings, SystemClock, measure
from search_spaces import SearchSpace
from tests.latency_lut.fake import OVERHEAD_NS, FakeMachine, cost_ns

SETTINGS = Settings(samples=6, min_sample_ms=1.0)


def load(machine: FakeMachine, space: SearchSpace) -> dict[str, Run]:
    return {block.key: machine.load(machine.export_blocks([block])) for block in space.all_blocks().values()}


def truth_ms(key: str) -> float:
    return (OVERHEAD_NS + cost_ns(key)) / 1e6


def test_times_are_those_of_the_clock(tiny: SearchSpace) -> None:
    machine = FakeMachine()
    measured = measure(load(machine, tiny), SETTINGS, machine)
    for key, timing in measured.timings.items():
        assert timing.samples_ms == pytest.approx([truth_ms(key)] * 6, rel=1e-9)
        assert timing.min_ms == pytest.approx(timing.median_ms)
    assert (measured.unclean_share, measured.short, measured.busy) == (0.0, 0, False)


def test_disturbed_samples_are_replaced(tiny: SearchSpace) -> None:
    machine = FakeMachine(wait_ns_at=lambda call: 500_000 if call % 29 == 7 else 0)
    runs = load(machine, tiny)
    rounds: list[dict[str, Sample]] = []
    measured = measure(runs, SETTINGS, machine, on_round=rounds.append)
    taken = [sample for samples in rounds for sample in samples.values()]
    assert 0 < sum(not sample.clean for sample in taken) == len(taken) - 6 * len(runs)
    for key, timing in measured.timings.items():
        assert timing.samples_ms == pytest.approx([truth_ms(key)] * 6, rel=1e-9)
    assert measured.unclean_share == pytest.approx(1 - 6 * len(runs) / len(taken))
    assert not measured.short


def test_a_wait_of_two_percent_is_still_clean() -> None:
    assert Sample(1.0, 0.02).clean
    assert not Sample(1.0, 0.021).clean


def test_a_busy_machine_ends_in_bounded_rounds_and_is_reported(tiny: SearchSpace) -> None:
    machine = FakeMachine(wait_ns_at=lambda call: 100_000 + call)
    rounds: list[dict[str, Sample]] = []
    measured = measure(load(machine, tiny), SETTINGS, machine, on_round=rounds.append)
    assert len(rounds) == SETTINGS.samples * MAX_ROUNDS_PER_SAMPLE
    assert measured.busy
    assert measured.unclean_share == 1.0
    assert measured.short == len(measured.timings)
    for key, timing in measured.timings.items():
        least = sorted((samples[key] for samples in rounds), key=lambda s: s.wait_share or 0)[:6]
        assert sorted(timing.samples_ms) == sorted(s.ms for s in least)


def test_where_waits_are_unknown_all_samples_count_and_that_is_said(tiny: SearchSpace) -> None:
    machine = FakeMachine(wait_ns_at=lambda _: 500_000, tells_waits=False)
    measured = measure(load(machine, tiny), SETTINGS, machine)
    assert measured.unclean_share is None
    assert not measured.short
    assert all(len(timing.samples_ms) == 6 for timing in measured.timings.values())


def test_rounds_are_interleaved_and_shuffled(tiny: SearchSpace) -> None:
    machine = FakeMachine()
    runs = load(machine, tiny)
    measure(runs, SETTINGS, machine)
    warm_up = 4  # of every graph, in the first round
    sampled = machine.calls[(warm_up + 2) * len(runs) :: 2]  # a sample warms the caches first
    rounds = [tuple(sampled[i : i + len(runs)]) for i in range(0, len(sampled), len(runs))]
    assert len(rounds) == SETTINGS.samples - 1
    assert all({keys for (keys,) in order} == runs.keys() for order in rounds)
    assert len(set(rounds)) == len(rounds)


def test_samples_last_long_enough(tiny: SearchSpace) -> None:
    machine = FakeMachine()
    block = next(iter(tiny.all_blocks().values()))
    run = machine.load(machine.export_blocks([block]))
    repeats: list[int] = []

    def counted(n: int) -> None:
        repeats.append(n)
        run(n)

    measure({"": counted}, Settings(samples=2, min_sample_ms=3.0), machine)
    assert repeats[-1] * truth_ms(block.key) >= 3.0 > (repeats[-1] - 1) * truth_ms(block.key)


def test_an_interrupted_measurement_takes_only_what_is_left(tiny: SearchSpace) -> None:
    machine = FakeMachine()
    runs = load(machine, tiny)
    done = {key: [Sample(truth_ms(key), 0.0)] * 4 for key in runs}
    rounds: list[dict[str, Sample]] = []
    measured = measure(runs, SETTINGS, machine, taken=done, on_round=rounds.append)
    assert len(rounds) == 2
    assert all(len(timing.samples_ms) == 6 for timing in measured.timings.values())

    rounds.clear()
    done = {key: [Sample(1.0, 0.0)] * 6 for key in runs}
    measure(runs, SETTINGS, machine, taken=done, on_round=rounds.append)
    assert not rounds


def test_additive_costs_are_recovered(tiny: SearchSpace) -> None:
    machine, plan = FakeMachine(), make_plan(tiny)
    runs = {name: machine.load(machine.export_blocks(blocks)) for name, blocks in plan.graphs.items()}
    measured = measure(runs, SETTINGS, machine)
    costs = plan.costs({name: timing.min_ms for name, timing in measured.timings.items()})
    assert costs == pytest.approx({key: cost_ns(key) / 1e6 for key in tiny.all_blocks()}, rel=1e-6)


def test_the_clock_of_this_machine() -> None:
    clock = SystemClock()
    before = clock.now_ns(), clock.wait_ns()
    sum(range(10**6))
    after = clock.now_ns(), clock.wait_ns()
    assert after[0] > before[0]
    if Path("/proc/self/schedstat").exists():
        assert before[1] is not None
        assert after[1] is not None
        assert 0 <= after[1] - before[1] < 60e9
    else:
        assert before[1] is after[1] is None
