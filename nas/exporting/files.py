"""The files of one network: each written, compared with the network, timed, and tried on test images."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from latency_lut.backends.base import FileBackend
from latency_lut.backends.onnxruntime import OnnxRuntimeBackend
from latency_lut.measurement.memory import peak_memory
from latency_lut.measurement.networks import measure_file
from nas.data import Data
from nas.evaluation.intervals import with_interval
from nas.exporting import coreml, mobile, onnx
from nas.exporting.blame import Blame, blame
from nas.exporting.figures import accuracies
from nas.exporting.matrix import DEFAULT_FORMATS, FORMATS, Cell, Format, cells, concerns
from nas.exporting.parity import Answers, Parity, normalized
from nas.exporting.timm import check_timm, write_timm
from nas.exporting.winner import Exportable, Winner
from nas.networks.inherit import calibration_images
from nas.objective.precisions import RANGE_IMAGES, FilePrecision, Precision
from nas.runs.results import several_units
from search_spaces import UserError
from search_spaces.command import Flags, check_idle, flag

# What converters and the runtimes that check them raise of a network that they cannot express, or not exactly enough.
CONVERTER_ERRORS = (
    *(ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError),
    UserError,
)
TIMED: tuple[Format, ...] = ("onnx", "litert", "executorch")
SLOW_IMAGES = 300  # a package that PyTorch executes, an image at a time


@dataclass(frozen=True)
class PrecisionConfig(Flags):
    """What files are in the formats that are asked for, and how they are tried."""

    precision: tuple[FilePrecision, ...] = flag(
        (), "of each format that has it (default: the search's, or its usual one)"
    )
    keep_float: tuple[str, ...] = flag((), "modules of the network that int8 leaves alone, e.g. blocks.0 (onnx)")
    max_drop: float = flag(1.0, "points of test accuracy that a file may lose unwarned", minimum=0, maximum=100)
    calibration_images: int = flag(
        RANGE_IMAGES, "training images that int8 finds the ranges of activations on", minimum=1
    )
    opset: int | None = flag(None, "ONNX operator set (default: the exporter's own choice)", minimum=18)


@dataclass(frozen=True)
class FileConfig(PrecisionConfig):
    """Which files, and how they are made and tried; nas.export inherits it."""

    formats: tuple[Format, ...] = flag(DEFAULT_FORMATS, "files to write; others of the same weights stay")
    threads: int = flag(1, "threads of a runtime in the latency measurement", minimum=1)

    def check(self, searched: tuple[Precision, ...] = ("float32",)) -> None:
        """UserError if there is nothing to write, or a flag has no effect on what there is.

        Args:
            searched: precisions that the networks were searched in, which files have where none is asked for.
        """
        if not self.formats:
            raise UserError(f"--formats is empty; give some of {', '.join(FORMATS)}")
        asked = [cell for precision in searched for cell in cells(self.formats, self.precision, precision)[0]]
        needed = {
            "opset": "--formats onnx",
            "keep_float": "--formats onnx --precision int8",
            "calibration_images": "--precision int8",
        }
        for name, use in needed.items():
            if not any(concerns(name, cell) for cell in asked):
                check_idle(self, (name,), use)
        if not any(cell.format in TIMED for cell in asked):
            check_idle(self, ("threads",), f"--formats {', '.join(TIMED)}")


@dataclass(frozen=True)
class Written:
    """A file, what `result.json` says of it, and what it answers; no answers where it is the network itself."""

    path: Path
    facts: dict[str, Any]
    answers: Answers | None = None


@dataclass(frozen=True)
class Exporter:
    """Writes files of one network into a folder.

    Args:
        data: the run's images; None if they are not there: then no file can be int8, and none has an accuracy.
        searched: precision that the network was searched in.
    """

    network: Exportable
    folder: Path
    config: FileConfig
    data: Data | None
    searched: Precision = "float32"

    def write(self) -> dict[str, Any]:
        """`files` by the name of their `Cell`, with what is known of each, and why others `failed`."""
        possible, impossible = cells(self.config.formats, self.config.precision, self.searched)
        for name, reason in impossible.items():
            print(f"  no {name}: {reason}", flush=True)
        with tempfile.TemporaryDirectory() as scratch:
            return self._written(possible, Path(scratch))

    def _written(self, possible: Iterable[Cell], scratch: Path) -> dict[str, Any]:
        """As `write`; in `scratch` lies what several files are made of."""
        written: dict[str, Written] = {}
        failed: dict[str, str] = {}
        for cell in possible:
            try:
                with tempfile.TemporaryDirectory(dir=self.folder) as new:  # what was there stays if this fails
                    written[cell.name] = self._write(cell, Path(new), scratch)
                    _move(Path(new), self.folder)
            except CONVERTER_ERRORS as error:
                cause = _first(error)
                failed[cell.name] = " ".join(str(cause).split())[:300] or type(cause).__name__
        for name, reason in failed.items():
            print(f"  WARNING: not exported as {name}: {reason}", flush=True)
        files = {name: {**file.facts, "bytes": size_of(self.folder / file.path.name)} for name, file in written.items()}
        for name, figures in self._accuracies(written).items():
            files[name] |= figures
        for name, file in written.items():
            say(file.path, files[name], self.config.max_drop)
        if (blamed := self._blame(files, scratch)) is not None:
            files["onnx-int8"]["blame"] = asdict(blamed)
            print(f"  {blamed}", flush=True)
        return {"files": files, "failed": failed}

    def _write(self, cell: Cell, folder: Path, scratch: Path) -> Written:
        path, network, info, precision = folder / cell.file, self.network, self.network.info, cell.precision
        images = self._calibration if precision == "int8" else ()
        parity: Parity
        facts: dict[str, Any] = {}
        answers: Answers | None = None
        backend: FileBackend | None = None
        match cell.format:
            case "onnx":
                assert precision != "palettized"
                self._write_onnx(path, precision, images, scratch)
                parity = onnx.check_onnx(path, network.model(), info, precision)
                facts, answers = {"batch_sizes": list(onnx.BATCH_SIZES)}, onnx.answers(path, info)
                backend = OnnxRuntimeBackend(self.config.threads)
            case "coreml":
                model, shown = network.model(), [image for batch in images for image in batch]
                coreml.write_coreml(model, path, info, network.description, network.metadata, precision, shown)
                parity, facts = coreml.check_coreml(path, network.model(), info, precision)
                answers = coreml.answers(path, info)
            case "timm":
                assert isinstance(network, Winner)
                source, path = write_timm(network, folder)
                parity, facts = check_timm(source, path, network), {"source": source.name}
            case format:
                assert precision != "palettized"
                mobile.write_mobile(format, network, path, precision, self._as_taken(images))
                threads = self.config.threads
                parity = mobile.check_mobile(format, path, network, precision, threads)
                answers = mobile.answers(format, path, info, threads)
                backend = mobile.backend(format, precision, threads)
        facts |= {"file": path.name, "format": cell.format, "precision": precision, **asdict(parity)}
        if images and (cell.format != "coreml" or coreml.on_apple()):  # elsewhere only its weights are int8
            facts["calibration_images"] = sum(map(len, images))
        return Written(path, facts | ({} if backend is None else self._timed(path, backend)), answers)

    def _write_onnx(self, path: Path, precision: Precision, images: tuple[Tensor, ...], scratch: Path) -> None:
        whole = self._float32(scratch)
        if precision == "float32":
            shutil.copy(whole, path)
        elif precision == "float16":
            onnx.write_float16(whole, path)
        else:
            onnx.write_int8(whole, path, self._as_taken(images), self.config.keep_float)

    def _float32(self, scratch: Path) -> Path:
        """The ONNX file that those of all precisions are made of; exporting it takes seconds, so it is written once."""
        path, network = scratch / "float32.onnx", self.network
        if not path.exists():
            onnx.write_onnx(network.model(), path, network.info.image_size, network.metadata, self.config.opset)
        return path

    def _timed(self, path: Path, backend: FileBackend) -> dict[str, Any]:
        facts = timed(path, backend)
        memory = peak_memory(path, backend)
        return facts | ({} if memory is None else {"peak_memory_bytes": memory})

    @cached_property
    def _calibration(self) -> tuple[Tensor, ...]:
        """uint8 batches of as many training images as are asked for, or of all that can be read."""
        if self.data is None:
            raise UserError("int8 is calibrated on training images, which are not there; bring them back")
        asked = self.config.calibration_images
        images = calibration_images(self.data.train, self.network.info.image_size, asked, exact=True)
        if (count := sum(map(len, images))) < asked:
            print(f"  WARNING: {count} training images to calibrate int8 on, {asked} were asked for", flush=True)
        return images

    def _as_taken(self, images: Iterable[Tensor]) -> list[np.ndarray]:
        info = self.network.info
        return [image[None].numpy() for batch in images for image in normalized(batch, info.mean, info.std)]

    def _accuracies(self, written: dict[str, Written]) -> dict[str, dict[str, Any]]:
        """Of the files that can be tried: timm's is the network itself."""
        if self.data is None or not len(self.data.test):
            return {}
        interpreted = {n for n, file in written.items() if "PyTorch" in file.facts.get("executed_by", "")}
        found: dict[str, dict[str, Any]] = {}
        for slow in (False, True):
            chosen = {n: f.answers for n, f in written.items() if f.answers and (n in interpreted) == slow}
            images = self.data.test.spread(SLOW_IMAGES) if slow else self.data.test
            if chosen:
                found |= accuracies(chosen, self.network.model(), images, self.network.info)
        return found

    def _blame(self, files: dict[str, Any], scratch: Path) -> Blame | None:
        """What costs the int8 ONNX file its accuracy, if it lost too much."""
        if self.data is None or not _lost(files.get("onnx-int8", {}), self.config.max_drop):
            return None
        images = np.concatenate(self._as_taken(self._calibration))
        return blame(self._float32(scratch), self.folder / files["onnx-int8"]["file"], images)


