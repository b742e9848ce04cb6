"""Files of a segmenter: they give the class of each pixel, `classes` (1, S, S), by an argmax in the model.

Logits stay inside: an app shows classes, and 21 of float32 for each of 512 x 512 pixels are 22 MB to copy out of the
model, where the map is a hundredth of that in uint8 (ONNX) or a twentieth in int32 (Core ML, which has no uint8; what
Apple's own DeepLabV3 gives, https://developer.apple.com/machine-learning/models). They are compared with PyTorch's
before they are left out. Xcode shows what a package makes of an image by its `preview` metadata.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from nas.dense import export as files
from nas.dense.config import Format
from nas.dense.export import Facts, Outputs
from nas.dense.result import DenseResult
from nas.exporting import onnx
from nas.exporting.parity import normalized
from nas.segmentation.colours import colours
from search_spaces import UserError
from search_spaces.command import quiet
from search_spaces.dense.deeplab import DeepLabV3
from search_spaces.deployed import deployed

LOGITS, CLASSES = "logits", "classes"
# How far logits may be from PyTorch's, as a share of the largest (at least of 1), and which share of the pixels must
# have the same class: where two classes are as likely, rounding decides.
EXACT = {"onnx": 1e-4, "coreml": 0.05}
SAME = {"onnx": 0.999, "coreml": 0.98}


@dataclass(frozen=True)
class SegmenterFiles:
    """Writes the files of a trained segmenter.

    Args:
        network: in evaluation mode.
        images: uint8 (count, 3, S, S) that files are compared with PyTorch on.
        threads: of ONNX Runtime, when it is timed.
    """

    network: DeepLabV3
    result: DenseResult
    images: Tensor
    threads: int

    def write(self, folder: Path, formats: Sequence[Format]) -> tuple[dict[str, Facts], dict[str, str]]:
        """As `nas.dense.export.write_files`."""
        return files.write_files(folder, formats, {"onnx": self._onnx, "coreml": self._coreml}, self.result)

    @property
    def metadata(self) -> dict[str, str]:
        return files.metadata(self.result)

    def _deployed(self) -> nn.Module:
        return deployed(self.network).eval()

    def _onnx(self, path: Path) -> Facts:
        proto = files.onnx_model(Mapped(self._deployed(), torch.uint8), self.result, (LOGITS, CLASSES))
        with TemporaryDirectory() as scratch:
            whole = Path(scratch) / "whole.onnx"
            onnx.save_onnx(proto, whole, {})
            answers = [dict(one) for one in files.onnx_answers(whole, self.result)(self.images)]
            facts = self._compared("onnx", {name: torch.cat([one[name] for one in answers]) for name in answers[0]})
        proto.graph.output.remove(next(output for output in proto.graph.output if output.name == LOGITS))
        onnx.save_onnx(proto, path, self.metadata)
        return {**facts, **files.onnx_latency(path, self.threads)}

    def _coreml(self, path: Path) -> Facts:
        network = Mapped(self._deployed(), torch.int32)
        package = files.core_ml_package(network, self.result, (LOGITS, CLASSES), integers=(CLASSES,))
        with TemporaryDirectory() as scratch:
            whole = Path(scratch) / "whole.mlpackage"
            files.save_core_ml(package, whole, "", {}, {})
            answers = files.core_ml_answers(whole)(self.images)
            facts = self._compared("coreml", {name: found.flatten(0, 1) for name, found in answers.items()})
        names, size = self.result["classes"], self.result["image_size"]
        shown = {
            "image": f"the whole photo, resized to {size} x {size} pixels",
            CLASSES: f"the class of each pixel, as a number of {', '.join(names)} (from 0)",
        }
        files.save_core_ml(without_logits(package), path, self._description, {**self.metadata, **preview(names)}, shown)
        return {**facts, **files.core_ml_facts(path)}

    def _compared(self, format_: Format, found: Outputs) -> Facts:
        """What a file has found on the images against PyTorch: `differences` of logits, and which share of the pixels
        has the `same` class.

        Raises:
            UserError: they differ by more than EXACT and SAME allow.
        """
        inputs = normalized(self.images, self.result["mean"], self.result["std"])
        with torch.inference_mode():
            logits = self.network(inputs)
        difference = files.differences(found, {LOGITS: logits})[LOGITS]
        same = float((found[CLASSES].long() == self.network.decode(logits)).float().mean())
        allowed = EXACT[format_] * max(1.0, float(logits.abs().max()))
        if difference > allowed or same < SAME[format_]:
            raise UserError(
                f"its logits differ from PyTorch's by {difference:.2g}, allowed is {allowed:.2g}; "
                f"{100 * same:.2f} % of the pixels have the same class, {100 * SAME[format_]:g} % must"
            )
        return {"differences": {LOGITS: difference}, "same": {"pixels": same}}

    @property
    def _description(self) -> str:
        result = self.result
        return (
            f"{result['space']} in DeepLabv3, {len(result['classes'])} classes, {result['image_size']} px, "
            f"mIoU {100 * result['test']['miou']:.1f} % on its test images"
        )


class Mapped(nn.Module):
    """(1, 3, S, S) normalized to logits (1, num_classes, S, S) and the class of each pixel, (1, S, S)."""

    def __init__(self, network: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.network, self.dtype = network, dtype

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.network(images)
        return logits, logits.argmax(dim=1).to(self.dtype)


def without_logits(package: Any) -> Any:
    """The Core ML package whose program gives classes alone."""
    with quiet():
        import coremltools as ct

        spec = package.get_spec()
        function = spec.mlProgram.functions["main"]
        function.block_specializations[function.opset].outputs.remove(LOGITS)
        outputs = spec.description.output
        outputs.remove(next(output for output in outputs if output.name == LOGITS))
        return ct.models.MLModel(spec, weights_dir=package.weights_dir, skip_model_load=True)


def preview(classes: Sequence[str]) -> dict[str, str]:
    """By which Xcode paints classes (https://apple.github.io/coremltools/docs-guides/source/xcode-model-preview-types)."""
    painted = ["#{:02x}{:02x}{:02x}".format(*rgb) for rgb in colours(len(classes)).tolist()]
    return {
        "com.apple.coreml.model.preview.type": "imageSegmenter",
        "com.apple.coreml.model.preview.params": json.dumps({"labels": list(classes), "colors": painted}),
    }
