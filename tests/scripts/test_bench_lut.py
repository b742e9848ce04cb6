"""What the benchmark of tables measures again and what it does not, on a machine with known costs."""

from __future__ import annotations

import importlib
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import search_spaces
from scripts import bench_lut
from scripts.bench_lut import BenchConfig, Figure
from search_spaces import UserError
from search_spaces.command import spell
from tests.latency_lut.fake import FakeMachine
from tests.toy_family import ToySpace

CONFIG = BenchConfig(backends=("onnxruntime",), threads=(1,), space="toy", samples=2, num_archs=5)


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The modules that were run, in this process."""
    run: list[str] = []

    def measure(module: str, config: Any) -> None:
        run.append(module)
        importlib.import_module(module).main(shlex.split(spell(module, config))[3:])

    monkeypatch.setattr(bench_lut, "measure", measure)
    monkeypatch.setattr(bench_lut, "NUM_ARCHS", 1000)
    monkeypatch.setitem(search_spaces.SPACES, "toy", ToySpace)
    monkeypatch.setattr(
        "latency_lut.backends.onnxruntime.OnnxRuntimeBackend", lambda **_: FakeMachine(name="onnxruntime")
    )
    monkeypatch.chdir(tmp_path)
    return run


def figures(config: BenchConfig = CONFIG) -> dict[str, Figure]:
    return {figure.name: figure for figure in bench_lut.bench(config, "onnxruntime", 1)}


def test_an_additive_machine_reaches_the_bars(commands: list[str]) -> None:
    found = figures()
    assert commands == ["latency_lut.build", "latency_lut.validate", "latency_lut.build"]
    assert found["held-out MAPE"].value < 1e-3
    assert found["rebuilt, median block differs"].value == 0
    by_the_clock = ("archs/s", "minutes")
    missed = [name for name, figure in found.items() if "MISSED" in str(figure)]
    assert all(any(part in name for part in by_the_clock) for name in missed), missed
    assert "build, minutes" in found
    (table,) = bench_lut.FOLDER.glob("*-a.json")
    table.rename(table.with_name(f"{table.name}.partial")).write_text("")
    assert "build, minutes" not in figures(), "of an interrupted build"


@pytest.mark.heavy
def test_only_what_the_flags_change_is_measured_again(commands: list[str]) -> None:
    figures()
    commands.clear()
    assert "build, minutes" not in figures()
    assert commands == []
    figures(replace(CONFIG, num_archs=6))
    assert commands == ["latency_lut.validate"]
    commands.clear()
    figures(replace(CONFIG, samples=3))
    assert commands == ["latency_lut.build", "latency_lut.validate", "latency_lut.build"]
    commands.clear()
    figures(replace(CONFIG, samples=3, resume=False))
    assert len(commands) == 3


@pytest.mark.heavy
def test_an_unfinished_validation_of_a_table_that_is_gone_is_begun_again(commands: list[str]) -> None:
    figures()
    (validation,) = bench_lut.FOLDER.glob("*.validation.json")
    partial = validation.rename(validation.with_name(f"{validation.name}.partial"))
    partial.write_text('{"settings": {"table": "an earlier one"}}\n{"anchor": []}\n')
    with pytest.raises(UserError, match=r"was begun with table 'an earlier one'"):
        figures()
    figures(replace(CONFIG, samples=3))
    assert validation.exists() and not partial.exists()


@pytest.mark.parametrize(
    ("figure", "missed"),
    [
        (Figure("error", 0.021, 0.02, ".1%"), True),
        (Figure("error", 0.02, 0.02, ".1%"), False),
        (Figure("rank", 0.98, 0.99, ".2f", at_least=True), True),
        (Figure("rank", 0.99, 0.99, ".2f", at_least=True), False),
    ],
)
def test_a_missed_bar_is_said(figure: Figure, missed: bool) -> None:
    assert ("MISSED" in str(figure)) is missed
