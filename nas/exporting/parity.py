"""Does an exported network compute what the trained one does? Measured on made-up images, half noise, half smooth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from nas.runs import RunInfo

Answers = Callable[[Tensor], np.ndarray]
"""uint8 RGB images (count, 3, R, R) to logits or probabilities (count, classes), as an exported file gives them."""


@dataclass(frozen=True)
class Parity:
    """Largest absolute difference of any output, and the share of the images with the same class on top."""

    max_abs_diff: float
    same_class: float
    num_images: int


def example_images(count: int, image_size: int, seed: int = 0) -> Tensor:
    """(count, 3, image_size, image_size) RGB as uint8: every other image is noise, the others blurred like photos."""
    rng = torch.Generator().manual_seed(seed)
    noise = torch.rand(count, 3, image_size, image_size, generator=rng)
    coarse = torch.rand(count, 3, 4, 4, generator=rng)
    noise[1::2] = interpolate(coarse, image_size, mode="bicubic", align_corners=False)[1::2].clamp(0, 1)
    return (noise * 255).round().to(torch.uint8)


def normalized(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """uint8 RGB images as the network takes them: float32, scaled to 0..1, less `mean`, over `std`."""
    shape = (1, 3, 1, 1)
    return (images.float() / 255 - torch.tensor(mean).reshape(shape)) / torch.tensor(std).reshape(shape)


def normalized_first(model: Callable[[Tensor], Tensor], info: RunInfo) -> Callable[[Tensor], Tensor]:
    """`model`, given images as files are: uint8 RGB."""
    return lambda images: model(normalized(images, info.mean, info.std))


def limit(tolerance: float, reference: Callable[[Tensor], Tensor], images: Tensor) -> float:
    """How far logits may differ: a share of the largest on these images, or of 1 if all are smaller."""
    with torch.inference_mode():
        return tolerance * max(1.0, float(reference(images).abs().max()))


def compare(exported: Answers, reference: Callable[[Tensor], Tensor], batches: Sequence[Tensor]) -> Parity:
    """Both on the same batches; outputs are (images, classes).

    A difference that is no number counts as infinite.
    """
    with torch.inference_mode():
        expected = [reference(batch) for batch in batches]
    got = [torch.from_numpy(np.asarray(exported(batch), dtype=np.float32)) for batch in batches]
    a, b = torch.cat(expected), torch.cat(got)
    diff = float((a - b).abs().max())
    same = (a.argmax(1) == b.argmax(1)).float().mean()
    return Parity(diff if diff == diff else float("inf"), float(same), len(a))
