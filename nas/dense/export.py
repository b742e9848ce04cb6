"""Files of a trained network of a kind: written, compared with PyTorch, timed. A kind says what is in them.

ONNX takes one normalized image, `images` (1, 3, S, S); Core ML an RGB image, `image`, which it normalizes itself.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from latency_lut.backends.onnxruntime import OnnxRuntimeBackend, session_options
from nas.dense.config import Format
from nas.dense.result import DenseResult
from nas.exporting import coreml, onnx
from nas.exporting.files import CONVERTER_ERRORS, latency_said, size_of, timed
from nas.exporting.mil import Interpreter
from nas.exporting.parity import normalized
from search_spaces import UserError
from search_spaces.command import quiet
from search_spaces.command.files import atomic_folder, write_text

FOLDER = "export"  # beside the network's weights
FILES: dict[Format, str] = {"onnx": "model.onnx", "coreml": "model.mlpackage"}

Facts = dict[str, Any]
Outputs = dict[str, Tensor]  # of images by the outputs' names, each (images, …)
Answers = Callable[[Tensor], Outputs]  # of uint8 images (count, 3, S, S)
Writer = Callable[[Path], Facts]  # writes the file, checks it, and says what `result.json` is to say of it


def write_files(
    folder: Path, formats: Iterable[Format], writers: Mapping[Format, Writer], result: DenseResult
) -> tuple[dict[str, Facts], dict[str, str]]:
    """Writes the files, and classes.txt; those of other formats that `folder` has stay.

    Of what a writer says, `differences` by output, `same` (shares of the answers), `executed_by` and `latency_ms` are
    printed.

    Returns:
        What is known of each by its format, and why others could not be written.
    """
    found: dict[str, Facts] = {}
    failed: dict[str, str] = {}
    asked = tuple(dict.fromkeys(formats))
    with atomic_folder(folder) as target:
        write_text(target / "classes.txt", "".join(f"{name}\n" for name in result["classes"]))
        for name, file in FILES.items():
            if name not in asked and name in result["files"] and (path := folder / file).exists():
                found[name] = result["files"][name]
                (shutil.copytree if path.is_dir() else shutil.copy)(path, target / file)
        for format_ in asked:
            path = target / FILES[format_]
            try:
                found[format_] = {"file": path.name, **writers[format_](path), "bytes": size_of(path)}
            except CONVERTER_ERRORS as error:
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
                failed[format_] = " ".join(str(error).split())[:300] or type(error).__name__
            else:
                print(_line(found[format_]), flush=True)
    return found, failed


def check_written(failed: Mapping[str, str]) -> None:
    """UserError if some files could not be written, which all others are."""
    if failed:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in failed.items())
        raise UserError(f"not exported: {reasons}; all else is written, leave these out of --formats")


def _line(facts: Facts) -> str:
    """What the terminal says of a file."""
    differences = ", ".join(f"{name} within {value:.1e}" for name, value in facts["differences"].items())
    says = [f"{differences} of PyTorch's"]
    says += [f"{100 * share:.2f} % of {what} the same" for what, share in facts.get("same", {}).items()]
    if executed := facts.get("executed_by"):
        says.append(f"executed by {executed}")
    says += latency_said(facts)
    return f"  {facts['file']:16}{facts['bytes'] / 1e6:7.2f} MB  {'; '.join(says)}"


def metadata(result: DenseResult, **own: Any) -> dict[str, str]:
    """What every file says of itself.

    Args:
        own: of the kind, as JSON.
    """
    size = result["image_size"]
    return {
        "classes": json.dumps(result["classes"], ensure_ascii=False),
        "image_size": str(size),
        "preprocessing": f"upright RGB; the whole image resized to {size} x {size} pixels (bilinear, antialiased)",
        "mean": json.dumps(result["mean"]),
        "std": json.dumps(result["std"]),
        "space": result["space"],
        **{name: json.dumps(value) for name, value in {"arch": result["arch"], **own}.items()},
    }


def differences(found: Outputs, expected: Outputs) -> dict[str, float]:
    """The largest absolute difference of each output; what is no number counts as infinite."""
    largest = {name: float((found[name].float() - tensor.float()).abs().max()) for name, tensor in expected.items()}
    return {name: value if value == value else float("inf") for name, value in largest.items()}


# ---- ONNX


def onnx_model(network: nn.Module, result: DenseResult, outputs: Sequence[str]) -> Any:
    """The ONNX model of a network that makes a tuple of outputs of one normalized image."""
    size = result["image_size"]
    return onnx.to_onnx(network, torch.zeros(1, 3, size, size), outputs, None, None)


def onnx_answers(path: Path, result: DenseResult) -> Callable[[Tensor], list[Outputs]]:
    """What the file makes of each of some uint8 images, in ONNX Runtime."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, session_options(threads=0), ["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]

    def answer(images: Tensor) -> list[Outputs]:
        inputs = normalized(images, result["mean"], result["std"]).split(1)
        found = (session.run(names, {"images": image.numpy()}) for image in inputs)
        return [{name: torch.from_numpy(np.asarray(x)) for name, x in zip(names, one, strict=True)} for one in found]

    return answer


