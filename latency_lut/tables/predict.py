"""The latency of networks by a table, and where it goes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import floor
from pathlib import Path
from typing import Any

from latency_lut.tables.table import LatencyTable, open_table
from latency_lut.tables.text import heading, shape_text, stage_of
from latency_lut.tables.validation import validation_of
from search_spaces import Arch, BlockSpec, SearchSpace, UserError
from search_spaces.command import Flags, align, flag
from search_spaces.command.files import read_json

DECIMALS = 4  # of printed ms


@dataclass(frozen=True)
class PredictConfig(Flags):
    arch: tuple[str, ...] = flag((), "networks: named archs or JSON files (default: all named ones)")
    table: str | None = flag(None, "the table's file (default: the newest in runs/tables)")
    json: bool = flag(False, "print JSON instead of text")
    run: str | None = flag(None, "the newest table of this run's space, in place of a named one")


@dataclass(frozen=True)
class Part:
    """One block's part of a prediction.

    Args:
        row_ms: the block's row in the table.
        ms: the same times the calibration's scale: what the block adds to the network's latency.
        share: `ms` of the network's latency.
    """

    name: str
    stage: str
    kind: str
    key: str
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    detail: str
    row_ms: float
    ms: float
    share: float
    macs: int
    num_params: int


@dataclass(frozen=True)
class Prediction:
    """latency_ms = Σ parts.ms + offset_ms."""

    name: str
    arch: dict[str, Any]
    latency_ms: float
    offset_ms: float
    macs: int
    num_params: int
    parts: tuple[Part, ...]

    def ms_by(self, field: str) -> dict[str, float]:
        """Sums of the parts by "stage" or "kind", in the order of execution."""
        sums: dict[str, float] = {}
        for part in self.parts:
            name = getattr(part, field)
            sums[name] = sums.get(name, 0.0) + part.ms
        return sums


@dataclass(frozen=True)
class ExpectedError:
    """What `latency_lut.validate` found for this table on networks that it had not seen; fractions.

    Args:
        busy: the machine was, so it says less of the table.
    """

    mape: float
    within_10_percent: float
    num_archs: int
    busy: bool


def predict(table: LatencyTable, space: SearchSpace, name: str, arch: Arch) -> Prediction:
    """Raises UserError if a block is not in the table."""
    latency_ms = table.latency_ms(space, arch)
    parts = tuple(_part(table, block, latency_ms) for block in space.lower(arch))
    return Prediction(
        name=name,
        arch=space.to_json(arch),
        latency_ms=latency_ms,
        offset_ms=table.calibration.offset_ms,
        macs=sum(part.macs for part in parts),
        num_params=sum(part.num_params for part in parts),
        parts=parts,
    )


def _part(table: LatencyTable, block: BlockSpec, latency_ms: float) -> Part:
    row_ms = table.rows[block.key].min_ms
    ms = table.calibration.scale * row_ms
    return Part(
        name=block.name or block.kind,
        stage=stage_of(block),
        kind=block.kind,
        key=block.key,
        input_shape=block.input_shape(),
        output_shape=block.output_shape(),
        detail=block.detail,
        row_ms=row_ms,
        ms=ms,
        share=ms / latency_ms,
        macs=block.macs,
        num_params=block.num_params,
    )


def load_archs(table_path: Path, space: SearchSpace, names: Sequence[str]) -> dict[str, Arch]:
    """Archs by what the command line calls them.

    Raises:
        UserError: no such name or file, or an arch that is not of the table's space.
    """
    archs = {}
    for name in names:
        if name.lower() not in space.named and Path(name).is_file():
            data = read_json(Path(name))
            if isinstance(data, dict) and data.get("space", space.name) != space.name:
                raise UserError(
                    f"{name} is an arch of {data['space']}, {table_path} is a table of {space.name}; "
                    "give a table of the arch's space with --table"
                )
        try:
            archs[name] = space.load_arch(name)
        except UserError as error:
            raise UserError(f"--arch is {name!r} with a table of {space.name}: {error}") from None
    return archs


def expected_error(table_path: Path, table: LatencyTable, space: SearchSpace) -> ExpectedError | None:
    """From the validation beside the table; None if there is none of this table."""
    data = validation_of(table, table_path, space)
    if data is None:
        return None
    found = data["table"]
    return ExpectedError(found["mape"], found["within_10_percent"], len(data["networks"]), data["busy"])


# ---- text


def breakdown(prediction: Prediction) -> str:
    """One network block by block. Printed figures add up to the printed total."""
    head = ("block", "kind", "in", "out", "", "row ms", "ms", "share", "MMACs", "params")
    *printed, offset, total = rounded_parts([*(part.ms for part in prediction.parts), prediction.offset_ms])
    rows = [head, *(_cells(part, ms) for part, ms in zip(prediction.parts, printed, strict=True))]
    rows.append(("offset", *[""] * 5, offset, f"{prediction.offset_ms / prediction.latency_ms:.1%}", "", ""))
    size = (f"{prediction.macs / 1e6:,.3f}", f"{prediction.num_params:,}")
    rows.append(("total", *[""] * 5, total, "100.0%", *size))
    sums = (
        f"by {field}: "
        + ", ".join(f"{name} {ms / prediction.latency_ms:.0%}" for name, ms in prediction.ms_by(field).items())
        for field in ("stage", "kind")
    )
    return "\n".join([f"{prediction.name}:", align(rows, "<<<<<>>>>>"), *sums])


def _cells(part: Part, ms: str) -> tuple[str, ...]:
    return (
        part.name,
        part.kind,
        shape_text(part.input_shape),
        shape_text(part.output_shape),
        part.detail,
        f"{part.row_ms:.{DECIMALS}f}",
        ms,
        f"{part.share:.1%}",
        f"{part.macs / 1e6:,.3f}",
        f"{part.num_params:,}",
    )


def rounded_parts(values: Sequence[float]) -> list[str]:
    """The values and their sum as text, some rounded the other way so that what is printed adds up."""
    units = [value * 10**DECIMALS for value in values]
    whole, total = [floor(unit) for unit in units], round(sum(units))
    by_remainder = sorted(range(len(units)), key=lambda i: whole[i] - units[i])
    for i in by_remainder[: total - sum(whole)]:
        whole[i] += 1
    return [f"{unit / 10**DECIMALS:.{DECIMALS}f}" for unit in (*whole, total)]


def comparison(predictions: Sequence[Prediction]) -> str:
    """A line a network: latency, beside the first one's, size, and its milliseconds by kind, the costliest first."""
    costs = [(ms, kind) for prediction in predictions for kind, ms in prediction.ms_by("kind").items()]
    kinds = dict.fromkeys(kind for _, kind in sorted(costs, reverse=True))
    rows = [("network", "ms", "of first", "MMACs", "params (M)", "blocks", *(f"{kind} ms" for kind in kinds))]
    for prediction in predictions:
        by_kind = prediction.ms_by("kind")
        rows.append(
            (
                prediction.name,
                f"{prediction.latency_ms:.{DECIMALS}f}",
                f"{prediction.latency_ms / predictions[0].latency_ms:.2f}",
                f"{prediction.macs / 1e6:,.2f}",
                f"{prediction.num_params / 1e6:,.3f}",
                str(len(prediction.parts)),
                *(f"{by_kind[kind]:.{DECIMALS}f}" if kind in by_kind else "-" for kind in kinds),
            )
        )
    return align(rows, "<" + ">" * (len(rows[0]) - 1))


