"""What a command ends with: the next one to type."""

from __future__ import annotations

import shlex
from pathlib import Path

from nas.distributed import process
from search_spaces.command.folders import RUNS


def next_command(module: str, run_folder: Path, *flags: str) -> str:
    """The command on this run."""
    name = run_folder.name if run_folder.parent == RUNS else str(run_folder)
    return shlex.join(["python", "-m", module, "--run", name, *flags])


def train_searched(run_folder: Path, space: str, network: str) -> str:
    """The command that trains a network with a head, which a search has found.

    Args:
        space: its name.
        network: its name.
    """
    command = {"ssdlite": "nas.detect", "deeplabv3": "nas.segment"}[space.partition("+")[2]]
    name = run_folder.name if run_folder.parent == RUNS else str(run_folder)
    return shlex.join(["python", "-m", command, "--backbone", f"{name}:{network}"])


def say_next(module: str, run_folder: Path, *flags: str) -> None:
    """One line, by the first process of a job."""
    if process.is_primary():
        print(f"next: {next_command(module, run_folder, *flags)}")
