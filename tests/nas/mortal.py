"""What actors and trials of Ray run in tests: the tiny space, and a process that dies once.

Where there is a file `die`, the process that finds it at its third call removes it and is killed.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nas.evaluation.evaluator import Evaluator
from nas.searching import evaluators
from nas.training import parallel
from nas.training.trainer import Trainer
from search_spaces import SPACES
from tests.nas.tiny import QuickSpace

make_evaluator, train = evaluators.make_evaluator, parallel._train


def die_at(calls: int) -> None:
    if calls == 3 and Path("die").exists():
        Path("die").unlink()
        os.kill(os.getpid(), signal.SIGKILL)


def mortal_evaluator(config: evaluators.EvaluatorConfig) -> Evaluator:
    SPACES["tiny"] = QuickSpace
    evaluator, calls = make_evaluator(config), 0
    accuracies = evaluator.accuracies

    def mortal(*asked: Any) -> list[float]:
        nonlocal calls
        calls += 1
        die_at(calls)
        return accuracies(*asked)

    evaluator.accuracies = mortal  # type: ignore[method-assign, assignment]
    return evaluator


def train_mortal(trial: dict[str, Any], run_folder: Path, trials: Mapping[str, Any], directory: Path) -> None:
    SPACES["tiny"] = QuickSpace
    step, calls = Trainer._one, 0

    def mortal(self: Trainer, *batch: Any) -> None:
        nonlocal calls
        calls += 1
        die_at(calls)
        step(self, *batch)

    Trainer._one = mortal  # type: ignore[assignment, method-assign]
    train(trial, run_folder, trials, directory)
