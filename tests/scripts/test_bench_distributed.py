from __future__ import annotations

from dataclasses import dataclass

import pytest

from scripts import bench_distributed
from scripts.bench_distributed import BenchConfig, Contestant, bench, main


@pytest.mark.heavy  # four processes that import torch
def test_processes_train_in_turns(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # which it sets: restored
    main(["--batch-size", "2", "--rounds", "1", "--steps", "1"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "efficientformerv2-nano, 2 images a process and step, one thread each; images/s:"
    assert lines[1].split()[::2] == ["one", "two", "bf16"] and all(float(rate) > 0 for rate in lines[1].split()[1::2])
    assert lines[2].startswith("two processes over one: ") and lines[3].startswith(
        "bf16 over float32, time of a step: "
    )


@dataclass(frozen=True)
class Fake(Contestant):
    rates: list[float]

    def images_per_s(self, steps: int) -> float:
        return self.rates.pop(0)


def test_ratios_are_of_the_same_round(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    rates = {(1, "off"): [10.0, 20.0, 30.0], (2, "off"): [14.0, 28.0, 60.0], (1, "bf16"): [5.0, 10.0, 15.0]}
    monkeypatch.setattr(
        bench_distributed, "start", lambda _, processes, amp="off": Fake(1, (), None, rates[processes, amp])
    )
    bench(BenchConfig(rounds=3))
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2:] == ["two processes over one: 1.40 (bar 1.5)  MISSED", "bf16 over float32, time of a step: 2.00"]
