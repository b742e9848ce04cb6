"""How far a training is, as its checkpoint says, and whether it can end after another number of epochs than planned.

Learning rate, weight decay and the sizes of growing images are functions of the step and of the number of epochs. From
the checkpoint on they go as if the new number had been planned: the learning rate falls to where it would be, and ends
with the last step. A larger number would raise what has been lowered, so there is none but before the first step.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from nas.runs.checkpoint import load_info
from search_spaces import UserError

CHECKPOINT = "checkpoint.safetensors"  # in the folder of a training

# What a checkpoint has beside the tensors, and which of it are counts.
_COUNTS = ("step", "epochs", "planned_epochs", "processes", "accumulation_steps")
_ALL = {*_COUNTS, "seconds", "amp", "scaler", "code"}


def load_progress(folder: Path) -> dict[str, Any] | None:
    """What the folder's checkpoint has beside the tensors; None if there is none yet. UserError on anything else."""
    path = folder / CHECKPOINT
    if not path.exists():
        return None
    info = load_info(path)
    if missing := _ALL - info.keys():
        raise UserError(f"{path} is not of this version ({min(missing)} is missing); train a new run")
    if wrong := [name for name in _COUNTS if type(info[name]) is not int or info[name] < 0]:
        raise UserError(f"{path} says {wrong[0]} {info[wrong[0]]!r}, no whole number; restore it or train a new run")
    return info


def check_epochs(folder: Path, epochs: int, steps_per_epoch: int, flag: str = "--epochs") -> None:
    """UserError if the training in the folder cannot end after so many epochs.

    Args:
        flag: the one that gave the number.
    """
    info = load_progress(folder)
    if info is None or info["step"] == 0 or epochs == info["epochs"]:
        return
    done, planned = info["step"] / steps_per_epoch, info["epochs"]
    if not done <= epochs <= planned:
        raise UserError(
            f"{flag} {epochs}: {folder} has trained {done:.4g} of {planned} epochs, and its learning rate has fallen "
            f"with them; give {math.ceil(done)} to {planned}, or train anew"
        )
