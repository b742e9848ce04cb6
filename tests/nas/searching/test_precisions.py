"""Searches in int8, in several precisions at once, and what is refused."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from nas.evaluation.evaluator import Evaluator
from nas.objective.costs import Costs
from nas.objective.mes import Objective, pareto
from nas.search import main
from nas.searching.precisions import in_each_precision
from nas.searching.result import as_text, read_result, tables_of, together
from nas.searching.search import Config
from nas.searching.winners import name_winners
from search_spaces import SPACES, Arch, UserError, num_params
from tests.nas.tiny import make_table, tiny_space

SPACE = tiny_space()
FLOAT, INT8 = "runs/tables/float.json", "runs/tables/int8.json"
LATENCY = ("--metrics", "latency", "--strategy", "random", "--budget", "12", "--seed", "0")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, trained: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setitem(SPACES, "tiny", tiny_space)
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    save_table(FLOAT, "float32", 0.1)
    save_table(INT8, "int8", 0.04)
    return tmp_path


def save_table(path: str, precision: str, ms_per_mega_mac: float) -> None:
    table = make_table(SPACE, ms_per_mega_mac)
    runtime = replace(table.provenance.runtime, precision=precision)
    replace(table, provenance=replace(table.provenance, runtime=runtime)).save(Path(path))


def invented(self: Evaluator, base: Arch, archs: Any, precision: str) -> list[float]:
    """Accuracies that rise with the size; int8 loses a little."""
    return [0.9 - 5e3 / num_params(SPACE, arch) - (0.02 if precision == "int8" else 0.0) for arch in archs]


def found(name: str = "search") -> dict[str, Any]:
    return read_result(Path("runs/r") / name)


def test_a_search_in_int8_asks_for_the_accuracy_of_int8(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--precision", "int8", "--table", INT8, *LATENCY[:-4], "--budget", "3"])
    result = found()
    assert {p["precision"] for p in result["evaluations"]} == {"int8"}
    assert json.loads(Path("runs/r/search/config.json").read_text())["precision"] == ["int8"]
    assert all(winner["precision"] == "int8" for winner in result["winners"])
    assert f"Take {result['recommended']['name']} in int8" in capsys.readouterr().out


def test_memory_is_of_the_precision_that_is_searched(monkeypatch: pytest.MonkeyPatch) -> None:
    """A limit that float32 exceeds with every network, int8 meets; which table is the newest says what is searched."""
    monkeypatch.setattr(Evaluator, "accuracies", invented)
    limit = 2e-6 * max(block.peak_activations for block in SPACE.lower(SPACE.smallest))
    limited = (*LATENCY, "--max-memory-mb", f"{limit}")
    with pytest.raises(UserError, match=r"no network has memory_mb of at most .*; raise --max-memory-mb"):
        main(["--table", FLOAT, *limited])
    os.utime(FLOAT, (0, 0))
    main(list(limited))
    for point in found()["evaluations"]:
        arch = SPACE.from_json(point["arch"])
        assert point["precision"] == "int8"
        assert point["memory_mb"] == max(block.peak_activations for block in SPACE.lower(arch)) / 1e6 <= limit


def test_limits_that_one_precision_alone_can_meet() -> None:
    """In int8 activations take a quarter of the memory."""
    least = Costs(SPACE, {}, Objective.of(num_params=1.0)).one(SPACE.smallest)["memory_mb"]
    flags = ("--metrics", "size", "--strategy", "random", "--budget", "2", "--max-memory-mb", f"{least / 2:.4g}")
    message = r"in float32 no network has memory_mb of at most .*; raise --max-memory-mb, or leave float32 out by "
    with pytest.raises(UserError, match=f"{message}--precision int8$"):
        main([*flags, "--precision", "float32", "int8"])
    with pytest.raises(UserError, match=r"no network has memory_mb of at most [^;]*; raise [^ ]*$"):
        main([*flags, "--precision", "float32"])
    main([*flags, "--precision", "int8"])
    assert found()["num_evaluations"] == 2


def test_a_table_of_a_precision_that_no_search_is_in() -> None:
    save_table("brain.json", "bfloat16", 0.1)
    with pytest.raises(UserError, match=r"^the table is of bfloat16; searches are in float32, float16, int8, give"):
        main(["--table", "brain.json", *LATENCY])


def test_a_precision_that_is_not_measured_here_needs_a_table() -> None:
    with pytest.raises(UserError, match=r"^no table of tiny in float16: give one with --table; onnxruntime cannot mea"):
        main(["--precision", "float16", *LATENCY])


def test_several_precisions_have_one_front(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(Evaluator, "accuracies", invented)
    main(["--precision", "float32", "int8", "--table", FLOAT, INT8, *LATENCY])
    result = found()
    points = result["evaluations"]
    assert [p["precision"] for p in points] == ["float32"] * 12 + ["int8"] * 12
    assert [p["index"] for p in points] == list(range(24)) and [p["num_asked"] for p in points] == list(range(1, 25))
    front = pareto(np.array([[p["accuracy"], p["mes"]] for p in points]))
    assert result["front"] == np.flatnonzero(front).tolist()
    assert {points[i]["precision"] for i in result["front"]} == {"float32", "int8"}
    assert {p: t["latency_ms"]["path"] for p, t in tables_of(result).items()} == {"float32": FLOAT, "int8": INT8}
    tables = {"float32": 0.1, "int8": 0.04}
    for point in points:
        table = make_table(SPACE, tables[point["precision"]])
        assert point["latency_ms"] == table.latency_ms(SPACE, SPACE.from_json(point["arch"]))
    assert "int8" in as_text(result, Path("runs/r/search"))

    monkeypatch.setattr(Evaluator, "accuracies", lambda *_: pytest.fail("evaluated again"))
    main(["--resume", "--winners", "2"])
    assert found()["evaluations"] == points and len(found()["winners"]) <= 2


def test_each_precision_has_its_own_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]

    def one_second(self: Evaluator, base: Arch, archs: Any, precision: str) -> list[float]:
        now[0] += len(archs)
        return invented(self, base, archs, precision)

    monkeypatch.setattr("nas.searching.study.time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(Evaluator, "accuracies", one_second)
    main(["--precision", "float32", "int8", "--table", FLOAT, INT8, *LATENCY])
    first = found()
    assert [p["seconds_since_start"] for p in first["evaluations"]] == list(range(1, 25))
    assert first["minutes"] == pytest.approx(24 / 60)
    main(["--resume", "--winners", "1"])
    assert (found()["evaluations"], found()["minutes"]) == (first["evaluations"], first["minutes"])


def test_trajectories_follow_one_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Evaluator, "accuracies", invented)
    main(
        ["--precision", "int8", "float32", "--table", INT8, FLOAT, "--metrics", "latency", "--exact", "--budget", "20"]
    )
    result = found()
    assert [p["step"] for p in result["trajectory"]] == list(range(len(result["trajectory"])))
    assert [p["precision"] for p in result["trajectory"] if p["action"] is None] == ["int8", "float32"]
    assert set(result["image_forwards"]) == {"alone", "shared", "run"}


@pytest.mark.parametrize(
    ("tables", "precision", "message"),
    [
        ((FLOAT,), ("int8",), r"^--table runs/tables/float.json is of float32, and the search of int8; give one of "),
        (
            (FLOAT,),
            ("float32", "int8"),
            r"^no --table is of int8; build one by python -m latency_lut.build --precision",
        ),
        ((FLOAT, INT8), (), r"^--table gives tables of int8 and float32; one MES is of one precision"),
        (
            (f"phone={FLOAT}", f"pad={FLOAT}", f"phone={INT8}"),
            ("float32", "int8"),
            r"^--table names pad, phone in float32 and phone in int8; give the same devices in each precision$",
        ),
        (("nowhere.json",), ("int8",), r"nowhere\.json"),
    ],
)
def test_tables_that_do_not_go_with_the_precisions(
    tables: tuple[str, ...], precision: tuple[Any, ...], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        in_each_precision(Config(table=tables), precision)


def test_an_unknown_precision() -> None:
    with pytest.raises(UserError, match="float32"):
        Config(precision=("int4",))  # type: ignore[arg-type]


def test_without_precisions_they_are_those_of_the_tables() -> None:
    assert list(in_each_precision(Config(), ())) == ["float32"]
    assert list(in_each_precision(Config(table=(INT8,)), ())) == ["int8"]
    save_table("half.json", "float16", 0.1)
    assert list(in_each_precision(Config(table=("half.json",)), ())) == ["float16"]
    assert list(in_each_precision(Config(table=("a=half.json", f"b={FLOAT}")), ())) == ["float32"]


def test_one_arch_in_two_precisions_is_two_networks() -> None:
    arch = SPACE.to_json(SPACE.largest)
    named = name_winners([{"arch": arch, "precision": "float32"}, {"arch": arch, "precision": "int8"}], [], "winner")
    assert [w["name"] for w in named] == ["winner-1", "winner-2"]


def test_one_part_is_as_it_was() -> None:
    part: dict[str, Any] = {"evaluations": []}
    assert together([part]) is part
