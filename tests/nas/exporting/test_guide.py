"""What an export folder says of itself: the code in it is run, or parsed where its platform is not here."""

from __future__ import annotations

import io
import os
import re
import runpy
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import tree_sitter
import tree_sitter_kotlin
import tree_sitter_swift
from PIL import Image

from nas.data.batches import eval_transform
from nas.data.pixels import decode
from nas.evaluation.intervals import with_interval
from nas.exporting.guide import SAMPLES, TEMPLATES, sample_code, write_guide
from nas.runs import RunInfo
from tests.nas.exporting.small import Network

ANDROID = Path(__file__).parent / "android"  # what the samples use of Android and the runtimes, empty
ODD: dict[str, Any] = {
    "image_size": 152,
    "mean": (0.11, 0.12, 0.13),
    "std": (0.21, 0.22, 0.23),
}  # unlike what samples hold


def photo(width: int, height: int, seed: int = 0) -> Image.Image:
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (height // 8 + 2, width // 8 + 2, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BILINEAR))
    return Image.fromarray((smooth // 2 + rng.integers(0, 128, smooth.shape)).astype(np.uint8))


def jpeg(width: int, height: int, seed: int = 0) -> bytes:
    """A photo that was taken with the camera held upright: it is stored lying on its side."""
    exif, content = Image.Exif(), io.BytesIO()
    exif[0x0112] = 6
    photo(width, height, seed).save(content, "jpeg", exif=exif)
    return content.getvalue()


def as_trained(content: bytes, info: RunInfo) -> torch.Tensor:
    """The image as nas' own readers and transforms give it to the network: (1, 3, R, R)."""
    pixels = torch.as_tensor(eval_transform(info.image_size)(decode(content))).float()
    mean, std = (torch.tensor(values).reshape(3, 1, 1) for values in (info.mean, info.std))
    return ((pixels / 255 - mean) / std)[None]


Exported = tuple[Path, dict[str, Any]]


@pytest.mark.parametrize(("model", "tolerance"), [("model.onnx", 1e-4), ("model-int8.onnx", 0.2)])
def test_the_python_sample_answers_as_pytorch_does(
    exported: Exported,
    network: Network,
    model: str,
    tolerance: float,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    folder, _ = exported
    sample = runpy.run_path(str(folder / "predict.py"))
    for seed in range(3):
        content = jpeg(97, 61, seed)
        wanted = network.model()(as_trained(content, network.info)).detach().numpy()
        with Image.open(io.BytesIO(content)) as image:
            got = sample["logits"](folder / model, sample["preprocess"](image))
        assert got.shape == wanted.shape
        spread = wanted.max() - wanted.min()
        assert np.abs(got - wanted).max() < tolerance * spread
        assert got.argmax() == wanted.argmax()
    (tmp_path / "photo.jpg").write_bytes(content)
    sample["main"](str(tmp_path / "photo.jpg"), model)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5
    shares = np.exp(got[0]) / np.exp(got[0]).sum()
    for line, i in zip(lines, shares.argsort()[::-1], strict=False):
        assert line == f"{shares[i]:7.2%}  {network.info.classes[i]}"


@pytest.mark.parametrize("size", [16, 127, 128, 224])
def test_python_prepares_images_as_training_did(network: Network, size: int, tmp_path: Path) -> None:
    info = replace(network.info, **{**ODD, "image_size": size})
    (tmp_path / "predict.py").write_text(sample_code("predict.py", info, "model.onnx"))
    sample = runpy.run_path(str(tmp_path / "predict.py"))
    for width, height in ((97, 61), (300, 301)):
        content = jpeg(width, height)
        with Image.open(io.BytesIO(content)) as image:
            got = sample["preprocess"](image)
        assert got.dtype == np.float32
        assert np.abs(got - as_trained(content, info).numpy()).max() < 1e-5


@pytest.mark.parametrize("name", ["predict.py", "predict_timm.py"])
@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32])
def test_python_refuses_photos_of_more_than_8_bits(
    exported: Exported, name: str, dtype: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pillow would clip them to white or black."""
    half = {"IMAGE_SIZE": 16, "MEAN": (0.5,) * 3, "STD": (0.5,) * 3}
    monkeypatch.setitem(sys.modules, "model", SimpleNamespace(**half, create_model=None))
    for file in (name, "classes.txt"):
        there = exported[0] / file
        shutil.copy(there if there.exists() else TEMPLATES / file, tmp_path)
    Image.fromarray(np.full((32, 32), 1000, dtype)).save(tmp_path / "photo.tif")
    with pytest.raises(SystemExit, match=r"^the photo has pixels of more than 8 bits: scale its white to 255 first$"):
        runpy.run_path(str(tmp_path / name))["main"](str(tmp_path / "photo.tif"))


def test_what_the_folder_says_is_what_was_measured(exported: Exported) -> None:
    folder, result = exported
    text = (folder / "README.md").read_text()
    assert text.startswith("# net\n\na test. All figures: `result.json`.\n")
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| `")]
    assert len(rows) == len(result) == 3
    for (file, precision, accuracy, size, latency, memory), facts in zip(rows, result.values(), strict=True):
        assert (file, precision) == (f"| `{facts['file']}`", facts["precision"])
        assert (latency, memory) == ("0.500", "2.5 |")
        assert accuracy == with_interval(facts["test_accuracy"], facts["test_images"])
        assert size == f"{(folder / facts['file']).stat().st_size / 1e6:.2f}"
    assert "(1, 3, 16, 16) float32, planes R, G, B: pixels / 255, less (0.5, 0.5, 0.5), over (0.5, 0.5, 0.5)" in text
    assert "shorter side resized to 16 pixels" in text
    assert "Of pixels of more than 8 bits, scale white to 255 first." in text
    assert "Core ML" not in text
    assert "- **Kotlin**: Android turns the colours of a wide-gamut photo (Display P3) into sRGB" in text


def facts(kind: str, file: str, precision: str = "float32") -> dict[str, Any]:
    return {"file": file, "format": kind, "precision": precision, "bytes": 1_000_000}


def test_the_code_is_for_the_formats_that_are_there(network: Network, tmp_path: Path) -> None:
    there = {"coreml": facts("coreml", "model.mlpackage")}
    write_guide(tmp_path, network, there)
    assert {path.name for path in tmp_path.iterdir()} == {"README.md", "Classifier.swift"}
    text = (tmp_path / "README.md").read_text()
    assert "Core ML** takes the RGB image" in text and "Kotlin" not in text
    there["litert-int8"] = facts("litert", "model-int8.tflite", "int8")
    write_guide(tmp_path, network, there)
    assert {path.name for path in tmp_path.iterdir()} == {
        *("README.md", "Classifier.swift", "Classifier.kt", "LiteRtClassifier.kt"),
    }
    assert 'MODEL = "model-int8.tflite"' in (tmp_path / "LiteRtClassifier.kt").read_text()
    there["litert"] = facts("litert", "model.tflite")
    write_guide(tmp_path, network, there)
    assert 'MODEL = "model.tflite"' in (tmp_path / "LiteRtClassifier.kt").read_text()
    runtime = {"runtime_version": "9.8.7+cpu"}
    write_guide(tmp_path, network, {"executorch": {**facts("executorch", "model.pte"), "runtime": runtime}})
    assert 'executorch-android:9.8.7")' in (tmp_path / "README.md").read_text()


def test_every_constant_is_the_networks(network: Network) -> None:
    info = replace(network.info, **ODD)
    names = {name for samples in SAMPLES.values() for sample in samples for name in sample.files}
    assert names == {path.name for path in TEMPLATES.iterdir() if path.is_file()}
    code = {name: sample_code(name, info, "other.x") for name in names}
    for text in code.values():
        assert not re.search(r"= .*(224|235|0\.485|0\.229|\"model[.\"])", text)
    for name in ("predict.py", "Classifier.kt"):
        assert "IMAGE_SIZE = 152" in code[name] and "RESIZED = 160" in code[name]
    assert "let imageSize = 152" in code["Classifier.swift"] and "resizedSide = 160" in code["Classifier.swift"]
    assert "MEAN = (0.11, 0.12, 0.13)" in code["predict.py"] and "CROP_SHARE = 0.95" in code["predict_timm.py"]
    assert "STD = floatArrayOf(0.21f, 0.22f, 0.23f)" in code["Classifier.kt"]


GRAMMARS = {".kt": tree_sitter_kotlin, ".swift": tree_sitter_swift}


def mistakes(text: str, suffix: str) -> list[str]:
    """The lines that the language's grammar does not know."""
    parser = tree_sitter.Parser(tree_sitter.Language(GRAMMARS[suffix].language()))
    unknown, left = [], [parser.parse(text.encode()).root_node]
    while left:
        node = left.pop()
        left += node.children
        if node.is_error or node.is_missing:
            unknown.append(text.splitlines()[node.start_point.row])
    return unknown


@pytest.mark.parametrize("name", sorted(path.name for path in TEMPLATES.iterdir() if path.suffix in GRAMMARS))
def test_kotlin_and_swift_have_no_syntax_errors(network: Network, name: str) -> None:
    code = sample_code(name, replace(network.info, **ODD), "model.x")
    assert not mistakes(code, Path(name).suffix)
    assert mistakes(code.replace(") {", "{", 1), Path(name).suffix), "a mistake would be seen"


@pytest.mark.heavy
@pytest.mark.skipif(not (shutil.which("kotlinc") and shutil.which("java")), reason="kotlinc is not installed")
def test_kotlin_compiles_and_prepares_images_as_training_did(network: Network, tmp_path: Path) -> None:
    """Against what the vendors document; a level of 255 is all that rounding may cost."""
    info = replace(network.info, **ODD)
    for name in (path.name for path in TEMPLATES.glob("*.kt")):
        (tmp_path / name).write_text(sample_code(name, info, "model.x"))
    libraries = Path(shutil.which("kotlinc") or "").resolve().parents[1] / "lib"
    path = os.pathsep.join(str(libraries / f"kotlin-stdlib{kind}.jar") for kind in ("", "-jdk7"))
    sources = [*map(str, tmp_path.glob("*.kt")), *map(str, ANDROID.glob("*.kt"))]
    program = str(tmp_path / "all.jar")
    subprocess.run(["kotlinc", "-nowarn", "-cp", path, "-d", program, *sources], check=True)
    for width, height in ((97, 61), (640, 481), (30, 50)):
        image = photo(width, height)
        red, green, blue = np.moveaxis(np.asarray(image).astype(np.uint32), 2, 0)
        argb = 255 << 24 | red << 16 | green << 8 | blue
        (tmp_path / "in").write_bytes(np.array([width, height], ">u4").tobytes() + argb.astype(">u4").tobytes())
        command: list[Any] = [
            "java",
            "-cp",
            os.pathsep.join((program, path)),
            "MainKt",
            tmp_path / "in",
            tmp_path / "out",
        ]
        subprocess.run(command, check=True)
        got = np.frombuffer((tmp_path / "out").read_bytes(), ">f4").reshape(1, 3, info.image_size, info.image_size)
        content = io.BytesIO()
        image.save(content, "png")
        wanted = as_trained(content.getvalue(), info).numpy()
        levels = np.abs(got - wanted) * 255 * np.reshape(info.std, (1, 3, 1, 1))
        assert levels.max() < 1.01
        assert (levels > 0.5).mean() < 0.01
