"""How far a training is, as its checkpoint and a line on the way say, and whether it can end earlier than planned.

Learning rate, weight decay and the sizes of growing images are functions of the step and of the number of epochs. From
the checkpoint on they go as if the new number had been planned: the learning rate falls to where it would be, and ends
with the last step. A larger number would raise what has been lowered, so there is none but before the first step.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict

from torch.amp import GradScaler
from tqdm import tqdm

from nas.runs.checkpoint import load_info
from nas.training.patience import BestState
from search_spaces import UserError
from search_spaces.command.forecast import Forecast
from search_spaces.command.typed import Amount, Count, Fraction, Within, read_typed

CHECKPOINT = "checkpoint.safetensors"  # in the folder of a training


def _check_scaler(state: dict[str, Any]) -> None:
    """ValueError on what is no state of a GradScaler, with its types; empty is that of one that is not enabled."""
    usual = GradScaler("cpu", enabled=True).state_dict()
    if state and {n: type(value) for n, value in state.items()} != {n: type(value) for n, value in usual.items()}:
        raise ValueError(f"has {', '.join(state)}; no GradScaler has these")


class Progress(TypedDict):
    """What a checkpoint says beside its tensors."""

    step: Count
    epochs: Count
    planned_epochs: Count
    seconds: Amount  # of training, over all resumed parts
    start_accuracy: Fraction | None  # of the weights that it began with, on the test split, where that was asked
    best: BestState | None  # with patience
    amp: Literal["bf16", "fp16", "off"] | None
    scaler: Annotated[dict[str, Any], _check_scaler]
    processes: Annotated[int, Within(1, 1e6)]
    accumulation_steps: Annotated[int, Within(1, 1e6)]
    code: str


def evaluated(metrics: Mapping[str, Any], found: str, num_images: int) -> str:
    """A line for the terminal: how far it is, and what it reached on so many search images."""
    epoch, left = f"epoch {metrics['epoch']:.4g} of {metrics['epochs']}", tqdm.format_interval(metrics["left_s"])
    return f"{epoch}, {left} left; {found} of {num_images:,} search images"


def forecast(
    description: str, step: int, total: int, epochs: int, num_images: int, after: Sequence[float] = ()
) -> Forecast:
    """Of the time that a training takes from a step on, evaluations aside.

    Args:
        total: steps, of so many epochs.
        after: trainings that follow this one, their time as shares of its time.
    """
    part = f"the last {(total - step) / total * epochs:.3g} of " if step else ""
    following = f", and as many of each network that follows ({len(after)})" if after else ""
    what = f"{description}: {part}{epochs} epochs of {num_images:,} images{following}"
    return Forecast(what, total - step + sum(after) * total)


def load_progress(folder: Path) -> Progress | None:
    """What the folder's checkpoint has beside the tensors; None if there is none yet. UserError on anything else."""
    path = folder / CHECKPOINT
    if not path.exists():
        return None
    try:
        return read_typed(Progress, load_info(path), "its header")
    except ValueError as error:
        raise UserError(f"{path} is not of this version ({error}); restore it or train a new run") from None


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
