"""Files that someone was sent, damaged or made to do harm: every command refuses them in a line and changes nothing."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from nas import search
from nas.data import DataConfig, load_data
from search_spaces import UserError
from search_spaces.command import run
from tests.nas.damage import Input, damaged, damaged_lines, damaged_tensors, put
from tests.nas.sent_files import READERS, jobs, use

MOST_LINES = 3
KINDS = {".json": damaged, ".safetensors": damaged_tensors}


@pytest.fixture
def folder(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    use(monkeypatch, workplace)
    return workplace


def state(folder: Path) -> dict[Path, tuple[int, int]]:
    """Of every file that is there: it changes with each that is written."""
    found = ((path, path.stat()) for path in folder.rglob("*") if not path.name.endswith(".lock"))
    return {path: (stat.st_mtime_ns, stat.st_size) for path, stat in found if not path.is_dir()}


def replace(path: Path, content: bytes | None) -> None:
    """None: by a folder."""
    if path.is_dir():
        path.rmdir()
    if content is None:
        path.unlink()
        path.mkdir()
    else:
        path.write_bytes(content)


def fault(argv: tuple[str, ...], folder: Path, capsys: pytest.CaptureFixture[str]) -> str | None:
    """What is wrong with how the command ends; None if it refuses as it should."""
    before = state(folder)
    capsys.readouterr()
    try:
        run(lambda: importlib.import_module(argv[0]).main(argv[1:]))
    except SystemExit as exit_:
        code = exit_.code
    except Exception as error:
        return f"{type(error).__name__}: {error}"[:200]
    lines = capsys.readouterr().err.splitlines()
    message = [line for i, line in enumerate(lines) if any(before.startswith("error: ") for before in lines[: i + 1])]
    after = state(folder)
    if changed := [path for path in {**before, **after} if before.get(path) != after.get(path)]:
        return f"changed {changed[0]}"
    if code == 0:
        return "taken"
    return None if 1 <= len(message) <= MOST_LINES else f"{len(message)} lines of message"


def inputs(path: Path, fields: str, number: Iterator[int]) -> Iterator[Input]:
    return KINDS.get(path.suffix, damaged_lines)(path.read_bytes(), fields, number)


@pytest.mark.parametrize(("reader", "file"), jobs())
def test_what_a_command_cannot_read_is_refused(
    reader: str, file: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, whole = folder / file, (folder / file).read_bytes()
    number = count(7 * jobs().index((reader, file)))
    faults = {}
    for name, content in list(inputs(path, READERS[reader].files[file], number)):
        replace(path, content)
        if found := fault(READERS[reader].argv, folder, capsys):
            faults[name] = found
        replace(path, whole)
    assert not faults


def test_there_are_enough_inputs(folder: Path) -> None:
    found = [len(list(inputs(folder / file, READERS[reader].files[file], count()))) for reader, file in jobs()]
    assert sum(found) >= 300, sum(found)


@pytest.mark.parametrize("flag", ["storage", "ray_address"])
def test_no_file_says_what_to_connect_to(flag: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = folder / "runs/r/search-cut/config.json"
    whole = path.read_bytes()
    config = put(json.loads(whole), [flag], "postgresql://elsewhere/nas")
    path.write_bytes(json.dumps({**config, "ray_workers": 2 if flag == "ray_address" else 0}).encode())
    with pytest.raises(UserError, match="for no file says what to connect to"):
        search.main(["--run", "r", "--resume", "--name", "cut"])
    path.write_bytes(whole)


def test_no_file_names_a_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("webdataset")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="wds/x"):
        load_data(DataConfig("wds/x", data_dir="", train_split="pipe:touch ran; cat x.tar|8"))
    assert not (tmp_path / "ran").exists()
