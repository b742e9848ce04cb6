"""Names and files of runs that someone sent: nothing is written elsewhere, and what is wrong is named."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from nas import runs
from nas.runs.metrics import read_metrics
from nas.searching.result import read_result
from nas.training.winner import Config
from nas.training.winners import find_winners, folder_name
from search_spaces import UserError, get_space
from search_spaces.command.files import read_json, try_lock, write_json
from tests.nas.synthetic_run import run_info

BAD_NAMES = ("..", ".", ".hidden", "../x", "/etc/x", "a/b", "a\\b", "a\nb", "a\0b", "", "x" * 300)


@pytest.mark.parametrize("name", BAD_NAMES)
def test_what_is_no_folders_name_is_refused_in_a_line(name: Any) -> None:
    with pytest.raises(
        UserError, match=r"^--name is .*give letters, digits, dots \(not the first\) and dashes"
    ) as error:
        runs.check_name("--name", name)
    assert len(str(error.value)) < 250 and "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["winner-1", "größe_2.5", "-x", "a..b"])
def test_other_names_are_taken(name: str) -> None:
    runs.check_name("--name", name)


@pytest.mark.parametrize("run", ["..", ".", "", "a\nb", "x" * 300, "a/" + "x" * 300, "a/\x1b[2J"])
def test_a_run_lies_where_it_says(run: str) -> None:
    with pytest.raises(UserError, match="--run is "):
        runs.run_folder(run)


def test_a_supernet_that_is_missing_is_begun_or_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty folder has nothing to go on with."""
    monkeypatch.chdir(tmp_path)

    def remedy(run: str | None) -> str:
        with pytest.raises(UserError) as error:
            runs.find_trained(run)
        return str(error.value).partition("make it with: python -m nas.train_supernet")[2]

    Path("runs/r").mkdir(parents=True)
    assert (remedy(None), remedy("r")) == ("", " --run r")
    write_json(Path("runs/r/supernet/config.json"), {})
    assert (remedy(None), remedy("r")) == (" --resume", " --resume --run r")
    write_json(Path("runs/r/supernet/result.json"), {})
    assert runs.find_trained(None) == runs.find_trained("r") == Path("runs/r")


@pytest.mark.parametrize("name", ["../../../../X", "..", "a/b", 3])
def test_names_of_winners_do_not_lead_out_of_the_run(
    name: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "runs/r/search/result.json"
    write_json(path, {"winners": [{"name": name, "arch": {}}], "earlier_winners": [], "objective": {}, "tables": {}})
    with pytest.raises(UserError, match=r"winners.0.name is"):
        find_winners(Config(run="r"))
    with pytest.raises(UserError, match=r"winners.0.name is"):
        read_result(path.parent)
    with pytest.raises(UserError):
        folder_name("winner-1", "/../../x")


def test_results_of_other_kinds_are_named(tmp_path: Path) -> None:
    contents: tuple[Any, ...] = ([], 3, "objective", {"objective": {}}, {"objective": [], "tables": 1}, {"winners": 3})
    for content in contents:
        write_json(tmp_path / "result.json", content)
        with pytest.raises(UserError, match=r"result.json is not of this version"):
            read_result(tmp_path)


def info(**changes: Any) -> dict[str, Any]:
    return {**run_info(get_space("efficientformerv2-nano", 32, 2), ["a", "b"]), **changes}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ([], "not a valid ClassesRun"),
        ({"space": 3}, "run.json.space is 3, not a valid str"),
        ({"classes": "ab"}, "run.json.classes is 'ab'"),
        ({"num_classes": 10**9}, "not as many names as classes"),
        ({"mean": [0.5]}, "no mean and std of R, G, B"),
        ({"std": [0, 0, 0]}, "run.json.std.0 is 0"),
        ({"data": {"data": 3}}, "run.json.data.data is 3, not a valid str"),
        ({"data": {"data": "digits", "x": 1}}, "run.json.data has an unknown x"),
        ({"data": {"data": "digits", "search_fraction": 7}}, "run.json.data: --search-fraction is 7"),
        ({"splits": {}}, "run.json.splits has no train"),
        ({"image_size": None}, "run.json.image_size is None"),
    ],
)
def test_a_run_of_other_types_is_named(changed: Any, message: str, tmp_path: Path) -> None:
    write_json(tmp_path / "run.json", info(**changed) if isinstance(changed, dict) else changed)
    with pytest.raises(UserError, match=message):
        runs.load_run_info(tmp_path)


def test_flags_that_are_newer_than_the_run_have_their_defaults(tmp_path: Path) -> None:
    write_json(tmp_path / "run.json", info())
    assert read_json(tmp_path / "run.json")["data"] == {"data": "digits"}
    assert runs.load_classes_info(tmp_path).data.search_fraction == 0.15


