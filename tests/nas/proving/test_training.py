from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from torch import Tensor, nn

from nas import runs
from nas.data import DataConfig, load_data
from nas.proving import training
from nas.proving.baselines import Entry, _compared, compare_with_baselines
from nas.proving.search import Config
from nas.proving.training import narrowed_folder, prune_whole, pruned_folder, say_how_long, trained_otherwise
from nas.pruning.config import Config as PruningConfig
from nas.reporting.verdict import verdict
from nas.runs.baselines import read_baselines
from nas.training.winner import Config as TrainingConfig
from search_spaces.command.files import sha256, write_json, write_text
from tests.nas.proving.says import Says, says_1_in_int8
from tests.nas.synthetic_baselines import WINNER, baselines
from tests.nas.synthetic_run import add_retrain, add_search, make_run


def test_baselines_take_as_long_as_their_winners(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    add_search(tmp_path, space := make_run(tmp_path))
    add_retrain(tmp_path, space, ("winner-1", "winner-2"))  # of 0.8 minutes each
    write_json(tmp_path / "retrain/narrowed-winner-2/result.json", {})
    search: Any = SimpleNamespace(
        run_folder=tmp_path,
        whole=tmp_path,
        winners=["winner-1", "winner-2"],
        trained=lambda name: tmp_path / "retrain" / name,
        suffix="",
    )
    say_how_long(search)
    said = capsys.readouterr().err
    assert said.startswith("3 networks to compare with, trained on ")
    assert said.endswith("as the winners were: about 2 minutes\n")


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_networks_answer_in_the_precision_of_the_winners(
    tmp_path: Path, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In int8 as an int8 file would; here it would always say 1."""

    ranges: list[int] = []

    def in_int8(model: nn.Module, batches: Sequence[Tensor]) -> nn.Module:
        ranges.append(sum(map(len, batches)))
        return says_1_in_int8(model, batches)

    space = make_run(tmp_path)
    whole = Entry("whole", "whole", "", "retrain/whole", Says(0), {"num_params": 1, "macs": 1})
    write_text(tmp_path / whole.folder / "model.safetensors", "")
    search: Any = SimpleNamespace(
        run_folder=tmp_path,
        name="search",
        metric="latency_ms",
        precision=precision,
        recommended=None,
        space=space,
        winners=[],
    )
    search.backend = SimpleNamespace(describe=lambda: "a machine")
    search.costs = SimpleNamespace(one=lambda _: {}, objective=SimpleNamespace(limits={}))
    monkeypatch.setattr("nas.proving.baselines._entries", lambda _: [whole])
    monkeypatch.setattr("nas.proving.baselines._timed", lambda *_: ({"whole": (1.0, 1.0)}, []))
    monkeypatch.setattr("nas.proving.answers.quantized", in_int8)
    data = load_data(DataConfig())
    monkeypatch.setattr(runs, "load_run_data", lambda _: data)
    found = _compared(Config(device="cpu"), search, {})
    expected = (data.test.labels == int(precision == "int8")).mean()
    assert found.networks[0].accuracy.value == pytest.approx(expected)
    assert ranges == ([256] if precision == "int8" else [])
    assert [warning[:26] for warning in found.warnings] == ["accuracies are of int8, si"] * len(ranges)


def test_a_comparison_has_the_limits_that_its_search_has_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`nas.search --resume` with others may pick the same winners, whose figures stay."""
    baselines().write(tmp_path)
    search: Any = SimpleNamespace(run_folder=tmp_path, name="search", metric="latency_ms", winners=["winner-1"])
    search.space, search.recommended = SimpleNamespace(largest=None), "winner-1"
    search.costs = SimpleNamespace(one=lambda _: {"latency_ms": 2.0})
    monkeypatch.setattr("nas.proving.baselines.find_search", lambda _: search)
    for limit, broken, finished in ((1.5, ("latency_ms",), False), (1.4, ("latency_ms",), True), (3.0, (), False)):
        search.costs.objective = SimpleNamespace(limits={"latency_ms": limit})
        path = compare_with_baselines(Config())
        expected = replace(baselines(), broken_limits=broken, recommended="winner-1")
        assert read_baselines(tmp_path) == expected
        said = capsys.readouterr().out
        assert verdict(expected) in said and str(path) in said
        assert ("is finished: nothing to do" in said) is finished


def test_a_comparison_is_made_anew_when_a_winner_was_trained_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    search: Any = SimpleNamespace(run_folder=tmp_path, name="search", metric="latency_ms", winners=["winner-1"])
    monkeypatch.setattr("nas.proving.baselines.find_search", lambda _: search)
    weights = tmp_path / WINNER.folder / "model.safetensors"
    write_text(weights, "trained")
    baselines(replace(WINNER, weights_sha256=sha256(weights))).write(tmp_path)
    monkeypatch.setattr("nas.proving.baselines._judged_again", lambda *_: tmp_path)
    assert compare_with_baselines(Config()) == tmp_path, "the same weights"

    for step in ("say_how_long", "train_narrowed", "prune_whole"):
        monkeypatch.setattr(f"nas.proving.baselines.{step}", lambda *_: {})
    monkeypatch.setattr("nas.proving.baselines._compared", lambda *_: baselines(WINNER))
    write_text(weights, "trained for longer")
    compare_with_baselines(Config())
    assert "winner-1: trained again since the comparison, which is made anew" in capsys.readouterr().out


def test_baselines_of_other_epochs_than_their_winner_are_named(tmp_path: Path) -> None:
    search: Any = SimpleNamespace(
        run_folder=tmp_path, winners=["winner-1"], suffix="", trained=lambda name: tmp_path / "retrain" / name
    )
    narrow, pruned = search.trained("narrowed-winner-1"), pruned_folder(search, "winner-1")
    runs.begin(search.trained("winner-1"), TrainingConfig(epochs=12))
    runs.begin(narrow, TrainingConfig(epochs=6))
    runs.begin(pruned, PruningConfig(finetune_epochs=12))
    assert trained_otherwise(search) == [], "not trained yet"
    for folder in (narrow, pruned):
        write_json(folder / "result.json", {})
    (said,) = trained_otherwise(search)
    assert said.startswith(f"WARNING: {narrow.name} was trained for 6 epochs and winner-1 for 12; remove {narrow} ")


def test_what_is_pruned_is_timed_as_the_table_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Begun now, or gone on with."""
    search: Any = SimpleNamespace(
        run_folder=tmp_path, whole=tmp_path, winners=["new", "begun"], suffix="", backend="of the table"
    )
    write_json(pruned_folder(search, "begun") / "config.json", {})
    pruned: list[tuple[bool, str]] = []
    monkeypatch.setattr(training, "find", lambda *_, **__: None)
    monkeypatch.setattr(training, "_shares", lambda *_: {"new": 0.5})
    monkeypatch.setattr(training, "_settings", lambda *_: PruningConfig())
    monkeypatch.setattr(training, "_begun", lambda *_: PruningConfig(resume=True))
    monkeypatch.setattr(training, "prune", lambda config, _, __, by: pruned.append((config.resume, by)))
    assert prune_whole(Config(), search) == {}
    assert pruned == [(False, "of the table"), (True, "of the table")]


def test_equals_by_another_latency_have_folders_of_their_own() -> None:
    searches: list[Any] = [
        SimpleNamespace(suffix=suffix, run_folder=Path(), trained=Path) for suffix in ("", "-laptop")
    ]
    names = {folder(search, "winner-1").name for folder in (narrowed_folder, pruned_folder) for search in searches}
    assert names == {
        *("narrowed-winner-1", "narrowed-winner-1-laptop"),
        *("as-fast-as-winner-1", "as-fast-as-winner-1-laptop"),
    }
