"""What a command ends with: the next one to type."""

from __future__ import annotations

import shlex
from pathlib import Path

from nas.distributed import process
from search_spaces.command.folders import RUNS
from search_spaces.dense.space import head_of


def next_command(module: str, run_folder: Path, *flags: str) -> str:
    """The command on this run."""
    return shlex.join(["python", "-m", module, "--run", _name(run_folder), *flags])


def _name(run_folder: Path) -> str:
    return run_folder.name if run_folder.parent == RUNS else str(run_folder)


def train_searched(run_folder: Path, space: str, network: str) -> str:
    """The command that trains a network with a head, which a search has found.

    Args:
        space: its name.
        network: its name.
    """
    head = head_of(space)
    assert head is not None
    return shlex.join(["python", "-m", f"nas.{head.task}", "--backbone", f"{_name(run_folder)}:{network}"])


def say_next(module: str, run_folder: Path, *flags: str) -> None:
    """One line, by the first process of a job."""
    if process.is_primary():
        print(f"next: {next_command(module, run_folder, *flags)}")
