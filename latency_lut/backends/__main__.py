"""python -m latency_lut.backends: which runtimes can be measured here, and why the others cannot."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from latency_lut.backends.registry import BACKENDS, make_backend
from search_spaces import UserError
from search_spaces.command import Flags, flag, parse, run


@dataclass(frozen=True)
class ListConfig(Flags):
    json: bool = flag(False, "print JSON instead of text")


def states() -> list[dict[str, Any]]:
    """For each backend and compute unit: the runtime and precisions that run here, or the reason why none does."""
    return [_state(name, unit) for name, kind in BACKENDS.items() for unit in kind.units]


def _state(name: str, unit: str) -> dict[str, Any]:
    runtimes, reasons = {}, []
    for precision in BACKENDS[name].precisions:
        try:
            runtimes[precision] = make_backend(name, precision=precision, compute_unit=unit).describe()
        except UserError as error:
            reasons.append(str(error))
    row: dict[str, Any] = {"backend": name, "compute_unit": unit, "precisions": list(runtimes)}
    if runtimes:
        return {**row, "runtime": asdict(next(iter(runtimes.values())))}
    return {**row, "why_not": reasons[0]}


def _line(row: dict[str, Any]) -> str:
    head = f"{row['backend']:15}{row['compute_unit']:12}"
    if "why_not" in row:
        return f"{head}no   {row['why_not']}"
    runtime = row["runtime"]
    precisions = ", ".join(row["precisions"])
    return f"{head}yes  {runtime['runtime']} {runtime['runtime_version']} on {runtime['device']}: {precisions}"


def main(argv: Sequence[str] | None = None) -> None:
    config = parse(ListConfig, argv, "python -m latency_lut.backends", "Runtimes that can be measured here.")
    rows = states()
    print(json.dumps(rows, indent=1) if config.json else "\n".join(map(_line, rows)))


if __name__ == "__main__":
    run(lambda: main(sys.argv[1:]))
