"""How well 20 networks transfer a latency table to another runtime, beside that runtime's own table and MACs.

    python -m scripts.device_studies.transfer --table T.json --backend openvino
    python -m scripts.device_studies.transfer --table T.json --precision int8
    python -m scripts.device_studies.transfer --table T.json --backend litert --python ~/litert/bin/python

Transfers T to the runtime, builds its full table there, and times random networks that neither has seen. MACs go
through a line that is fitted on the same networks as the transfer. Tables that are there of an earlier call for the
same device are not measured again, random networks are.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from latency_lut.backends.registry import DeviceFlags, Target
from latency_lut.measurement.build import BuildConfig, build_table
from latency_lut.measurement.interpreter import delegate
from latency_lut.measurement.manifest import checksum
from latency_lut.measurement.transfer import TransferConfig, precision_there, transfer_table
from latency_lut.measurement.validate import Accuracy, ValidateConfig, validate_table
from latency_lut.tables.plan import calibrated_on
from latency_lut.tables.table import LatencyTable, open_table
from scripts.device_studies.studies import STUDIES
from search_spaces import SearchSpace
from search_spaces.command import align, amend, flag, parse, run, spell
from search_spaces.command.files import read_json, slug, write_json

MODULE = "scripts.device_studies.transfer"
MAX_MAPE, MIN_WITHIN_10_PERCENT, MIN_SPEARMAN = 0.05, 0.95, 0.98  # of the transferred table


@dataclass(frozen=True)
class TransferStudyConfig(Target):
    table: str | None = flag(None, "the measured table's file (default: the newest in runs/tables)")
    measure: int = flag(20, "networks to transfer it by", minimum=8, maximum=200)
    num_archs: int = flag(30, "random networks to compare on", minimum=3, maximum=10_000)
    samples: int = flag(40, "undisturbed samples of every graph", minimum=2, maximum=10_000)


def study(config: TransferStudyConfig) -> tuple[dict[str, Any], Path]:
    """Everything measured, as JSON, and the file that holds it."""
    path, table, space = open_table(config.table)
    config = amend(config, precision=precision_there(table, config.backend, config.precision))
    name = f"transfer-{space.name}-{checksum(path)[:8]}-{config.slug(config.make_backend())}"
    folder = STUDIES / slug(f"{name}-{config.measure}-networks-{config.samples}-samples")
    device: dict[str, Any] = {field.name: getattr(config, field.name) for field in fields(DeviceFlags)}
    names = ("backend", "precision", "threads", "compute_unit", "tuning_s", "samples")
    flags: dict[str, Any] = {**device, **{name: getattr(config, name) for name in names}}
    by_networks = TransferConfig(table=str(path), measure=config.measure, out=f"{folder}/transferred.json", **flags)
    of: dict[str, Any] = {"space": table.space, "image_size": table.image_size, "num_classes": table.num_classes}
    by_blocks = BuildConfig(out=f"{folder}/full.json", **of, **flags)
    transferred = _once(folder / "transferred.json", lambda: transfer_table(by_networks))
    full = _once(folder / "full.json", lambda: build_table(by_blocks))
    check = ValidateConfig(f"{folder}/transferred.json", config.num_archs, config.samples, **device)
    found = validate_table(check)[1]
    result = compare(space, table, transferred, full, found)
    out = folder / "result.json"
    write_json(out, {"command": spell(MODULE, config), "table": str(path), **result})
    return read_json(out), out


def _once(path: Path, make: Callable[[], Any]) -> LatencyTable:
    """The table at `path`, made unless it is there."""
    if not path.exists():
        make()
    return LatencyTable.load(path)


def compare(
    space: SearchSpace, table: LatencyTable, transferred: LatencyTable, full: LatencyTable, found: dict[str, Any]
) -> dict[str, Any]:
    """Agreement by predictor, on the networks of a validation of `transferred` that the full table was not made of.

    Args:
        table: the one that was transferred.
        found: that validation.
    """
    seen = set(calibrated_on(space, full))
    networks = [n for n in found["networks"] if space.from_json(n["arch"]) not in seen]
    archs, times_ms = [space.from_json(n["arch"]) for n in networks], [n["measured_ms"] for n in networks]
    held_out = transferred.provenance.transferred
    return {
        "from": str(table.provenance.runtime),
        "to": str(transferred.provenance.runtime),
        "busy": any((found["busy"], transferred.provenance.busy, full.provenance.busy)),
        "num_archs": len(networks),
        "held_out": asdict(held_out) if held_out else None,
        "predictors": {
            "transferred table": asdict(Accuracy.of([n["predicted_ms"] for n in networks], times_ms)),
            "full table": asdict(Accuracy.of([full.latency_ms(space, arch) for arch in archs], times_ms)),
            "MACs, line": found["macs"],
            "same networks again": found["repeat_floor"],
        },
    }


def report(result: dict[str, Any]) -> str:
    """The predictors, one a line, and whether the transferred table reaches its bars."""
    head = (f"{result['num_archs']} networks that no table has seen", "MAPE", "±5 %", "±10 %", "Spearman")
    rows = [head]
    for name, row in result["predictors"].items():
        shares = (f"{row['within_5_percent']:.0%}", f"{row['within_10_percent']:.0%}")
        rows.append((name, f"{row['mape']:.1%}", *shares, f"{row['spearman'] or 0:.3f}"))
    lines = [f"{result['from']} -> {result['to']}", align(rows, "<>>>>")]
    held_out = result["held_out"]
    lines.append(f"held-out error that the transfer itself printed: {held_out['mape']:.1%}")
    got = result["predictors"]["transferred table"]
    reached = (
        got["mape"] <= MAX_MAPE
        and got["within_10_percent"] >= MIN_WITHIN_10_PERCENT
        and (got["spearman"] or 0) >= MIN_SPEARMAN
    )
    bars = f"MAPE <= {MAX_MAPE:.0%}, within 10 % >= {MIN_WITHIN_10_PERCENT:.0%}, Spearman >= {MIN_SPEARMAN}"
    lines.append(f"{bars}: {'reached' if reached else 'MISSED'}")
    if result["busy"]:
        lines.append("WARNING: the machine was busy during part of the study")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else argv
    config = parse(TransferStudyConfig, argv, f"python -m {MODULE}", "A transferred table beside a full one and MACs.")
    if delegate(config.python, MODULE, argv):
        return
    result, out = study(config)
    print(f"{report(result)}\n{out}")


if __name__ == "__main__":
    run(main, "the same command goes on with what was measured")
