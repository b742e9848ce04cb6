"""The metrics of a search, in one place: an entry of `METRICS` is all that a new one takes.

From an entry follow its name for `--metrics`, the flags `--alpha-<name>` and the one of its limit, its cost of archs,
its unit in MES and how it is shown. Units are those of MobileNetV2: latency and size as published (Section 3.6 of Li et
al. 2023, on an iPhone 12), its MACs and the memory of its activations in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nas.objective.precisions import ACTIVATION_BYTES
from search_spaces import BlockSpec, CostTable, SearchSpace


@dataclass(frozen=True)
class Metric:
    """
    Args:
        name: on the command line.
        key: in results.
        title: how it is called where it is shown.
        about: what it measures, for the help of its flags: "weight of <about> in MES".
        unit: at which it scores 100.
        alpha: default weight in MES.
        limit: field of the flag for the largest value that winners may have, as in `max_params`.
        limit_help: of that flag.
        block_cost: of a block; None for latency, which tables tell.
        largest: a network's cost is the largest of its blocks', not their sum.
        of_activations: that of a block is as if an activation had one byte; in a precision it has more.
        whole: it is a whole number.
        shown_unit: it is shown as `value / scale` of this unit.
    """

    name: str
    key: str
    title: str
    about: str
    unit: float
    limit: str
    limit_help: str
    alpha: float = 1.0
    block_cost: Callable[[BlockSpec], float] | None = None
    largest: bool = False
    of_activations: bool = False
    whole: bool = False
    shown_unit: str = ""
    scale: float = 1.0

    @property
    def alpha_field(self) -> str:
        return f"alpha_{self.name}"

    def cost(self, space: SearchSpace, precision: str) -> CostTable:
        """Of (archs, choices) positions in the space, for a metric that blocks have."""
        of_block, factor = self.block_cost, ACTIVATION_BYTES[precision] if self.of_activations else 1
        assert of_block is not None
        return CostTable(space, lambda block: factor * of_block(block), np.maximum if self.largest else np.add)


METRICS = {
    metric.name: metric
    for metric in (
        Metric(
            "latency",
            "latency_ms",  # by the only table; of several tables, `latency_ms_<name>` by each
            "latency",
            "latency",
            unit=1.0,
            limit="max_latency_ms",
            limit_help="winners may take at most this time",
            shown_unit="ms",
        ),
        Metric(
            "size",
            "num_params",
            "parameters",
            "the number of parameters",
            unit=3e6,
            alpha=0.5,
            limit="max_params",
            limit_help="winners may have at most this many parameters",
            block_cost=lambda block: block.num_params,
            whole=True,
            shown_unit="M",
            scale=1e6,
        ),
        Metric(
            "memory",
            "memory_mb",
            "memory",
            "peak activation memory",
            unit=6.0,
            limit="max_memory_mb",
            limit_help="winners may hold at most so many MB of activations at a time (of one image, in the precision "
            "searched)",
            block_cost=lambda block: block.peak_activations / 1e6,
            largest=True,
            of_activations=True,
            shown_unit="MB",
        ),
        Metric(
            "macs",
            "macs",
            "MACs",
            "multiply-accumulates",
            unit=300e6,
            limit="max_macs",
            limit_help="winners may have at most this many multiply-accumulates",
            block_cost=lambda block: block.macs,
            whole=True,
            shown_unit="M",
            scale=1e6,
        ),
    )
}
LATENCY = METRICS["latency"].key


def latency_metrics(keys: Iterable[str]) -> list[str]:
    """Those of the keys that are latencies."""
    return [key for key in keys if key == LATENCY or key.startswith(f"{LATENCY}_")]


def block_metrics() -> list[Metric]:
    """Those that follow from a network's blocks, without tables."""
    return [metric for metric in METRICS.values() if metric.block_cost is not None]


def metric_of(key: str) -> Metric | None:
    """The metric of a key in results; None of one that a later or an extended version has written."""
    key = LATENCY if latency_metrics([key]) else key
    return next((metric for metric in METRICS.values() if metric.key == key), None)


def columns(tables: Iterable[str], rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Keys of the metrics that tables of results show: the latencies of these tables, and what all rows have beside."""
    return [*latency_metrics(tables), *(m.key for m in block_metrics() if all(m.key in row for row in rows))]


def unit_of(key: str) -> float:
    """The value of the metric at which it scores 100."""
    metric = metric_of(key)
    assert metric is not None, f"no metric {key}"
    return metric.unit


@dataclass(frozen=True)
class Shown:
    """How a metric is shown: `value / scale` of the unit."""

    name: str
    unit: str
    scale: float = 1.0

    @property
    def title(self) -> str:
        """'latency phone, ms'."""
        return f"{self.name}, {self.unit}" if self.unit else self.name

    def cell(self, value: float) -> str:
        """The number alone, for a column headed by `title`."""
        return f"{value / self.scale:.4g}"

    def text(self, value: float, digits: str = "g") -> str:
        """'3 M', '0.125 ms' with digits '.3f'."""
        return f"{value / self.scale:{digits}} {self.unit}".rstrip()


def shown(key: str) -> Shown:
    """How the metric of a key is shown: a latency with the name of its table."""
    metric = metric_of(key)
    if metric is None:
        return Shown(key, "")
    table = key.removeprefix(LATENCY).replace("_", " ") if metric.key == LATENCY else ""
    return Shown(metric.title + table, metric.shown_unit, metric.scale)
