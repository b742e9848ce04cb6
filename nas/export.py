"""Export retrained winners: ONNX with a dynamic batch, a float16 Core ML package, and timm code with safetensors.

Bare: every winner of the newest run that retrained one, in all formats. Each export is compared with the network it
was made from and refused if it differs. The Core ML package is converted and checked on any system, but Core ML runs on
Apple's alone: elsewhere the saved program is executed by PyTorch, operator by operator, in its own precision.
"""

from __future__ import annotations

import json
import runpy
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import nn

from latency_lut.measurement.networks import measure_onnx
from nas import runs
from nas.data.batches import preprocessing
from nas.exporting.coreml import check_coreml, write_coreml
from nas.exporting.onnx import BATCH_SIZES, check_onnx, write_onnx
from nas.exporting.parity import compare, example_images, normalized
from nas.networks.weights import check_finite
from nas.runs.checkpoint import load_module, load_tensors, save_tensors
from search_spaces import Arch, SearchSpace, UserError
from search_spaces.command import flag, parse, run
from search_spaces.command.files import atomic_folder, read_json, write_json, write_text

Format = Literal["onnx", "coreml", "timm"]


@dataclass(frozen=True)
class Config:
    run: str | None = flag(None, "run under runs/ (default: the newest with a retrained winner)")
    winners: tuple[str, ...] = flag((), "winners to export (default: all that were retrained)")
    formats: tuple[Format, ...] = flag(("onnx", "coreml", "timm"), "what to write in place of the last export")
    threads: int = flag(1, "threads of ONNX Runtime in the latency measurement", minimum=1)
    opset: int | None = flag(None, "ONNX operator set (default: the exporter's own choice)", minimum=18)


class Exportable(Protocol):
    """A network with its weights, and what every file made of it says of itself."""

    @property
    def info(self) -> runs.RunInfo: ...

    @property
    def description(self) -> str: ...

    @property
    def metadata(self) -> dict[str, str]: ...

    def model(self) -> nn.Module:
        """In evaluation mode; a new one at every call, since exporters leave traces."""


@dataclass(frozen=True)
class Winner:
    """A retrained network of a run: `retrain/<name>/` read and checked."""

    name: str
    folder: Path
    info: runs.RunInfo
    space: SearchSpace
    arch: Arch
    test_accuracy: float

    def model(self) -> nn.Module:
        path = self.folder / "model.safetensors"
        model = self.space.build(self.arch)
        load_module(model, tensors := load_tensors(path)[0], path)
        check_finite(tensors, path)
        return model.eval()

    @property
    def description(self) -> str:
        return (
            f"{self.space.name} classifier of {self.info.num_classes} classes, {self.info.image_size} px, "
            f"top-1 {100 * self.test_accuracy:.2f} % on its test images"
        )

    @cached_property
    def metadata(self) -> dict[str, str]:
        return file_metadata(self.name, self.info, self.test_accuracy, arch=self.space.to_json(self.arch))


def file_metadata(name: str, info: runs.RunInfo, test_accuracy: float, **own: Any) -> dict[str, str]:
    """What every exported file says of itself.

    Args:
        own: what kinds of networks have of their own, as JSON.
    """
    return {
        "name": name,
        "classes": json.dumps(info.classes, ensure_ascii=False),
        "image_size": str(info.image_size),
        "preprocessing": preprocessing(info.image_size),
        "mean": json.dumps(info.mean),
        "std": json.dumps(info.std),
        **{key: json.dumps(value) for key, value in own.items()},
        "test_accuracy": f"{test_accuracy:.4f}",
    }


def load_winners(folder: Path, names: tuple[str, ...]) -> list[Winner]:
    """The retrained winners of a run, all or those named.

    Raises:
        UserError: one was not retrained.
    """
    info = runs.load_run_info(folder)
    space = info.search_space()
    found = sorted(path.parent.name for path in folder.glob("retrain/*/result.json"))
    if missing := [name for name in names if name not in found]:
        raise UserError(f"{folder} has no retrained {missing[0]!r}; choose from {', '.join(found)}, or run nas.retrain")
    winners = []
    for name in names or found:
        result = read_json(folder / "retrain" / name / "result.json")
        arch = space.from_json(result["arch"])
        winners.append(Winner(name, folder / "retrain" / name, info, space, arch, result["test_accuracy"]))
    return winners


def export(config: Config) -> list[dict[str, Any]]:
    """Exports the winners and returns their `result.json`."""
    if not config.formats:
        raise UserError("--formats is empty; give some of onnx, coreml, timm")
    folder = runs.find_run(config.run, "retrain/*/result.json", "python -m nas.retrain")
    results = []
    for winner in load_winners(folder, config.winners):
        print(winner.name)
        with atomic_folder(folder / "export" / winner.name) as target:
            results.append(export_winner(winner, target, config))
            write_json(target / "result.json", results[-1])
        print(f"  in {folder / 'export' / winner.name}")
    return results


