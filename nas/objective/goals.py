"""What a search is to reach, as flags: latency tables, the metrics of MES with their alphas and units, and limits."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from nas.objective.mes import LATENCY, UNITS, Objective, Term
from search_spaces import UserError
from search_spaces.command import flag

# Metrics by their names on the command line; the limit of each is a flag, and so is its alpha, `--alpha-<name>`.
METRICS = {"latency": LATENCY, "size": "num_params", "memory": "memory_mb", "macs": "macs"}
LIMITS = {"latency": "max_latency_ms", "size": "max_params", "memory": "max_memory_mb", "macs": "max_macs"}


@dataclass(frozen=True)
class Goals:
    table: tuple[str, ...] = flag(
        (),
        "latency table, or one for each device, named, as in phone=FILE laptop=FILE: each is a metric of its own "
        "(default: the newest that fits; built if there is none)",
    )
    metrics: tuple[Literal["latency", "size", "memory", "macs"], ...] = flag(
        ("latency", "size"), "metrics that make up MES"
    )
    alpha_latency: tuple[str, ...] = flag(
        ("1.0",), "weight of latency in MES; with several tables of each, as in phone=1.0 laptop=0.5, or one for all"
    )
    unit_latency_ms: tuple[str, ...] = flag(
        (f"{UNITS[LATENCY]}",), "latency at which it scores 100; with several tables of each, or one for all"
    )
    alpha_size: float = flag(0.5, "weight of the number of parameters in MES", above=0)
    alpha_memory: float = flag(1.0, "weight of peak activation memory in MES", above=0)
    alpha_macs: float = flag(1.0, "weight of multiply-accumulates in MES", above=0)
    max_latency_ms: tuple[str, ...] = flag(
        (), "winners may take at most this time; with several tables on each, as in phone=2, or one for all"
    )
    max_params: float | None = flag(None, "winners may have at most this many parameters", above=0)
    max_memory_mb: float | None = flag(
        None, "winners may hold at most so many MB of activations at a time (float32, one image)", above=0
    )
    max_macs: float | None = flag(None, "winners may have at most this many multiply-accumulates", above=0)
    min_accuracy: float | None = flag(None, "winners have at least this accuracy, a fraction", above=0, maximum=1)

    @property
    def needs_latency(self) -> bool:
        return "latency" in self.metrics or bool(self._by_table("max_latency_ms"))

    def tables(self) -> dict[str, Path]:
        """The tables that are named, by their metrics.

        Raises:
            UserError: several without different names.
        """
        named = [_split(text) for text in self.table]
        names = [name for name, _ in named]
        if len(named) > 1 and ("" in names or len(set(names)) < len(names)):
            raise UserError(
                f"--table gives {len(named)} tables; give each a name of its own, as in phone=FILE laptop=FILE"
            )
        return {_metric(name, names): Path(path) for name, path in named}

    def objective(self) -> Objective:
        """UserError if a number cannot be used or is of no table."""
        if not self.metrics:
            raise UserError(f"--metrics is empty; give one or more of {', '.join(METRICS)}")
        self._check_weights()
        terms: list[Term] = []
        for name in dict.fromkeys(self.metrics):
            if name == "latency":
                alphas, units = self._by_table("alpha_latency"), self._by_table("unit_latency_ms")
                terms += [Term(metric, units[metric], alpha) for metric, alpha in alphas.items()]
            else:
                terms.append(Term(METRICS[name], UNITS[METRICS[name]], getattr(self, f"alpha_{name}")))
        limits = self._by_table("max_latency_ms")
        others = {METRICS[name]: getattr(self, limit) for name, limit in LIMITS.items() if name != "latency"}
        return Objective(tuple(terms), {**limits, **{m: limit for m, limit in others.items() if limit is not None}})

    def _check_weights(self) -> None:
        """UserError on a weight or unit of a metric that MES is not made of."""
        for name in METRICS:
            for field in (f"alpha_{name}", f"unit_{name}_ms"):
                if name not in self.metrics and getattr(self, field, None) != getattr(Goals, field, None):
                    together = " ".join([*self.metrics, name])
                    raise UserError(
                        f"--{field.replace('_', '-')} is for {name}, which is not in --metrics; leave it out, or give "
                        f"--metrics {together}"
                    )

    def _by_table(self, field: str) -> dict[str, float]:
        """The number of each latency metric: the last that has the table's name or none, of the default's and those
        given; left out if there is none."""
        spelled, names = f"--{field.replace('_', '-')}", [_split(text)[0] for text in self.table] or [""]
        found: dict[str, float] = {}
        for text in (*getattr(Goals, field), *getattr(self, field)):
            name, number = _split(text)
            if name not in ("", *names):
                known = f"choose from {', '.join(names)}" if any(names) else "name it by --table, as in phone=FILE"
                raise UserError(f"{spelled} names a table {name}; {known}")
            if field.startswith("max_") and number.lower() == "none":
                continue
            value = _positive(spelled, number)
            found |= {_metric(n, names): value for n in names if name in ("", n)}
        return found


def limit_flag(metric: str) -> str:
    """The flag that limits a metric of an objective."""
    name = next(name for name, base in METRICS.items() if metric == base or metric.startswith(f"{base}_"))
    return f"--{LIMITS[name].replace('_', '-')}"


def _split(text: str) -> tuple[str, str]:
    """'phone=2' as its name and the rest; no name where there is none."""
    match = re.fullmatch(r"(\w+)=(.+)", text)
    return (match[1], match[2]) if match else ("", text)


def _metric(name: str, names: Sequence[str]) -> str:
    return LATENCY if len(names) == 1 else f"{LATENCY}_{name}"


def _positive(spelled: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise UserError(f"{spelled} is {text!r}; give a number above 0, or one a table, as in phone=1.0") from None
    if not 0 < value < math.inf:
        raise UserError(f"{spelled} is {value}; give a number above 0")
    return value
