"""timm code with safetensors, and the check that timm builds the same network of it."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nas.data.pixels import preprocessing
from nas.exporting.onnx import BATCH_SIZES
from nas.exporting.parity import Parity, compare, example_images, normalized
from nas.exporting.winner import Winner
from nas.runs.checkpoint import save_tensors
from nas.runs.folders import WEIGHTS
from search_spaces import UserError
from search_spaces.command.files import write_text

HEADER = '''"""A searched network, built of timm alone.

    import timm
    from model import create_model

    model = create_model()
    timm.models.load_checkpoint(model, "model.safetensors")
    model.eval()

It is the network as it was trained, so it can be trained further; where that has branches for training only,
`timm.utils.reparameterize_model(model)` is what to ship.

Input: (batch, 3, IMAGE_SIZE, IMAGE_SIZE), images as PREPROCESSING says, scaled to 0..1, less MEAN, over STD.
Output: (batch, classes) logits, in the order of classes.txt.
"""

'''


def write_timm(winner: Winner, folder: Path) -> tuple[Path, Path]:
    """Writes `model.py` and `model.safetensors` into the folder and returns their paths."""
    info, source, weights = winner.info, folder / "model.py", folder / WEIGHTS
    code, _, body = winner.space.source(winner.arch).partition("\n\n\n")
    values = {"IMAGE_SIZE": info.image_size, "MEAN": info.mean, "STD": info.std}
    values["PREPROCESSING"] = preprocessing(info.image_size)
    constants = "".join(f"{name} = {value!r}\n" for name, value in values.items())
    write_text(source, f"{HEADER}{code}\n\n{constants}\n\n{body}")
    save_tensors(weights, winner.trained_model().state_dict(), winner.metadata)
    return source, weights


def check_timm(source: Path, weights: Path, winner: Winner) -> Parity:
    """Builds the network afresh of its files and compares the logits.

    Raises:
        UserError: they are not equal bit for bit.
    """
    import timm

    info = winner.info
    fresh = runpy.run_path(str(source))["create_model"]()
    timm.models.load_checkpoint(fresh, str(weights))
    images = normalized(example_images(sum(BATCH_SIZES), info.image_size), info.mean, info.std)
    parity = compare(lambda batch: _logits(fresh.eval(), batch), winner.trained_model(), images.split(BATCH_SIZES))
    if parity.max_abs_diff > 0:
        raise UserError(
            f"timm {timm.__version__} builds another network from {source.name}: logits differ by "
            f"{parity.max_abs_diff:.2g}; nothing was exported; install the timm of constraints.txt"
        )
    return parity


@torch.inference_mode()
def _logits(model: nn.Module, batch: torch.Tensor) -> Any:
    return model(batch).numpy()