def timed(path: Path, backend: FileBackend) -> dict[str, Any]:
    """Latency of one image, by the protocol of latency tables, and what it was measured on."""
    minimum, median, busy = measure_file(path, backend)
    latency = {"min": minimum, "median": median, "threads": backend.threads, "busy": busy}
    return {"latency_ms": latency, "units": backend.load(path).devices, "runtime": asdict(backend.describe())}


def failures(failed: dict[str, str]) -> str:
    """The files that could not be written, each with the reason."""
    return ", ".join(f"{name} ({reason})" for name, reason in failed.items())


def _first(error: BaseException) -> BaseException:
    """What it followed from: torch's exporter wraps what it cannot do in pages of advice."""
    while error.__cause__ is not None and not isinstance(error, UserError):
        error = error.__cause__
    return error


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files)


def _lost(facts: dict[str, Any], max_drop: float) -> bool:
    return bool(facts.get("drop", 0.0) > max_drop + 1e-9)


def _move(source: Path, target: Path) -> None:
    """All in `source`, in place of what has the same name."""
    for path in source.iterdir():
        if (target / path.name).is_dir():
            shutil.rmtree(target / path.name)
        path.rename(target / path.name)


def latency_said(facts: Mapping[str, Any]) -> list[str]:
    """What a line in the terminal says of a file's `latency_ms`, if it has one."""
    if not (latency := facts.get("latency_ms")):
        return []
    threads = f"{latency['threads']} thread{'s' if latency['threads'] > 1 else ''}"
    busy = ["WARNING: the machine was busy, measure again when it is quiet"] if latency["busy"] else []
    return [f"{latency['min']:.3f} ms ({threads})", *busy]


def say(path: Path, facts: dict[str, Any], max_drop: float) -> None:
    """A line in the terminal of what is known of a file."""
    says: list[str] = []
    if "test_accuracy" in facts:
        says.append(with_interval(facts["test_accuracy"], facts["test_images"]))
        says.append(f"{0 - facts['drop']:+.2f} points")
    what = "probabilities" if facts["format"] == "coreml" else "logits"
    exact = facts["max_abs_diff"] == 0
    says.append("logits equal bit for bit" if exact else f"{what} within {facts['max_abs_diff']:.1e} of PyTorch's")
    if executed := facts.get("executed_by"):
        says.append(f"executed by {executed}")
    if units := several_units(facts):
        says.append(f"operators: {units}")
    if memory := facts.get("peak_memory_bytes"):
        says.append(f"{memory / 1e6:.1f} MB of memory")
    says += latency_said(facts)
    if _lost(facts, max_drop):
        says.append(f"WARNING: it loses more than {max_drop:g} points")
    print(f"  {path.name:22}{facts['bytes'] / 1e6:7.2f} MB  {'; '.join(says)}", flush=True)