def test_a_run_that_another_process_has_begun_meanwhile_is_as_it_was(tmp_path: Path) -> None:
    write_json(tmp_path / "r/run.json", info())
    before = (tmp_path / "r/run.json").read_bytes()
    ours, stage = replace(runs.load_run_info(tmp_path / "r"), classes=("c", "d")), tmp_path / "r/supernet"
    with pytest.raises(UserError, match=r"r is a run of .*, or of other images; give another --run"):
        runs.begin_run(tmp_path / "r", ours, stage, Settings(3, ()))
    write_json(stage / "config.json", {"command": "theirs"})
    with pytest.raises(UserError, match=r"r/supernet exists; go on with it by --resume, or make another with --run"):
        runs.begin_run(tmp_path / "r", ours, stage, Settings(3, ()))
    assert (tmp_path / "r/run.json").read_bytes() == before and runs.command_of(stage) == "theirs"


@dataclass(frozen=True)
class Settings:
    epochs: int
    names: tuple[str, ...]


@pytest.mark.parametrize(
    "content", [[], {}, {"command": 3}, {"command": "c"}, {"command": "c", "epochs": "3", "names": []}]
)
def test_a_config_of_other_types_is_named(content: Any, tmp_path: Path) -> None:
    write_json(tmp_path / "config.json", content)
    with pytest.raises(UserError, match=r"config.json (has no command|is not of this version)"):
        runs.begun(tmp_path, Settings)


def test_a_config_is_read_as_it_was_written(tmp_path: Path) -> None:
    write_json(tmp_path / "config.json", {"command": "c", "epochs": 3, "names": ["a"], "fact": 1})
    assert runs.begun(tmp_path, Settings) == Settings(3, ("a",))


def test_going_on_records_only_when_told_to(tmp_path: Path) -> None:
    runs.begin(tmp_path, Settings(3, ("a",)), study="s")
    before = (tmp_path / "config.json").read_bytes()
    changed = runs.reopen(tmp_path, Settings(4, ("a", "b")), (), ("epochs", "names"), study="s")
    assert changed == {"epochs": 4, "names": ["a", "b"]} and (tmp_path / "config.json").read_bytes() == before
    runs.record(tmp_path, changed)
    assert runs.begun(tmp_path, Settings) == Settings(4, ("a", "b"))
    assert runs.command_of(tmp_path).endswith(" --epochs=4 --names=a --names=b")
    write_json(tmp_path / "config.json", {"command": "c", "study": 3})
    with pytest.raises(UserError, match=r"config.json has no study \(3\); restore it"):
        runs.fact(tmp_path, "study", str)


@pytest.mark.parametrize(
    ("command", "changed", "expected"),
    [
        ("python -m x --names a b --epochs 3", {"names": ["c", "d"]}, "python -m x --epochs 3 --names=c --names=d"),
        ("python -m x --names=a y --names=b --epochs 3", {"epochs": 4}, "python -m x --names=a y --names=b --epochs=4"),
        ("python -m x --names=a y --names=b --epochs 3", {"names": ["c"]}, "python -m x y --epochs 3 --names=c"),
        ("python -m x --names a 'b c'", {"names": []}, "python -m x"),
        ("python -m x --names-of 'a  b'", {"names": ["c"]}, "python -m x --names-of 'a  b' --names=c"),
        ("don't", {"epochs": 4}, "don't --epochs=4"),
    ],
)
def test_the_command_recorded_gives_each_flag_what_counts(
    command: str, changed: dict[str, Any], expected: str, tmp_path: Path
) -> None:
    """Typed again it is the stage as it is: values of a repeated flag add up."""
    write_json(tmp_path / "config.json", {"command": command, "epochs": 3, "names": ["a"]})
    runs.record(tmp_path, changed)
    assert runs.command_of(tmp_path) == expected


def test_what_python_has_called_leaves_its_stages_to_other_processes(tmp_path: Path) -> None:
    """A command holds its own until it ends; a notebook stays open."""
    ours, later, lock = tmp_path / "ours", tmp_path / "later", ".lock"
    runs.begin(ours, Settings(3, ()))
    for _ in range(2):
        with suppress(KeyboardInterrupt), runs.released():
            runs.begin(later, Settings(3, ()))
            runs.reopen(ours, Settings(3, ()), ())
            assert try_lock(later / lock) is None and try_lock(ours / lock) is None
            raise KeyboardInterrupt
        assert try_lock(later / lock) is not None and try_lock(ours / lock) is None


@pytest.mark.parametrize(
    ("recorded", "now"),
    [
        ("runs/r/retrain/winner-1", "moved/s/retrain/winner-1"),
        ("/old/place/runs/tables/t.json", "moved/tables/t.json"),
        ("runs/r/retrain/gone", "runs/r/retrain/gone"),
        ("deit_tiny_patch16_224", "deit_tiny_patch16_224"),
        ("moved/s", "moved/s"),
    ],
)
def test_what_a_run_has_recorded_is_followed_to_where_the_run_is(
    recorded: str, now: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("moved/s/retrain/winner-1").mkdir(parents=True)
    write_json(Path("moved/tables/t.json"), {})
    assert runs.follow(recorded, Path("moved/s")) == now


@pytest.mark.parametrize("line", ["{", "3", "{}", '{"step": "1"}', "[" * 100_000])
def test_a_broken_line_of_metrics_is_named_by_its_number(line: str, tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"step": 1, "epoch": 0.5}) + f"\n{line}\n")
    with pytest.raises(UserError, match=r"metrics.jsonl, line 2, is not JSON|metrics.jsonl is not .* \(line 2"):
        read_metrics(tmp_path / "metrics.jsonl")
