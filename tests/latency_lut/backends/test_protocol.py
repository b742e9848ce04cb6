from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from latency_lut.backends.protocol import ANCHOR, MAX_MS, MAX_TAKEN, Run, Sample, Settings, SystemClock, measure
from latency_lut.tables.plan import make_plan
from search_spaces import SearchSpace
from tests.latency_lut.fake import OVERHEAD_NS, FakeMachine, cost_ns

SETTINGS = Settings(samples=6, min_sample_ms=1.0)


def load(machine: FakeMachine, space: SearchSpace) -> dict[str, Run]:
    return {block.key: machine.run_of([block.key]) for block in space.all_blocks().values()}


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
    machine = FakeMachine(wait_ns_at=lambda call: 500_000 if call % 990 == 7 else 0)
    runs = load(machine, tiny)
    taken: list[Sample] = []
    measured = measure(runs, SETTINGS, machine, on_visit=lambda _, samples: taken.extend(samples))
    assert 0 < sum(not sample.clean for sample in taken) == len(taken) - 6 * len(runs)
    for key, timing in measured.timings.items():
        assert timing.samples_ms == pytest.approx([truth_ms(key)] * 6, rel=1e-9)
    assert measured.unclean_share == pytest.approx(1 - 6 * len(runs) / len(taken))
    assert not measured.short


def test_a_wait_of_two_percent_is_still_clean() -> None:
    assert Sample(1.0, 0.02, 1.0).clean
    assert not Sample(1.0, 0.021, 1.0).clean


def test_a_busy_machine_ends_in_bounded_rounds_and_is_reported(tiny: SearchSpace) -> None:
    machine = FakeMachine(wait_ns_at=lambda call: 100_000 + call)
    taken: dict[str, list[Sample]] = defaultdict(list)
    runs = load(machine, tiny)
    measured = measure(runs, SETTINGS, machine, on_visit=lambda name, samples: taken[name].extend(samples))
    assert {len(samples) for samples in taken.values()} == {SETTINGS.samples * MAX_TAKEN}
    assert measured.busy
    assert measured.unclean_share == 1.0
    assert measured.short == len(measured.timings)
    for key, timing in measured.timings.items():
        least = sorted(taken[key], key=lambda s: s.wait_share or 0)[:6]
        assert sorted(timing.samples_ms) == sorted(s.ms for s in least)


@pytest.mark.parametrize(("min_sample_ms", "stopped_at"), [(0, 60), (1.0, 460)], ids=["the only run", "one of many"])
def test_a_sample_during_which_the_process_was_stopped_does_not_count(
    min_sample_ms: float, stopped_at: int, tiny: SearchSpace
) -> None:
    class Stopped(FakeMachine):
        """Its clock goes on for a day in one run, in which it waits for nothing."""

        def run_of(self, keys: Sequence[str]) -> Run:
            run = super().run_of(keys)

            def stopped(repeats: int) -> None:
                run(repeats)
                if len(self.calls) == stopped_at:
                    self._now_ns += 86400 * 10**9

            return stopped

    machine, taken = Stopped(), defaultdict[str, list[Sample]](list)
    settings = Settings(samples=6, min_sample_ms=min_sample_ms)
    measured = measure(load(machine, tiny), settings, machine, on_visit=lambda name, s: taken[name].extend(s))
    assert sum(sample.mean_ms > MAX_MS for samples in taken.values() for sample in samples) == 1
    assert all(t.samples_ms == pytest.approx([truth_ms(k)] * 6, rel=1e-9) for k, t in measured.timings.items())
    raw = {name: [replace(s, wait_share=0.0) for s in samples] for name, samples in taken.items()}  # as in a journal
    again = measure(load(machine, tiny), settings, machine, taken=raw)
    assert all(t.samples_ms == pytest.approx([truth_ms(k)] * 6, rel=1e-9) for k, t in again.timings.items())


def test_where_waits_are_unknown_all_samples_count_and_that_is_said(tiny: SearchSpace) -> None:
    machine = FakeMachine(wait_ns_at=lambda _: 500_000, tells_waits=False)
    measured = measure(load(machine, tiny), SETTINGS, machine)
    assert measured.unclean_share is None
    assert not measured.short
    assert all(len(timing.samples_ms) == 6 for timing in measured.timings.values())


def test_rounds_are_interleaved_and_shuffled(tiny: SearchSpace) -> None:
    machine = FakeMachine()
    runs = load(machine, tiny)
    visits: list[str] = []
    measure(runs, SETTINGS, machine, on_visit=lambda name, _: visits.append(name))
    rounds = [tuple(visits[i : i + len(runs)]) for i in range(0, len(visits), len(runs))]
    assert len(rounds) == SETTINGS.samples
    assert all(set(order) == runs.keys() for order in rounds)
    assert len(set(rounds)) == len(rounds)


def test_a_sample_is_the_fastest_of_its_runs(tiny: SearchSpace) -> None:
    disturbed = FakeMachine(wait_ns_at=lambda call: 50_000 if call % 5 else 0, tells_waits=False)
    measured = measure(load(disturbed, tiny), SETTINGS, disturbed)
    for key, timing in measured.timings.items():
        assert timing.samples_ms == pytest.approx([truth_ms(key)] * 6, rel=1e-9)


