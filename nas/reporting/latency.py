"""What the report shows of latency tables: where their figures come from, and how far to trust them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import fmean

from latency_lut.tables.table import LatencyTable
from latency_lut.tables.validation import Validation
from nas.objective.metrics import shown
from nas.reporting import plots
from nas.reporting.data import Artifacts, Json
from nas.reporting.drawing import percent
from search_spaces import UserError
from search_spaces.command.page import Markup, embed, html, table, warning


def latency_tables(a: Artifacts) -> Iterator[Markup]:
    """A section for each table, under what the searches call its figures."""
    if a.tables:
        yield html("<h2>Latency tables</h2>\n")
    for i, used in enumerate(a.tables):
        names = ", ".join(f"{shown(metric).name} of {search}" for search, metric in used.uses)
        yield html("<h3>{}</h3>\n", names[0].upper() + names[1:])
        if isinstance(used.table, UserError):
            yield html('<p class="soft">Not shown: {}</p>\n', str(used.table))
            continue
        yield _provenance(used.table)
        yield from map(warning, used.table.warnings)
        yield from _accuracy(f"table-{i}", used.table, used.validation)


def _accuracy(name: str, t: LatencyTable, validation: Validation | None) -> Iterator[Markup]:
    if validation and validation["busy"]:
        yield warning("WARNING: the machine was busy when the table was validated; validate again when it is quiet")
    pairs: dict[str, Sequence[tuple[float, float]]]
    pairs = {"calibration networks": [(n.predicted_ms, n.min_ms) for n in t.calibration.networks]}
    rows = [_accuracy_row("calibration networks (fitted)", errors(pairs["calibration networks"]))]
    if validation:
        held_out = [(n["predicted_ms"], n["measured_ms"]) for n in validation["networks"]]
        pairs["held-out networks"] = held_out
        rows += [
            _accuracy_row(label.format(len(held_out)), validation[key])  # type: ignore[literal-required]
            for key, label in _PREDICTORS.items()
        ]
    yield embed(name, plots.calibration(pairs), "square")
    yield table(["", "Mean error", "Bias", "Within 5 %", "Within 10 %", "Spearman", "Kendall"], rows)


def _provenance(t: LatencyTable) -> Markup:
    source, line = t.provenance, t.calibration
    facts = [str(source.runtime), f"{len(t.rows)} blocks"]
    if source.unclean_share is not None:
        facts.append(f"{percent(source.unclean_share)} of samples disturbed")
    offset = f"{'-' if line.offset_ms < 0 else '+'} {abs(line.offset_ms):.4f} ms"
    return html(
        '<p class="soft">{}</p>\n<p>latency = {:.4f} × sum of blocks {}</p>\n',
        " · ".join([*facts, source.date[:10]]),
        line.scale,
        offset,
    )


_PREDICTORS = {
    "table": "{} held-out networks",
    "at_this_speed": "the same, at the speed of that hour",
    "repeat_floor": "the same, measured twice",
    "uncalibrated_sum": "the same, by the plain sum of blocks",
    "macs": "the same, by MACs",
    "num_params": "the same, by parameters",
}


def errors(pairs: Sequence[tuple[float, float]]) -> Json:
    """Relative errors of (predicted, measured) pairs, under the names that a validation gives them."""
    relative = [predicted / measured - 1 for predicted, measured in pairs]
    return {
        "mape": fmean(map(abs, relative)),
        "bias": fmean(relative),
        "within_5_percent": fmean(abs(e) <= 0.05 for e in relative),
        "within_10_percent": fmean(abs(e) <= 0.10 for e in relative),
    }


def _accuracy_row(label: str, row: Json) -> list[str]:
    return [
        label,
        percent(row["mape"]),
        f"{100 * row['bias']:+.2f} %",
        f"{100 * row['within_5_percent']:.0f} %",
        f"{100 * row['within_10_percent']:.0f} %",
        *("–" if row.get(name) is None else f"{row[name]:.3f}" for name in ("spearman", "kendall")),
    ]
