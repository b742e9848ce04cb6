"""Files of a detector, with the choice among overlapping boxes (NMS) in them, as each platform has it.

ONNX: `boxes` (n, 4) left, top, right, bottom in pixels of the image that the network sees, `scores` (n,) and `labels`
(n,), the surest first, by ONNX's own NonMaxSuppression: what `SSDLite.decode` gives. Core ML: the pipeline that Vision
takes for an object detector (VNRecognizedObjectObservation), as turicreate's and Create ML's: a program that gives
`raw_confidence` (A, classes) and `raw_coordinates` (A, 4; x and y of the middle, width and height, as shares of the
image's sides), and a NonMaximumSuppression model that gives `confidence` and `coordinates` of the boxes that remain.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.ops import batched_nms

from nas.dense import export as files
from nas.dense.config import Format
from nas.dense.export import Facts, Outputs
from nas.dense.result import DenseResult
from nas.exporting import onnx
from nas.exporting.parity import example_images, normalized
from search_spaces import UserError
from search_spaces.command import quiet
from search_spaces.dense.ssdlite import CANDIDATES, DETECTIONS, IOU, SCORE, SSDLite
from search_spaces.deployed import deployed

RAW = ("raw_boxes", "raw_scores")  # before NMS, in ONNX
CONFIDENCE, COORDINATES = "confidence", "coordinates"  # Vision's names
NUM_IMAGES = 8
PIXEL, CLOSE = 1.0, 1e-3  # how far a box of the ONNX file may be from PyTorch's, and its score
SAME = 0.99  # of torchvision's boxes, which the file must have: of two with one score, either may remain
ROUNDED = 0.05  # of the image's sides, and of a score: float16 in the Core ML program


@dataclass(frozen=True)
class DetectorFiles:
    """Writes the files of a trained detector.

    Args:
        network: in evaluation mode.
        score: of the boxes that an app is to show, if it asks for no other.
        threads: of ONNX Runtime, when it is timed.
    """

    network: SSDLite
    result: DenseResult
    score: float
    threads: int

    def write(self, folder: Path, formats: tuple[Format, ...]) -> tuple[dict[str, Facts], dict[str, str]]:
        """As `nas.dense.export.write_files`."""
        return files.write_files(folder, formats, {"onnx": self._onnx, "coreml": self._coreml}, self.result)

    @property
    def metadata(self) -> dict[str, str]:
        return files.metadata(self.result, score=self.score, iou=IOU)

    def _deployed(self) -> SSDLite:
        detector = deployed(self.network)
        assert isinstance(detector, SSDLite)
        return detector

    def _onnx(self, path: Path) -> Facts:
        raw = files.onnx_model(Scored(self._deployed()), self.result, RAW)
        onnx.save_onnx(with_nms(raw), path, self.metadata)
        with TemporaryDirectory() as scratch:
            before = Path(scratch) / "raw.onnx"
            onnx.save_onnx(raw, before, {})
            facts = check_onnx(path, before, self._deployed(), self.result)
        return {**facts, **files.onnx_latency(path, self.threads)}

    def _coreml(self, path: Path) -> Facts:
        program = files.core_ml_package(ForVision(self._deployed()), self.result, [f"raw_{n}" for n in VISION])
        package = vision_pipeline(program, self.result["classes"], self.score)
        classes, size = self.result["classes"], self.result["image_size"]
        shown = {
            "image": f"the whole photo, resized to {size} x {size} pixels",
            "iouThreshold": f"of boxes that overlap more, the surer one remains (default: {IOU})",
            "confidenceThreshold": f"of the boxes to give (default: {self.score:.3f})",
            CONFIDENCE: f"boxes by the confidence in each of the classes: {', '.join(classes)}",
            COORDINATES: "boxes by x and y of their middle, width and height, as shares of the image's sides",
        }
        files.save_core_ml(package, path, self._description, self.metadata, shown)
        return {**check_coreml(path, self._deployed(), self.result), **files.core_ml_facts(path)}

    @property
    def _description(self) -> str:
        result = self.result
        return (
            f"{result['space']} detector of {len(result['classes'])} classes, {result['image_size']} px, "
            f"AP {100 * result['test']['ap']:.1f} % on its test images"
        )


# ---- ONNX


class Scored(nn.Module):
    """(1, 3, S, S) normalized to all default boxes as found, (1, A, 4) in pixels, and scores (1, classes, A): of each
    class those of the surest only, as before torchvision's NMS; of all others 0."""

    def __init__(self, detector: SSDLite) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        boxes, scores = self.detector.scored(self.detector(images))
        scores = scores.transpose(1, 2)
        last = scores.topk(min(CANDIDATES, scores.shape[-1])).values[..., -1:]
        return boxes, scores.where(scores >= last, 0)