def export_winner(winner: Winner, folder: Path, config: Config) -> dict[str, Any]:
    """Writes the formats asked for into `folder`."""
    result: dict[str, Any] = {"command": runs.command_line(), "name": winner.name}
    write_classes(folder, winner.info)
    if "onnx" in config.formats:
        result["onnx"] = export_onnx(winner, folder, config.opset, config.threads)
    if "coreml" in config.formats:
        result["coreml"] = export_coreml(winner, folder)
    if "timm" in config.formats:
        result["timm"] = export_timm(winner, folder)
    return result


def write_classes(folder: Path, info: runs.RunInfo) -> None:
    """`classes.txt`: a line for each, in the order of the logits."""
    write_text(folder / "classes.txt", "".join(f"{name}\n" for name in info.classes))


def export_onnx(network: Exportable, folder: Path, opset: int | None, threads: int) -> dict[str, Any]:
    """`model.onnx`, compared in ONNX Runtime and timed."""
    path = folder / "model.onnx"
    write_onnx(network.model(), path, network.info.image_size, network.metadata, opset)
    parity = check_onnx(path, network.model(), network.info)
    minimum_ms, median_ms, busy = measure_onnx(path, threads)
    _report(
        path,
        f"logits within {parity.max_abs_diff:.1e} of PyTorch's, same class for {100 * parity.same_class:.0f} %; "
        f"{minimum_ms:.3f} ms (median {median_ms:.3f}, {threads} thread{'s' if threads > 1 else ''})"
        f"{'; WARNING: the machine was busy, measure again when it is quiet' if busy else ''}",
    )
    latency_ms = {"min": minimum_ms, "median": median_ms, "threads": threads, "busy": busy}
    return {
        "file": path.name,
        "bytes": _bytes(path),
        "batch_sizes": list(BATCH_SIZES),
        **asdict(parity),
        "latency_ms": latency_ms,
    }


def export_coreml(network: Exportable, folder: Path) -> dict[str, Any]:
    """`model.mlpackage`, its program executed and its specification read."""
    path = folder / "model.mlpackage"
    write_coreml(network.model(), path, network.info, network.description, network.metadata)
    parity, facts = check_coreml(path, network.model(), network.info)
    _report(
        path,
        f"probabilities within {parity.max_abs_diff:.1e}, same class for {100 * parity.same_class:.0f} %; "
        f"{facts['precision']}, executed by {facts['executed_by']}",
    )
    return {"file": path.name, "bytes": _bytes(path), **asdict(parity), **facts}


TIMM_HEADER = '''"""A searched network, built of timm alone.

    import timm
    from model import create_model

    model = create_model()
    timm.models.load_checkpoint(model, "model.safetensors")
    model.eval()

Input: (batch, 3, IMAGE_SIZE, IMAGE_SIZE), images as PREPROCESSING says, scaled to 0..1, less MEAN, over STD.
Output: (batch, classes) logits, in the order of classes.txt.
"""

'''


def export_timm(winner: Winner, folder: Path) -> dict[str, Any]:
    """`model.py` and `model.safetensors`, loaded afresh by timm and compared bit for bit."""
    import timm

    info, source, path = winner.info, folder / "model.py", folder / "model.safetensors"
    code, _, body = winner.space.source(winner.arch).partition("\n\n\n")
    values = {"IMAGE_SIZE": info.image_size, "MEAN": info.mean, "STD": info.std}
    values["PREPROCESSING"] = preprocessing(info.image_size)
    constants = "".join(f"{name} = {value!r}\n" for name, value in values.items())
    write_text(source, f"{TIMM_HEADER}{code}\n\n{constants}\n\n{body}")
    model = winner.model()
    save_tensors(path, model.state_dict(), winner.metadata)

    fresh = runpy.run_path(str(source))["create_model"]()
    timm.models.load_checkpoint(fresh, str(path))
    images = normalized(example_images(sum(BATCH_SIZES), info.image_size), info.mean, info.std)
    parity = compare(lambda batch: _logits(fresh.eval(), batch), model, images.split(BATCH_SIZES))
    if parity.max_abs_diff > 0:
        raise UserError(
            f"timm {timm.__version__} builds another network from {source.name}: logits differ by "
            f"{parity.max_abs_diff:.2g}; nothing was exported; install the timm of constraints.txt"
        )
    _report(path, "with model.py; loaded by timm, logits equal bit for bit")
    return {"file": path.name, "source": source.name, "bytes": _bytes(path), **asdict(parity)}


@torch.inference_mode()
def _logits(model: nn.Module, batch: torch.Tensor) -> Any:
    return model(batch).numpy()


def _bytes(path: Path) -> int:
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files)


def _report(path: Path, text: str) -> None:
    print(f"  {path.name:18}{_bytes(path) / 1e6:7.2f} MB  {text}", flush=True)


def main() -> None:
    export(parse(Config, None, "python -m nas.export", __doc__ or ""))


if __name__ == "__main__":
    run(main)
