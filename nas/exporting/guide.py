"""What an export folder says of itself: a README of a page, and code that classifies a photo, for each format in it.

The code is that of `samples/`, with its constants replaced by the network's, so each of them is a program as it stands.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nas.data.pixels import crop_share, preprocessing, resized_side
from nas.evaluation.intervals import with_interval
from nas.exporting.matrix import FORMATS, Format
from nas.exporting.winner import Exportable
from nas.runs import RunInfo
from search_spaces.command.files import write_text

TEMPLATES = Path(__file__).with_name("samples")


@dataclass(frozen=True)
class Sample:
    """Code for one platform.

    Args:
        platform: as the README calls it.
        files: of `samples/`.
        use: how, with {file}, {code} and {version} of the runtime that tried the file.
    """

    platform: str
    files: tuple[str, ...]
    use: str

    def line(self, facts: Mapping[str, Any]) -> str:
        version = facts.get("runtime", {}).get("runtime_version", "").partition("+")[0]  # without the build's kind
        code = " and ".join(f"`{name}`" for name in self.files)
        return f"- **{self.platform}**: {self.use.format(file=facts['file'], code=code, version=version)}"


DEEP = "Of pixels of more than 8 bits, scale white to 255 first."
GAMUT = (
    "- **Kotlin**: Android turns the colours of a wide-gamut photo (Display P3) into sRGB; training and all other code "
    "here take the file's numbers as they are. For an app that sees such photos, train on photos saved as sRGB."
)
ANDROID = "{code}; `{file}` and `classes.txt` in the assets; in the dependencies "
SAMPLES: dict[Format, tuple[Sample, ...]] = {
    "onnx": (
        Sample("Python", ("predict.py",), "`pip install onnxruntime numpy pillow`, then `python predict.py photo.jpg`"),
        Sample(
            "Android, ONNX Runtime",
            ("Classifier.kt", "OnnxClassifier.kt"),
            ANDROID + '`implementation("com.microsoft.onnxruntime:onnxruntime-android:latest.release")`',
        ),
    ),
    "coreml": (Sample("iOS, macOS", ("Classifier.swift",), "{code}, and `{file}` dropped into the Xcode project"),),
    "timm": (
        Sample("Python, PyTorch", ("predict_timm.py",), "`pip install timm`, then `python predict_timm.py photo.jpg`"),
    ),
    "litert": (
        Sample(
            "Android, LiteRT",
            ("Classifier.kt", "LiteRtClassifier.kt"),
            ANDROID + '`implementation("com.google.ai.edge.litert:litert:latest.release")`',
        ),
    ),
    "executorch": (
        Sample(
            "Android, ExecuTorch",
            ("Classifier.kt", "ExecuTorchClassifier.kt"),
            ANDROID + '`implementation("org.pytorch:executorch-android:{version}")`',
        ),
    ),
}


def write_guide(folder: Path, network: Exportable, files: Mapping[str, Mapping[str, Any]]) -> None:
    """Writes README.md and the code beside it.

    Args:
        files: all that the folder has, as `result.json` has them.
    """
    uses = []
    for kind, samples in SAMPLES.items():
        if (facts := _usual(kind, files)) is not None:
            uses += [sample.line(facts) for sample in samples]
            for name in {name for sample in samples for name in sample.files}:
                write_text(folder / name, sample_code(name, network.info, facts["file"]))
    write_text(folder / "README.md", _readme(network, files, uses))


def _usual(kind: Format, files: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """What is known of the format's file in its most usual precision; None if there is no file of it."""
    there = {facts["precision"]: facts for facts in files.values() if facts["format"] == kind}
    return next((there[precision] for precision in FORMATS[kind].precisions if precision in there), None)


def sample_code(name: str, info: RunInfo, file: str) -> str:
    """A file of `samples/` for a network and its file: lines that give a constant its value give it the network's."""
    code = (TEMPLATES / name).read_text(encoding="utf-8")
    for constant, value in _constants(info, file)[Path(name).suffix].items():
        code = re.sub(rf"^((?:\w+ )*{constant} = ).*$", rf"\g<1>{value}", code, flags=re.MULTILINE)
    return code


def _constants(info: RunInfo, file: str) -> dict[str, dict[str, Any]]:
    """The values of what `samples/` define, by language and name."""
    size, side = info.image_size, resized_side(info.image_size)
    shared = {"MODEL": json.dumps(file), "IMAGE_SIZE": size, "RESIZED": side}
    return {
        ".py": shared | {"MEAN": info.mean, "STD": info.std, "CROP_SHARE": crop_share(size)},
        ".kt": shared | {"MEAN": _kotlin_floats(info.mean), "STD": _kotlin_floats(info.std)},
        ".swift": {"modelName": json.dumps(Path(file).stem), "imageSize": size, "resizedSide": side},
    }


def _kotlin_floats(values: tuple[float, ...]) -> str:
    return f"floatArrayOf({', '.join(f'{value!r}f' for value in values)})"


def _readme(network: Exportable, files: Mapping[str, Mapping[str, Any]], uses: Sequence[str]) -> str:
    info, size = network.info, network.info.image_size
    mean, std = (", ".join(f"{value:g}" for value in values) for values in (info.mean, info.std))
    runtimes = {_runtime(facts) for facts in files.values() if "latency_ms" in facts}
    lines = [
        f"# {network.metadata['name']}\n",
        f"{network.description}. All figures: `result.json`.\n",
        "| file | precision | test accuracy (95 % interval) | size, MB | latency, ms | memory, MB |",
        "|---|---|---|---|---|---|",
        *(_row(facts) for facts in files.values()),
        f"\nLatency and memory are of the machine that exported: {'; '.join(sorted(runtimes))}.\n" if runtimes else "",
        f"- **Photo**: {preprocessing(size)}. Scaled in other ways it costs accuracy. {DEEP}",
        f"- **Input**: (1, 3, {size}, {size}) float32, planes R, G, B: pixels / 255, less ({mean}), over ({std}).",
        f"- **Output**: {info.num_classes} logits, in the order of `classes.txt`.",
    ]
    if any(facts["format"] == "coreml" for facts in files.values()):
        lines.append(
            "- **Core ML** takes the RGB image, normalizes it itself, and gives `classLabel` and probabilities."
        )
    if any("Classifier.kt" in use for use in uses):
        uses = [*uses, GAMUT]
    return "\n".join([*lines, *uses, ""])


def _row(facts: Mapping[str, Any]) -> str:
    tested = "test_accuracy" in facts
    accuracy = with_interval(facts["test_accuracy"], facts["test_images"]) if tested else "–"
    latency = f"{facts['latency_ms']['min']:.3f}" if "latency_ms" in facts else "–"
    memory = f"{facts['peak_memory_bytes'] / 1e6:.1f}" if "peak_memory_bytes" in facts else "–"
    cells = (f"`{facts['file']}`", facts["precision"], accuracy, f"{facts['bytes'] / 1e6:.2f}", latency, memory)
    return f"| {' | '.join(cells)} |"


def _runtime(facts: Mapping[str, Any]) -> str:
    runtime = facts["runtime"]
    threads = facts["latency_ms"]["threads"]
    plural = "s" if threads > 1 else ""
    return f"{runtime['runtime']} {runtime['runtime_version']}, {threads} thread{plural}, {runtime['device']}"
