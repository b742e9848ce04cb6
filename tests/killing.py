"""Kills what a command does at any of its changes of files, and compares what it leaves with what it would have left.

Between two changes the disk is the same, so these are all the moments that there are, but those within a write.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from safetensors.torch import load_file

from search_spaces.command import run

PATIENCE_S = 600  # with a process that may hang, on a machine that may be busy
CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate")  # Python's audit events
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_APPEND
UNCOUNTED = "tensorboard"  # a thread of its own writes there
# What depends on the clock, or says how the command was called, in the JSON that commands write.
OF_TIME = re.compile(r"command|seconds|minutes|elapsed|left_s|images_per_s|busy|date|drift|(_ms|^mes)$")


def assert_kills_change_nothing(
    start: Path, folder: Path, begin: Callable[[], None], go_on: Callable[[], None], seed: int = 0
) -> None:
    """Killed at a random change, gone on with, and once more, the work leaves in `runs` what it leaves unkilled.

    Args:
        start: what is there before; it is copied into `folder`, once for each of both.
        begin: the work, in the current directory.
        go_on: the same after a kill, wherever that was.
    """
    rng, whole, killed = Random(seed), folder / "whole", folder / "killed"
    for copy in (whole, killed):
        shutil.copytree(start, copy)
    count = _work(whole, begin)
    _work(killed, begin, kill_at=rng.randint(1, count))
    _work(killed, go_on, kill_at=rng.randint(1, count))
    _work(killed, go_on)
    assert _artifacts(killed / "runs") == _artifacts(whole / "runs")


def _work(folder: Path, work: Callable[[], None], kill_at: int | None = None) -> int:
    """How many changes of files a forked process makes in the folder; killed at one, if it comes to that."""
    changes = multiprocessing.Value("i", 0, lock=False)
    with tempfile.TemporaryFile("w+") as output:

        def count(event: str, arguments: tuple[Any, ...]) -> None:
            opened = event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITING
            if (event in CHANGES or opened) and _is_below(folder, arguments[0]):
                changes.value += 1
                if changes.value == kill_at:
                    os.kill(os.getpid(), signal.SIGKILL)

        def process() -> None:
            os.chdir(folder)
            sys.stdout = sys.stderr = output
            sys.addaudithook(count)
            run(work)

        one = multiprocessing.get_context("fork").Process(target=process)
        one.start()
        one.join(timeout=PATIENCE_S)
        if one.exitcode is None:
            one.kill()
        output.seek(0)
        assert one.exitcode in ((0,) if kill_at is None else (0, -signal.SIGKILL)), output.read()
    return int(changes.value)


def _is_below(folder: Path, path: Any) -> bool:
    if not isinstance(path, str | os.PathLike):
        return False
    absolute = os.path.abspath(path)  # noqa: PTH100 (a Path would cost more, and this is called for every file)
    return absolute.startswith(str(folder)) and UNCOUNTED not in absolute


def _artifacts(runs: Path) -> dict[str, Any]:
    """Every file but logs, by its path, without what depends on the clock; weights as their bytes."""
    kinds: dict[str, Callable[[Path], Any]] = {
        ".json": _timeless_json,
        ".jsonl": _timeless_lines,
        ".safetensors": _weights,
        ".txt": Path.read_text,
    }
    return {
        str(path.relative_to(runs)): kinds.get(path.suffix, lambda _: None)(path)
        for path in sorted(runs.rglob("*"))
        if path.is_file() and not path.name.endswith(".lock") and UNCOUNTED not in path.parts
    }


def _weights(path: Path) -> dict[str, bytes]:
    return {name: tensor.numpy().tobytes() for name, tensor in load_file(path).items()}


def _timeless_lines(path: Path) -> list[Any]:
    return [_timeless(json.loads(line)) for line in path.read_text().splitlines()]


def _timeless_json(path: Path) -> Any:
    return _timeless(json.loads(path.read_text()))


def _timeless(found: Any) -> Any:
    if isinstance(found, dict):
        return {name: _timeless(value) for name, value in found.items() if not OF_TIME.search(name)}
    return [_timeless(value) for value in found] if isinstance(found, list) else found
