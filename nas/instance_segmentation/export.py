"""The ONNX file of an instance segmenter, with all that is between an image and its objects in it.

It takes `images` (1, 3, S, S), normalized, and gives `boxes` (n, 4) left, top, right, bottom in pixels of that image,
`scores` (n,), `labels` (n,) and `masks` (n, 28, 28), how likely each part of a box is of the object, the surest first.
Masks are not stretched over their boxes: of a hundred objects on 800 x 800 pixels these would be 256 MB.

There is no Core ML file: coremltools 9 converts no RoIAlign, which both heads begin with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from nas.dense import export as files
from nas.dense.config import Format
from nas.dense.export import Facts
from nas.dense.result import DenseResult
from nas.exporting import onnx
from nas.exporting.parity import normalized
from search_spaces import UserError
from search_spaces.dense.maskrcnn import MaskRCNN
from search_spaces.deployed import deployed

OUTPUTS = ("boxes", "scores", "labels", "masks")
# How far an object of the file may be from PyTorch's: its box in pixels, its score, and each part of its mask.
ALLOWED = {"boxes": 1.0, "scores": 1e-3, "masks": 0.01}
SAME = 0.99  # of PyTorch's objects, which the file must have: of two with one score, either may remain


@dataclass(frozen=True)
class InstanceFiles:
    """Writes the file of a trained network.

    Args:
        network: in evaluation mode.
        images: uint8 (count, 3, S, S) that it is compared with PyTorch on.
        score: of the objects that an app is to show.
        threads: of ONNX Runtime, when it is timed.
    """

    network: MaskRCNN
    result: DenseResult
    images: Tensor
    score: float
    threads: int

    def write(self, folder: Path, formats: Sequence[Format]) -> tuple[dict[str, Facts], dict[str, str]]:
        """As `nas.dense.export.write_files`."""
        return files.write_files(folder, formats, {"onnx": self._onnx}, self.result)

    def _onnx(self, path: Path) -> Facts:
        network, size = deployed(self.network), self.result["image_size"]
        proto = onnx.traced_onnx(Found(network).eval(), torch.zeros(1, 3, size, size), OUTPUTS)
        onnx.save_onnx(proto, path, files.metadata(self.result, score=self.score))
        return {**check_onnx(path, self.network, self.result, self.images), **files.onnx_latency(path, self.threads)}


class Found(nn.Module):
    """(1, 3, S, S) normalized to what `MaskRCNN.predict` finds, as a tuple."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        found = self.network.predict(images)[0]  # type: ignore[operator]
        return tuple(found[name] for name in OUTPUTS)


def check_onnx(path: Path, network: MaskRCNN, result: DenseResult, images: Tensor) -> Facts:
    """The file in ONNX Runtime against `network`, on uint8 images.

    Returns:
        `differences` of the objects that both find, and the `same`, the share of PyTorch's that the file finds too:
        of the same class, no farther than ALLOWED.

    Raises:
        UserError: it finds fewer than SAME of them.
    """
    with torch.inference_mode():
        expected = [network.predict(image)[0] for image in normalized(images, result["mean"], result["std"]).split(1)]
    pairs = zip(files.onnx_answers(path, result)(images), expected, strict=True)
    distances = [distance for pair in pairs for distance in _distances(*pair)]
    near = [one for one in distances if all(one[name] <= ALLOWED[name] for name in ALLOWED)]
    same = len(near) / max(1, len(distances))
    if distances and same < SAME:
        raise UserError(
            f"ONNX Runtime finds {100 * same:.1f} % of PyTorch's {len(distances)} objects, {100 * SAME:g} % must be "
            f"within {ALLOWED['boxes']:g} pixel, {ALLOWED['scores']:g} in score and {ALLOWED['masks']:g} in masks"
        )
    return {
        "differences": {name: max((one[name] for one in near), default=0.0) for name in ALLOWED},
        "same": {"objects": same},
    }


def _distances(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> list[dict[str, float]]:
    """Of each expected object, how far the nearest one of its class is that was found; infinite if there is none."""
    away = []
    for i, label in enumerate(expected["labels"]):
        of_class = (found["labels"] == label).nonzero()[:, 0]
        apart = {
            name: (found[name][of_class] - expected[name][i]).abs().reshape(len(of_class), -1).amax(dim=1)
            for name in (ALLOWED if len(of_class) else ())
        }
        if not apart:
            away.append(dict.fromkeys(ALLOWED, float("inf")))
            continue
        nearest = int(torch.stack([apart[name] / ALLOWED[name] for name in ALLOWED]).amax(dim=0).argmin())
        away.append({name: float(values[nearest]) for name, values in apart.items()})
    return away
