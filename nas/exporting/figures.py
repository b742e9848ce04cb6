"""What a file reaches: its own answers to test images, beside those of the network in PyTorch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from nas import runs
from nas.data import Data, Images
from nas.data.batches import eval_batches
from nas.data.listing import warn
from nas.evaluation.intervals import interval
from nas.exporting.parity import Answers, normalized_first
from nas.runs import RunInfo
from search_spaces import UserError

BATCH_SIZE = 64


def load_images(folder: Path) -> Data | None:
    """The images of a run, for calibration and accuracies; None, and a warning, if they are not there."""
    try:
        return runs.load_run_data(folder)
    except UserError as error:
        warn(f"files are not tried on test images, and none can be int8: {error}")
        return None


def accuracies(files: Mapping[str, Answers], model: nn.Module, images: Images, info: RunInfo) -> dict[str, Any]:
    """Of each file: top-1 accuracy with its 95 % interval, and how many points less it is than `model`'s.

    All see the same images, read once; corrupt ones do not count. Empty, with a warning, if none can be read.
    """
    reference = normalized_first(model, info)
    right: dict[str, list[np.ndarray]] = {name: [] for name in ("", *files)}
    for batch, labels in eval_batches(images, info.image_size, BATCH_SIZE):
        known = labels >= 0
        if not known.any():
            continue
        batch, truth = batch[known], labels[known].numpy()
        with torch.inference_mode():
            right[""].append(reference(batch).argmax(1).numpy() == truth)
        for name, answers in files.items():
            right[name].append(answers(batch).argmax(1) == truth)
    if not right[""]:
        warn(f"files are not tried on test images: none of {len(images)} can be read")
        return {}
    answered = {name: np.concatenate(found) for name, found in right.items()}
    return {name: _figures(answered[name], answered[""]) for name in files}


def _figures(file: np.ndarray, network: np.ndarray) -> dict[str, Any]:
    value, count = float(file.mean()), len(file)
    return {
        "test_accuracy": value,
        "test_accuracy_interval": interval(value, count),
        "test_images": count,
        "drop": 100 * float(network.mean() - file.mean()),
    }
