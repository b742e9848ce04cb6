"""What a command ends with: the next one to type."""

from __future__ import annotations

import shlex
from pathlib import Path

from nas.distributed import process
from nas.runs.folders import RUNS


def say_next(module: str, run_folder: Path, *flags: str) -> None:
    """One line, by the first process of a job."""
    if process.is_primary():
        name = run_folder.name if run_folder.parent == RUNS else str(run_folder)
        print(f"next: {shlex.join(['python', '-m', module, '--run', name, *flags])}")
