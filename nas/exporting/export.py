"""Files of the retrained winners of a run, each compared with the network that it was made from."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from latency_lut.measurement.networks import measure_onnx
from nas import runs
from nas.exporting.coreml import check_coreml, write_coreml
from nas.exporting.onnx import BATCH_SIZES, check_onnx, write_onnx
from nas.exporting.timm import check_timm, write_timm
from nas.exporting.winner import Exportable, Winner, load_winners, winner_names
from search_spaces import UserError
from search_spaces.command import Flags, check_idle, flag
from search_spaces.command.files import atomic_folder, write_json, write_text

Format = Literal["onnx", "coreml", "timm"]
# What converters and the runtimes that check them raise of a network that they cannot express, or not exactly enough.
CONVERTER_ERRORS = (
    *(ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError),
    UserError,
)


@dataclass(frozen=True)
class Config(Flags):
    run: str | None = flag(None, "run under runs/ (default: the newest with a retrained winner)")
    winners: tuple[str, ...] = flag(
        (), "retrained networks to export, whole and narrowed-… too (default: all winners that were retrained)"
    )
    formats: tuple[Format, ...] = flag(("onnx", "coreml", "timm"), "what to write in place of the last export")
    threads: int = flag(1, "threads of ONNX Runtime in the latency measurement", minimum=1)
    opset: int | None = flag(None, "ONNX operator set (default: the exporter's own choice)", minimum=18)


def export(config: Config) -> list[dict[str, Any]]:
    """Exports the winners and returns their `result.json`."""
    if not config.formats:
        raise UserError("--formats is empty; give some of onnx, coreml, timm")
    if "onnx" not in config.formats:
        check_idle(config, ("threads", "opset"), "--formats onnx")
    folder = runs.find_run(config.run, "retrain/*/result.json", "python -m nas.retrain")
    if not (names := config.winners or winner_names(folder)):
        raise UserError(
            f"{folder} has no retrained winner; run nas.retrain, or name the fine-tuned one: --winners whole"
        )
    results = []
    for winner in load_winners(folder, names):
        print(winner.name)
        with atomic_folder(folder / "export" / winner.name) as target:
            results.append(export_winner(winner, target, config))
            write_json(target / "result.json", results[-1])
        print(f"  in {folder / 'export' / winner.name}")
    if failed := [f"{result['name']} as {failures(result)}" for result in results if result["failed"]]:
        raise UserError(f"not exported: {'; '.join(failed)}; all else is written, leave these out of --formats")
    return results


def export_winner(winner: Winner, folder: Path, config: Config) -> dict[str, Any]:
    """Writes the formats asked for into `folder`. UserError if none of them can be."""
    write_classes(folder, winner.info)
    formats: dict[Format, Callable[[], dict[str, Any]]] = {
        "onnx": lambda: export_onnx(winner, folder, config.opset, config.threads),
        "coreml": lambda: export_coreml(winner, folder),
        "timm": lambda: export_timm(winner, folder),
    }
    result = attempted({name: write for name, write in formats.items() if name in config.formats}, folder)
    if len(result["failed"]) == len(set(config.formats)):
        raise UserError(f"nothing was exported: {failures(result)}")
    return {"command": runs.command_line(), "name": winner.name, **result}


def attempted(formats: Mapping[Format, Callable[[], dict[str, Any]]], folder: Path) -> dict[str, Any]:
    """What each format's function says, and under `failed` why not: a format that fails costs that format alone."""
    result: dict[str, Any] = {"failed": {}}
    for name, write in formats.items():
        before = set(folder.iterdir())
        try:
            result[name] = write()
        except CONVERTER_ERRORS as error:
            result["failed"][name] = " ".join(str(error).split())[:300] or type(error).__name__
            print(f"  WARNING: not exported as {name}: {result['failed'][name]}", flush=True)
            _remove(set(folder.iterdir()) - before)
    return result


def failures(result: Mapping[str, Any]) -> str:
    """The formats that failed, each with the reason."""
    return ", ".join(f"{name} ({reason})" for name, reason in result["failed"].items())


def _remove(paths: Iterable[Path]) -> None:
    for path in paths:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


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
