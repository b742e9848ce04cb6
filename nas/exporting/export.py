"""Files of the retrained winners of a run, each compared with the network that it was made from."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from latency_lut.measurement.networks import measure_onnx
from nas import runs
from nas.exporting.coreml import check_coreml, write_coreml
from nas.exporting.onnx import BATCH_SIZES, check_onnx, write_onnx
from nas.exporting.timm import check_timm, write_timm
from nas.exporting.winner import Exportable, Winner, load_winners
from search_spaces import UserError
from search_spaces.command import Flags, flag
from search_spaces.command.files import atomic_folder, write_json, write_text

Format = Literal["onnx", "coreml", "timm"]


@dataclass(frozen=True)
class Config(Flags):
    run: str | None = flag(None, "run under runs/ (default: the newest with a retrained winner)")
    winners: tuple[str, ...] = flag((), "winners to export (default: all that were retrained)")
    formats: tuple[Format, ...] = flag(("onnx", "coreml", "timm"), "what to write in place of the last export")
    threads: int = flag(1, "threads of ONNX Runtime in the latency measurement", minimum=1)
    opset: int | None = flag(None, "ONNX operator set (default: the exporter's own choice)", minimum=18)


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


def export_timm(winner: Winner, folder: Path) -> dict[str, Any]:
    """`model.py` and `model.safetensors`, loaded afresh by timm and compared bit for bit."""
    source, path = write_timm(winner, folder)
    parity = check_timm(source, path, winner)
    _report(path, f"with {source.name}; loaded by timm, logits equal bit for bit")
    return {"file": path.name, "source": source.name, "bytes": _bytes(path), **asdict(parity)}


def _bytes(path: Path) -> int:
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files)


def _report(path: Path, text: str) -> None:
    print(f"  {path.name:18}{_bytes(path) / 1e6:7.2f} MB  {text}", flush=True)
