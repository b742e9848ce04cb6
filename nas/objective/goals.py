"""What a search is to reach, as flags: latency tables, the metrics of MES with their alphas and units, and limits."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import GenericAlias
from typing import TYPE_CHECKING, Any, Literal

from nas.objective.mes import Objective, Term
from nas.objective.metrics import LATENCY, METRICS, block_metrics, metric_of
from search_spaces import UserError
from search_spaces.command import Flags, flag, given

LIMITS = tuple(metric.limit for metric in METRICS.values())


def _fields() -> list[tuple[str, Any, Any]]:
    """Names, types and flags of what a search is to reach, by the metrics that there are."""
    latency = METRICS["latency"]
    table = (
        "latency table, or one for each device, named, as in phone=FILE laptop=FILE: each is a metric of its own "
        "(default: the newest that fits; built if there is none)"
    )
    several = "with several tables of each, as in phone=1.0 laptop=0.5, or one for all"
    alpha = flag((f"{latency.alpha}",), f"weight of {latency.about} in MES; {several}")
    unit = flag((f"{latency.unit}",), "latency at which it scores 100; with several tables of each, or one for all")
    limit = flag((), f"{latency.limit_help}; with several tables on each, as in phone=2, or one for all")
    accuracy = flag(None, "winners have at least this accuracy, a fraction", above=0, maximum=1)
    texts, names = tuple[str, ...], GenericAlias(tuple, (Literal[tuple(METRICS)], ...))
    return [
        ("table", texts, flag((), table)),
        ("metrics", names, flag(("latency", "size"), "metrics that make up MES")),
        (latency.alpha_field, texts, alpha),
        ("unit_latency_ms", texts, unit),
        *((m.alpha_field, float, flag(m.alpha, f"weight of {m.about} in MES", above=0)) for m in block_metrics()),
        (latency.limit, texts, limit),
        *((m.limit, float | None, flag(None, m.limit_help, above=0)) for m in block_metrics()),
        ("min_accuracy", float | None, accuracy),
    ]


if TYPE_CHECKING:

    @dataclass(frozen=True)
    class _GoalFlags(Flags):
        table: tuple[str, ...] = ()
        metrics: tuple[str, ...] = ()
        min_accuracy: float | None = None
else:
    _GoalFlags = dataclasses.make_dataclass("_GoalFlags", _fields(), bases=(Flags,), frozen=True)


@dataclass(frozen=True)
class Goals(_GoalFlags):
    """Flags of what a search is to reach; those of a metric follow from its entry in `nas.objective.metrics`."""

    @property
    def needs_latency(self) -> bool:
        return "latency" in self.metrics or bool(self._by_table(METRICS["latency"].limit))

    def tables(self) -> dict[str, Path]:
        """The tables that are named, by their metrics.

        Raises:
            UserError: several without different names.
        """
        named = [split_name(text) for text in self.table]
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
            metric = METRICS[name]
            if metric.key == LATENCY:
                alphas, units = self._by_table(metric.alpha_field), self._by_table("unit_latency_ms")
                terms += [Term(key, units[key], alpha) for key, alpha in alphas.items()]
            else:
                terms.append(Term(metric.key, metric.unit, getattr(self, metric.alpha_field)))
        others = {metric.key: getattr(self, metric.limit) for metric in block_metrics()}
        limits = {key: limit for key, limit in others.items() if limit is not None}
        return Objective(tuple(terms), self._by_table(METRICS["latency"].limit) | limits)

    def _check_weights(self) -> None:
        """UserError on a weight or unit of a metric that MES is not made of."""
        for name in METRICS:
            for field in (f"alpha_{name}", f"unit_{name}_ms"):
                if name not in self.metrics and field in given(self):
                    together = " ".join([*self.metrics, name])
                    raise UserError(
                        f"--{field.replace('_', '-')} is for {name}, which is not in --metrics; leave it out, or give "
                        f"--metrics {together}"
                    )

    def _by_table(self, field: str) -> dict[str, float]:
        """The number of each latency metric: the last that has the table's name or none, of the default's and those
        given; left out if there is none, or if that is a limit of "none"."""
        spelled, names = f"--{field.replace('_', '-')}", [split_name(text)[0] for text in self.table] or [""]
        found: dict[str, float] = {}
        for text in (*getattr(Goals, field), *getattr(self, field)):
            name, number = split_name(text)
            if name not in ("", *names):
                known = f"choose from {', '.join(names)}" if any(names) else "name it by --table, as in phone=FILE"
                raise UserError(f"{spelled} names a table {name}; {known}")
            metrics = [_metric(n, names) for n in names if name in ("", n)]
            if field.startswith("max_") and number.lower() == "none":
                found = {metric: value for metric, value in found.items() if metric not in metrics}
            else:
                found |= dict.fromkeys(metrics, _positive(spelled, number))
        return found


def limit_flag(key: str) -> str:
    """The flag that limits a metric of an objective."""
    metric = metric_of(key)
    assert metric is not None, f"no metric {key}"
    return f"--{metric.limit.replace('_', '-')}"


def split_name(text: str) -> tuple[str, str]:
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