def onnx_latency(path: Path, threads: int) -> Facts:
    """Of one image in ONNX Runtime, by the protocol of latency tables."""
    return timed(path, OnnxRuntimeBackend(threads))


# ---- Core ML


def core_ml_package(
    network: nn.Module, result: DenseResult, outputs: Sequence[str], integers: Collection[str] = ()
) -> Any:
    """The ML program, in float16, of a network that makes a tuple of outputs of one normalized image.

    Args:
        outputs: their names; they are float32, as all that may follow it in a pipeline takes them.
        integers: those that are int32 instead.
    """
    with quiet():
        import coremltools as ct

        return coreml.convert(
            coreml.Normalized(network, result["mean"], result["std"]),
            result["image_size"],
            outputs=[ct.TensorType(name=name, dtype=np.int32 if name in integers else np.float32) for name in outputs],
            compute_precision=ct.precision.FLOAT16,
            minimum_deployment_target=ct.target.iOS16,
        )


def save_core_ml(
    package: Any, path: Path, description: str, facts: Mapping[str, str], shown: Mapping[str, str]
) -> None:
    """
    Args:
        facts: its metadata.
        shown: what each input and output is, by name.
    """
    with quiet():
        package.short_description = description
        package.author = "nas"
        package.license = coreml.LICENSE
        package.user_defined_metadata.update(facts)
        inputs = {feature.name for feature in package.get_spec().description.input}
        for name, meaning in shown.items():
            (package.input_description if name in inputs else package.output_description)[name] = meaning
        coreml.save(package, path)


def core_ml_answers(path: Path) -> Answers:
    """What the package's program, or the first of its pipeline, makes of uint8 images: run by Core ML on a Mac, else
    operator by operator in PyTorch, in its own precision."""
    package = coreml.load_package(path)
    one = _on_apple(package) if coreml.on_apple() else _interpreted(package)

    def answer(images: Tensor) -> Outputs:
        found = [one(image) for image in images]
        return {name: torch.stack([outputs[name] for outputs in found]) for name in found[0]}

    return answer


def _interpreted(package: Any) -> Callable[[Tensor], Outputs]:
    run = Interpreter(coreml.load_program(package))
    return lambda image: run({"image": image[None].float()})


def _on_apple(package: Any) -> Callable[[Tensor], Outputs]:
    import coremltools as ct
    from PIL import Image

    spec = package.get_spec()
    if spec.WhichOneof("Type") == "pipeline":
        package = ct.models.MLModel(spec.pipeline.models[0], weights_dir=package.weights_dir)

    def answer(image: Tensor) -> Outputs:
        found = package.predict({"image": Image.fromarray(image.permute(1, 2, 0).numpy())})
        return {name: torch.from_numpy(np.asarray(value)) for name, value in found.items()}

    return answer


def core_ml_facts(path: Path) -> Facts:
    """What a program that loads the package will find."""
    with quiet():
        spec = coreml.load_package(path).get_spec()
    image = spec.description.input[0].type.imageType
    return {
        "input": f"RGB {image.width} x {image.height}",
        "outputs": [output.name for output in spec.description.output],
        "specification_version": spec.specificationVersion,
        "executed_by": "Core ML" if coreml.on_apple() else "PyTorch, operator by operator",
    }