def test_of_runs_timed_together_a_sample_is_the_mean(tiny: SearchSpace) -> None:
    machine = FakeMachine(wait_ns_at=lambda _: 50_000, tells_waits=False)
    run = machine.run_of([block := next(iter(tiny.all_blocks()))])
    repeats: list[int] = []

    def counted(n: int) -> None:
        repeats.append(n)
        run(n)

    (timing,) = measure({"": counted}, replace(SETTINGS, runs_together=True), machine).timings.values()
    assert repeats == [1] * 4 + [n := repeats[-1]] * 2 * SETTINGS.samples, "as many runs warm up"
    assert timing.samples_ms == pytest.approx([truth_ms(block) + 0.05 / n] * 6)


def test_samples_last_long_enough(tiny: SearchSpace) -> None:
    machine = FakeMachine()
    block = next(iter(tiny.all_blocks()))
    measure({"": machine.run_of([block])}, Settings(samples=2, min_sample_ms=3.0), machine)
    runs = (len(machine.calls) - 4) / 2 - 1  # without those that tell how long one takes, and a warm-up
    assert runs * truth_ms(block) >= 3.0 > (runs - 1) * truth_ms(block)


def test_an_interrupted_measurement_takes_only_what_is_left(tiny: SearchSpace) -> None:
    machine = FakeMachine()
    runs = load(machine, tiny)
    done = {key: [Sample(truth_ms(key), 0.0, truth_ms(key))] * 4 for key in runs}
    visits: list[str] = []
    measured = measure(runs, SETTINGS, machine, taken=done, on_visit=lambda name, _: visits.append(name))
    assert Counter(visits) == dict.fromkeys(runs, 2)
    assert all(len(timing.samples_ms) == 6 for timing in measured.timings.values())

    visits.clear()
    done = {key: [Sample(1.0, 0.0, 1.0)] * 6 for key in runs}
    measure(runs, SETTINGS, machine, taken=done, on_visit=lambda name, _: visits.append(name))
    assert not visits


def test_several_samples_of_a_visit_follow_one_warm_up(tiny: SearchSpace) -> None:
    machine = FakeMachine()
    runs = load(machine, tiny)
    visits: list[int] = []
    settings = Settings(samples=6, min_sample_ms=0, samples_per_visit=3)
    measured = measure(runs, settings, machine, on_visit=lambda _, samples: visits.append(len(samples)))
    assert visits == [3] * 2 * len(runs)
    assert len(machine.calls) == 2 * len(runs) * (1 + 3), "a run a sample, and one to warm up"
    for start in range(0, len(machine.calls), 4):
        assert len(set(machine.calls[start : start + 4])) == 1, "the graph stays loaded"
    assert all(len(timing.samples_ms) == 6 for timing in measured.timings.values())


@dataclass
class SharedHost(FakeMachine):
    """For two of every three times `burst_ns`, other guests of its host make all work take twice as long, unseen."""

    burst_ns: int = 0

    def run_of(self, keys: Sequence[str]) -> Run:
        duration_ns = self.overhead_ns + sum(map(cost_ns, keys))

        def run(repeats: int) -> None:
            left = repeats * duration_ns
            while self.burst_ns and left > 0:
                burst, into = divmod(self._now_ns, self.burst_ns)
                slow = 2 if burst % 3 else 1
                step = min(self.burst_ns - into, left * slow)
                self._now_ns += step
                left -= -(-step // slow)
            self._now_ns += max(0, left)

        return run


@pytest.mark.parametrize(("burst_ms", "busy"), [(0, False), (3, True), (20, True)])
def test_a_disturbance_that_waits_do_not_show_is_told_by_the_anchor(burst_ms: int, busy: bool) -> None:
    machine = SharedHost(burst_ns=burst_ms * 10**6)
    runs = {ANCHOR: machine.run_of(["anchor"] * 40), "short": machine.run_of(["short"])}
    measured = measure(runs, Settings(samples=40), machine)
    assert measured.timings["short"].samples_ms.count(truth_ms("short")) > 10, "it finds quiet moments"
    assert (measured.unclean_share, measured.busy) == (0.0, busy)


@pytest.mark.parametrize(("slower", "drift"), [(1.0, 0.0), (1.2, 0.2)])
@pytest.mark.parametrize("samples", [2, 5, 8, 40])
def test_a_device_that_heats_up_is_told_by_the_anchor(slower: float, drift: float, samples: int) -> None:
    machine = FakeMachine()
    cool = machine.run_of(["anchor"])

    def heating(repeats: int) -> None:
        before = machine._now_ns
        cool(repeats)
        if visits >= samples / 2:
            machine._now_ns += int((slower - 1) * (machine._now_ns - before))

    visits = 0

    def count(_name: str, _samples: list[Sample]) -> None:
        nonlocal visits
        visits += 1

    measured = measure({ANCHOR: heating}, Settings(samples), machine, on_visit=count)
    assert measured.anchor_drift == pytest.approx(drift, abs=1e-3)
    assert measured.busy is (drift > 0)


def test_waiting_during_the_warm_up_counts(tiny: SearchSpace) -> None:
    block = next(iter(tiny.all_blocks()))
    machine = FakeMachine(wait_ns_at=lambda call: 10**6 if call == 4 else 0)  # four tell how long a run takes
    samples: list[Sample] = []
    run, settings = machine.run_of([block]), Settings(2, min_sample_ms=0.5)
    measure({"": run}, settings, machine, on_visit=lambda _, fresh: samples.extend(fresh))
    assert [sample.clean for sample in samples] == [False, True, True]


def test_additive_costs_are_recovered(tiny: SearchSpace) -> None:
    machine, plan = FakeMachine(), make_plan(tiny)
    runs = {name: machine.run_of([block.key for block in blocks]) for name, blocks in plan.graphs.items()}
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