def footer(path: Path, table: LatencyTable, error: ExpectedError | None) -> str:
    calibration = table.calibration
    line = f"latency = {calibration.scale:.4f} x sum of rows {calibration.offset_ms:+.4f} ms"
    if error is None:
        unknown = "error on random networks" if table.provenance.transferred else "error"
        here = f"validate --table {path} measures it"
        there = f"export --validate {path} --out held-out writes what measures it on its device"
        remedy = there if " --from " in table.provenance.command else here
        return f"{line}\n{unknown} unknown; python -m latency_lut.{remedy}"
    return (
        f"{line}\nexpected error {error.mape:.1%} ({error.within_10_percent:.0%} of "
        f"{error.num_archs} networks within 10 %{', on a busy machine' if error.busy else ''})"
    )


def predict_networks(config: PredictConfig) -> None:
    """Prints the predictions: of one network block by block, of several side by side."""
    path, table, space = open_table(config.table, config.run)
    archs = load_archs(path, space, config.arch) if config.arch else space.named
    predictions = [predict(table, space, name, arch) for name, arch in archs.items()]
    error = expected_error(path, table, space)
    if config.json:
        result = {
            "table": str(path),
            "runtime": asdict(table.provenance.runtime),
            "scale": table.calibration.scale,
            "offset_ms": table.calibration.offset_ms,
            "expected_error": asdict(error) if error else None,
            "warnings": table.warnings,
            "networks": [asdict(prediction) for prediction in predictions],
        }
        print(json.dumps(result, indent=1))
        return
    text = breakdown(predictions[0]) if len(predictions) == 1 else comparison(predictions)
    print("\n".join([f"{heading(path, table)}\n\n{text}\n\n{footer(path, table, error)}", *table.warnings]))
