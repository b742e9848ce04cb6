"""Which files there are: formats, and the precisions that each can have."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from nas.objective.precisions import FilePrecision, Precision
from search_spaces import UserError

Format = Literal["onnx", "coreml", "timm", "litert", "executorch"]


@dataclass(frozen=True)
class Kind:
    """A format.

    Args:
        suffix: of its file or folder.
        precisions: those that it can have, its usual one first.
        otherwise: why it has no others but `ALONE`; empty if it has all.
    """

    suffix: str
    precisions: tuple[FilePrecision, ...]
    otherwise: str = ""


FORMATS: dict[Format, Kind] = {
    "onnx": Kind(".onnx", ("float32", "float16", "int8")),
    "coreml": Kind(".mlpackage", ("float16", "float32", "int8", "palettized")),
    "timm": Kind(".safetensors", ("float32",), "timm's files are weights to train further, which need float32"),
    "litert": Kind(".tflite", ("float32", "int8"), "LiteRT's GPU delegate computes float32 files in float16"),
    "executorch": Kind(".pte", ("float32", "float16", "int8")),
}
ALONE: dict[FilePrecision, str] = {"palettized": "weights that are places in a table are Core ML's alone"}
DEFAULT_FORMATS: tuple[Format, ...] = ("onnx", "coreml", "timm")


@dataclass(frozen=True)
class Cell:
    """A format in a precision, one file."""

    format: Format
    precision: FilePrecision

    @property
    def name(self) -> str:
        """The format alone where the precision is its usual one, e.g. "onnx"; else both, "onnx-int8"."""
        usual = FORMATS[self.format].precisions[0]
        return self.format if self.precision == usual else f"{self.format}-{self.precision}"

    @property
    def file(self) -> str:
        return f"{self.name.replace(self.format, 'model')}{FORMATS[self.format].suffix}"


def concerns(setting: str, cell: Cell) -> bool:
    """Whether the file depends on that setting of an export, by its field's name."""
    match setting:
        case "opset":
            return cell.format == "onnx"
        case "keep_float":
            return cell == Cell("onnx", "int8")
        case "calibration_images":
            return cell.precision == "int8"
    return False


def cells(
    formats: Iterable[Format], precisions: Iterable[FilePrecision], searched: Precision = "float32"
) -> tuple[list[Cell], dict[str, str]]:
    """The files to write, and those that cannot be, each with the reason.

    Args:
        precisions: none stands for each format's usual one, or that in which the network was searched.
        searched: float32 stands for no matter which.

    Raises:
        UserError: none of the files that are asked for can be.
    """
    formats, precisions = dict.fromkeys(formats), dict.fromkeys(precisions)
    asked = [Cell(f, p) for f in formats for p in precisions or [_own(FORMATS[f], searched)]]
    possible = [cell for cell in asked if cell.precision in FORMATS[cell.format].precisions]
    reasons = {cell: ALONE.get(cell.precision) or FORMATS[cell.format].otherwise for cell in asked}
    impossible = {cell.name: reasons[cell] for cell in asked if cell not in possible}
    if impossible and not possible:
        each = "; ".join(f"{name}: {reason}" for name, reason in impossible.items())
        raise UserError(f"none of these files can be: {each}; give another --precision")
    return possible, impossible


def _own(kind: Kind, searched: Precision) -> FilePrecision:
    return searched if searched != "float32" and searched in kind.precisions else kind.precisions[0]