# {…}: sizes of `Scored`'s outputs, and what SSDLite keeps. NonMaxSuppression gives (image, class, box) of each.
_NMS = """
<ir_version: {ir}, opset_import: ["": {opset}]>
nms (float[1, {boxes}, 4] raw_boxes, float[1, {classes}, {boxes}] raw_scores)
  => (float[found, 4] boxes, float[found] scores, int64[found] labels)
<int64[1] most = {{{most}}}, float[1] iou = {{{iou}}}, float[1] least = {{{least}}}, int64[1] second = {{1}}>
{{
  kept = NonMaxSuppression(raw_boxes, raw_scores, most, iou, least)
  scores_of = GatherND(raw_scores, kept)
  image, class, box = Split<axis = 1, num_outputs = 3>(kept)
  count = Shape(scores_of)
  number = Min(count, most)
  scores, order = TopK(scores_of, number)
  box_at = Concat<axis = 1>(image, box)
  boxes_of = GatherND(raw_boxes, box_at)
  boxes = Gather(boxes_of, order)
  labels_of = Squeeze(class, second)
  labels = Gather(labels_of, order)
}}
"""


def with_nms(raw: Any) -> Any:
    """The ONNX model of `Scored` with NMS behind it."""
    import onnx as library

    shape = [d.dim_value for d in raw.graph.output[1].type.tensor_type.shape.dim]
    opset = next(entry.version for entry in raw.opset_import if entry.domain == "")
    text = _NMS.format(
        ir=raw.ir_version, opset=opset, classes=shape[1], boxes=shape[2], most=DETECTIONS, iou=IOU, least=SCORE
    )
    return library.compose.merge_models(raw, library.parser.parse_model(text), [(name, name) for name in RAW])


def check_onnx(path: Path, before: Path, detector: SSDLite, result: DenseResult) -> Facts:
    """The file against `detector` in ONNX Runtime, and what it has before NMS.

    What NMS leaves is compared with what torchvision's leaves of the same numbers: where scores are nearly equal,
    rounding decides which of two boxes remains.

    Returns:
        `differences` of all boxes (pixels) and scores before NMS, and `same_boxes`, the share of torchvision's boxes
        that the file has too: of the same class, within a pixel and a thousandth; 1 where neither has any.

    Raises:
        UserError: they differ by more, or more than a hundredth of the boxes does.
    """
    images = example_images(NUM_IMAGES, result["image_size"])
    inputs = normalized(images, result["mean"], result["std"]).split(1)
    with torch.inference_mode():
        expected = [dict(zip(RAW, Scored(detector)(image), strict=True)) for image in inputs]
    raw, found = (files.onnx_answers(file, result)(images) for file in (before, path))
    different = [files.differences(*pair) for pair in zip(raw, expected, strict=True)]
    largest = {name.removeprefix("raw_"): max(one[name] for one in different) for name in RAW}
    left = [after_nms(one) for one in raw]
    count = sum(len(one["scores"]) for one in left)
    same = sum(map(num_same, found, left)) / count if count else float(not any(len(one["scores"]) for one in found))
    if largest["boxes"] > PIXEL or largest["scores"] > CLOSE or same < SAME:
        raise UserError(
            f"ONNX Runtime's boxes differ from PyTorch's by {largest['boxes']:.2g} pixels and {largest['scores']:.2g} "
            f"in score, allowed are {PIXEL:g} and {CLOSE:g}; {100 * same:.1f} % of PyTorch's remain after NMS"
        )
    return {"differences": largest, "same_boxes": same}


def after_nms(raw: Outputs) -> Outputs:
    """What torchvision's NMS leaves of an image's `raw_boxes` and `raw_scores`, as `Scored` gives them."""
    boxes, scores = raw["raw_boxes"][0], raw["raw_scores"][0]
    labels, places = (scores > SCORE).nonzero(as_tuple=True)
    kept = batched_nms(boxes[places], scores[labels, places], labels, IOU)[:DETECTIONS]
    labels, places = labels[kept], places[kept]
    return {"boxes": boxes[places], "scores": scores[labels, places], "labels": labels}


