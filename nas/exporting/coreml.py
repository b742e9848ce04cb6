"""Core ML: an ML program that takes an RGB image and gives class label and probabilities.

In int8, by coremltools' own quantizers, weights are and activations stay float16, unless it is exported on a Mac.
Palettized, weights are places in a table of 64 values for each tensor, by k-means, and activations stay float16.

The normalization is part of the program, so the package can be dropped into Xcode. Core ML itself runs only on Apple's
systems: there `check_coreml` predicts with it; elsewhere it executes the saved program operator by operator in
PyTorch, in the program's own precision (`mil`). That checks the conversion and its rounding, not Apple's runtime.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch._decomp import get_decompositions

from nas.data.pixels import preprocessing
from nas.exporting.mil import Interpreter
from nas.exporting.parity import Answers, Parity, compare, example_images, normalized_first
from nas.objective.precisions import FilePrecision
from nas.runs import RunInfo
from search_spaces import UserError
from search_spaces.command import quiet

UNKNOWN = (torch.ops.aten.addcmul.default,)  # to coremltools 9: what it is made of is converted instead
NUM_IMAGES = 8
LICENSE = "Architecture: Apache-2.0 (timm). Weights: the terms of the data they were trained on."
PALETTE_BITS = 6  # as coremltools' own examples have it for palettes made without training
COMPRESSED: tuple[FilePrecision, ...] = ("int8", "palettized")  # what they lose is for the accuracy to say
TOLERANCE = 0.05  # of a probability; rounding to float16 moved those of networks trained on digits by up to 0.004


class Normalized(nn.Module):
    """RGB in 0..1, (batch, 3, R, R), to what `model` makes of it with `mean` taken off and divided by `std`."""

    mean: Tensor
    std: Tensor

    def __init__(self, model: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("mean", torch.tensor(mean).reshape(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std).reshape(1, 3, 1, 1))

    def forward(self, x: Tensor) -> Any:
        return self.model((x - self.mean) / self.std)


class Classifier(Normalized):
    """RGB in 0..1, (batch, 3, R, R), to probabilities (batch, classes)."""

    def __init__(self, model: nn.Module, info: RunInfo) -> None:
        super().__init__(model, info.mean, info.std)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = super().forward(x)
        return logits.softmax(dim=-1)


def write_coreml(
    model: nn.Module,
    path: Path,
    info: RunInfo,
    description: str,
    metadata: Mapping[str, str],
    precision: FilePrecision = "float16",
    images: Sequence[Tensor] = (),
) -> None:
    """Writes the folder `path` (.mlpackage); `model` is in evaluation mode.

    Args:
        images: to calibrate int8 activations on, each uint8 (3, R, R); used where Core ML runs.
    """
    with quiet():
        import coremltools as ct

        package = convert(
            Classifier(model, info),
            info.image_size,
            classifier_config=ct.ClassifierConfig(list(info.classes)),
            compute_precision=ct.precision.FLOAT32 if precision == "float32" else ct.precision.FLOAT16,
            minimum_deployment_target=ct.target.iOS17 if precision == "int8" else ct.target.iOS16,
        )
        if precision == "int8":
            package = _quantized(package, images)
        elif precision == "palettized":
            package = _palettized(package)
        package.short_description = description
        package.author = "nas.export"
        package.license = LICENSE
        package.version = metadata["name"]
        package.user_defined_metadata.update(metadata)
        package.input_description["image"] = preprocessing(info.image_size)
        package.output_description["classLabel"] = "the most probable class"
        package.output_description["classLabel_probs"] = "the probability of each class"
        save(package, path)


def convert(model: nn.Module, image_size: int, **options: Any) -> Any:
    """The ML program of a network that takes RGB in 0..1; it has the input `image`.

    Args:
        options: of `coremltools.convert`.
    """
    import coremltools as ct

    size = (1, 3, image_size, image_size)
    program = torch.export.export(model.eval(), (torch.zeros(size),))
    program = program.run_decompositions(get_decompositions(UNKNOWN))
    _remove_aliases(program.graph)
    image = ct.ImageType(name="image", shape=size, scale=1 / 255, color_layout=ct.colorlayout.RGB)
    return ct.convert(program, convert_to="mlprogram", inputs=[image], **options)


def save(package: Any, path: Path) -> None:
    """Writes the folder `path` (.mlpackage)."""
    package.save(str(path))
    (path / "executorch_debug_handle_mapping.json").unlink(missing_ok=True)  # a trace of torch.export, no part of it


def _quantized(package: Any, images: Sequence[Tensor]) -> Any:
    """With weights in int8, a scale for each output channel; on Apple's systems activations too.

    coremltools finds the ranges of activations by running the package, which Core ML alone can.
    """
    import coremltools.optimize.coreml as cto
    from PIL import Image

    config = cto.OptimizationConfig(cto.OpLinearQuantizerConfig(mode="linear_symmetric"))
    if on_apple():
        samples = [{"image": Image.fromarray(image.permute(1, 2, 0).numpy())} for image in images]
        package = cto.linear_quantize_activations(package, config, samples)
    return cto.linear_quantize_weights(package, config)


def _palettized(package: Any) -> Any:
    """With all weights but the smallest, of 2,048 numbers, in palettes."""
    import coremltools.optimize.coreml as cto

    config = cto.OptimizationConfig(cto.OpPalettizerConfig(mode="kmeans", nbits=PALETTE_BITS))
    return cto.palettize_weights(package, config)


def _remove_aliases(graph: torch.fx.Graph) -> None:
    """Views of whole tensors, which a roll by nothing leaves behind and coremltools does not know."""
    for node in list(graph.nodes):
        if node.target is torch.ops.aten.alias.default:
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)


def answers(path: Path, info: RunInfo) -> Answers:
    """What the package answers: in Core ML, or executed by PyTorch."""
    package = load_package(path)
    return _core_ml(package, info.classes) if on_apple() else _interpreted(package)


def on_apple() -> bool:
    return sys.platform == "darwin"


def load_package(path: Path) -> Any:
    with quiet():
        import coremltools as ct

        return ct.models.MLModel(str(path), skip_model_load=not on_apple())


def check_coreml(
    path: Path, model: nn.Module, info: RunInfo, precision: FilePrecision = "float16"
) -> tuple[Parity, dict[str, Any]]:
    """The saved package against `model`: probabilities of RGB images, and what its specification says.

    Raises:
        UserError: a probability differs by more than TOLERANCE; that of a compressed package may.
    """
    reference = normalized_first(model, info)
    images = [example_images(NUM_IMAGES, info.image_size)]
    parity = compare(answers(path, info), lambda pixels: reference(pixels).softmax(dim=1), images)
    if parity.max_abs_diff > TOLERANCE and precision not in COMPRESSED:
        raise UserError(
            f"the Core ML program's probabilities differ from PyTorch's by {parity.max_abs_diff:.2g}, allowed is "
            f"{TOLERANCE}: activations or weights are beyond float16"
        )
    return parity, {
        **describe(load_package(path)),
        "executed_by": "Core ML" if on_apple() else "PyTorch, operator by operator",
    }


def _core_ml(package: Any, classes: tuple[str, ...]) -> Answers:
    """Predicts with Core ML, an image at a time, from pixels of 0 to 255."""
    from PIL import Image

    def predict(pixels: Tensor) -> np.ndarray:
        images = [Image.fromarray(image) for image in pixels.permute(0, 2, 3, 1).numpy()]
        outputs = [package.predict({"image": image})["classLabel_probs"] for image in images]
        return np.array([[output[name] for name in classes] for output in outputs], dtype=np.float32)

    return predict


def _interpreted(package: Any) -> Answers:
    """Executes the program, an image at a time; its first operator scales the pixels of 0 to 255, as Core ML has it."""
    run = Interpreter(load_program(package))

    def predict(pixels: Tensor) -> np.ndarray:
        outputs = [run({"image": image[None].float()}) for image in pixels]
        return np.concatenate([output["probabilities"].numpy() for output in outputs])

    return predict


def load_program(package: Any) -> Any:
    """The saved package's MIL program, its weights read from the package's file; of a pipeline that of its first
    model."""
    with quiet():
        from coremltools.converters.mil.frontend.milproto.load import load

        spec = package.get_spec()
        if spec.WhichOneof("Type") == "pipeline":
            spec = spec.pipeline.models[0]
        return load(spec, spec.specificationVersion, package.weights_dir)


def describe(package: Any) -> dict[str, Any]:
    """What a program that loads the package will find: input, classes, precision and number of weights."""
    spec = package.get_spec()
    image = spec.description.input[0].type.imageType
    operators = list(load_program(package).functions["main"].operations)
    weights = [op.outputs[0].val for op in operators if op.op_type == "const" and np.ndim(op.outputs[0].val) > 0]
    floats = [w for w in weights if np.issubdtype(np.asarray(w).dtype, np.floating)]
    (classify,) = [op for op in operators if op.op_type == "classify"]
    return {
        "input": f"RGB {image.width} x {image.height}",
        "num_classes": len(classify.classes.val),
        "num_weights": int(sum(np.size(w) for w in floats)),
        "weights": ", ".join(sorted({str(w.dtype) for w in floats})),
        "specification_version": spec.specificationVersion,
    }
