"""Which training --task names, or a run that goes on."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nas import runs
from nas.supernets import classification, dense
from search_spaces import UserError
from search_spaces.dense.space import head_of

Config = classification.Config | dense.Config
TASKS: dict[str, type[Config]] = {
    "classify": classification.Config,
    "detect": dense.DetectConfig,
    "segment": dense.SegmentConfig,
}


def config_of(task: str | None, resume: bool, run: str | None) -> type[Config]:
    """The flags of that task; on `resume` of the one that the run was begun with.

    Raises:
        UserError: no such task.
    """
    if task is not None and task not in TASKS:
        raise UserError(f"--task is {task!r}; choose from {', '.join(TASKS)}")
    if not resume:
        return TASKS[task or "classify"]
    try:
        folder = runs.find_run(run, "supernet/config.json", "python -m nas.train_supernet")
    except UserError:  # whoever goes on with it says so
        return classification.Config
    head = head_of(runs.load_run_info(folder).space)
    return TASKS[head.task if head else "classify"]


def config_of_command(argv: Sequence[str] | None) -> type[Config]:
    """The flags that a command line is to be read with."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--task")
    parser.add_argument("--run")
    parser.add_argument("--resume", action=argparse.BooleanOptionalAction, default=False)
    try:
        found: Any = parser.parse_known_args(argv)[0]
    except argparse.ArgumentError:  # the whole parser says it
        return classification.Config
    return config_of(found.task, found.resume, found.run)


def train_supernet(config: Config) -> Path:
    """Trains it with what suits its images, or goes on with it, and returns the run's folder."""
    if isinstance(config, classification.Config):
        return classification.train_supernet(classification.configure(config))
    return dense.train_supernet(dense.configure(config))