def num_same(found: Outputs, expected: Mapping[str, Tensor]) -> int:
    """How many of the expected boxes are among those found: of the same class, within a pixel and a thousandth."""
    near = (found["boxes"][None] - expected["boxes"][:, None]).abs().amax(dim=2) <= PIXEL
    near &= (found["scores"][None] - expected["scores"][:, None]).abs() <= CLOSE
    near &= found["labels"][None] == expected["labels"][:, None]
    return int(near.any(dim=1).sum())


# ---- Core ML

VISION = (CONFIDENCE, COORDINATES)


class ForVision(nn.Module):
    """(1, 3, S, S) normalized to confidence (A, classes) and coordinates (A, 4)."""

    def __init__(self, detector: SSDLite) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        boxes, scores = self.detector.scored(self.detector(images))
        left, top, right, bottom = (boxes[0] / self.detector.image_size).unbind(dim=1)
        middle = ((left + right) / 2, (top + bottom) / 2)
        return scores[0], torch.stack((*middle, right - left, bottom - top), dim=1)


def vision_pipeline(program: Any, classes: list[str], score: float) -> Any:
    """The package of the program with Core ML's NMS behind it.

    Args:
        score: the least confidence of a box that is given, by default.
    """
    with quiet():
        import coremltools as ct

        first = program.get_spec()
        whole = ct.proto.Model_pb2.Model(specificationVersion=first.specificationVersion)
        second = ct.proto.Model_pb2.Model(specificationVersion=first.specificationVersion)
        second.description.input.extend(first.description.output)
        second.description.output.extend(map(_after_nms, first.description.output))
        nms = second.nonMaximumSuppression
        nms.confidenceInputFeatureName, nms.coordinatesInputFeatureName = (f"raw_{name}" for name in VISION)
        nms.confidenceOutputFeatureName, nms.coordinatesOutputFeatureName = VISION
        nms.iouThreshold, nms.confidenceThreshold = IOU, score
        nms.pickTop.perClass = True
        nms.stringClassLabels.vector.extend(classes)
        whole.description.input.extend(first.description.input)
        for name in ("iouThreshold", "confidenceThreshold"):
            setattr(nms, f"{name}InputFeatureName", name)
            threshold = whole.description.input.add(name=name)
            threshold.type.doubleType.SetInParent()
            threshold.type.isOptional = True
        whole.description.output.extend(second.description.output)
        whole.pipeline.models.extend((first, second))
        return ct.models.MLModel(whole, weights_dir=program.weights_dir, skip_model_load=True)


def _after_nms(raw: Any) -> Any:
    """The output of NMS that any number of rows of the input remain in."""
    found = type(raw)()
    found.CopyFrom(raw)
    found.name = raw.name.removeprefix("raw_")
    array = found.type.multiArrayType
    rows, columns = array.shapeRange.sizeRanges.add(), array.shapeRange.sizeRanges.add()
    rows.lowerBound, rows.upperBound = 0, -1
    columns.lowerBound = columns.upperBound = array.shape[1]
    del array.shape[:]
    return found


def check_coreml(path: Path, detector: SSDLite, result: DenseResult) -> Facts:
    """The package's program, before NMS, against `detector`: `differences` of coordinates and confidences.

    Raises:
        UserError: they differ by more than float16's rounding.
    """
    images = example_images(NUM_IMAGES, result["image_size"])
    inputs = normalized(images, result["mean"], result["std"]).split(1)
    with torch.inference_mode():
        answered = [ForVision(detector)(image) for image in inputs]
    names = [f"raw_{name}" for name in VISION]
    expected = {name: torch.stack(one) for name, one in zip(names, zip(*answered, strict=True), strict=True)}
    found = files.differences(files.core_ml_answers(path)(images), expected)
    largest = {name.removeprefix("raw_"): value for name, value in found.items()}
    if max(largest.values()) > ROUNDED:
        raise UserError(
            f"the Core ML program's confidences differ from PyTorch's by {largest[CONFIDENCE]:.2g}, its coordinates by "
            f"{largest[COORDINATES]:.2g} of the sides, allowed is {ROUNDED}: numbers are beyond float16"
        )
    return {"differences": largest}
