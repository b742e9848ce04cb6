"""What a comparison has found as tables of text, for the terminal and the page."""

from __future__ import annotations

from dataclasses import dataclass

from nas.comparison.data import Json
from nas.evaluation.intervals import wilson
from nas.objective.metrics import shown


@dataclass(frozen=True)
class Table:
    """Texts: a title, headings, rows, and what they mean."""

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str


def make_tables(result: Json) -> list[Table]:
    groups = result["groups"]
    seeds = {label: len(group["searches"]) for label, group in groups.items()}
    summary = [
        (
            label,
            str(seeds[label]),
            _cell(group["num_evaluations"], "{:,.0f}"),
            _cell(group["minutes"], "{:.1f}"),
            _cell(group["hypervolume"], "{:.4f}"),
            _range(group["hypervolume"]),
        )
        for label, group in groups.items()
    ]
    reference = result["reference"]
    several = "; ± is the standard deviation over seeds" if max(seeds.values()) > 1 else ""
    tables = [
        Table(
            "Hypervolume",
            ("search", "seeds", "evaluations", "minutes", "hypervolume", "least – most"),
            tuple(summary),
            f"hypervolume: the area of accuracy × ln MES above {reference['accuracy']:.3g} (guessing) and MES "
            f"{reference['mes']:.4g} (the largest network){several}",
        )
    ]
    if best := next(iter(groups.values()))["best_accuracy"]:
        heads = [f"{shown(b['metric']).name} ≤ {shown(b['metric']).text(b['limit'])}" for b in best]
        rows = [(name, *(_cell(b, "{:.2f}", 100) for b in group["best_accuracy"])) for name, group in groups.items()]
        count = result["identity"]["number of search images"]
        low, high = wilson(count / 2, count)
        note = (
            f"of what was evaluated, on the search split (95 % interval of {count:,} images: up to "
            f"± {50 * float(high - low):.1f} points); in brackets, how many seeds found any"
        )
        tables.append(Table("Best accuracy within a limit, %", ("search", *heads), tuple(rows), note))
    for unit, text in (("evaluations", "{:,.0f}"), ("minutes", "{:.2f}")):
        to_reach = result[f"{unit}_to_reach"]
        rows = [(label, *(_reach_cell(cell, text) for cell in others.values())) for label, others in to_reach.items()]
        note = (
            "median of the seeds, in brackets how many reach it if not all; > x: half of them or more do not, and the "
            "first of these ended at x; – is not recorded"
        )
        title = f"{unit.capitalize()} to the mean final hypervolume of each"
        tables.append(Table(title, ("search", *(f"of {label}" for label in groups)), tuple(rows), note))
    return tables


def _cell(values: Json, text: str, factor: float = 1.0) -> str:
    """Mean ± standard deviation, and of how many if not of all."""
    if values["mean"] is None:
        return "–"
    held, all_of = sum(v is not None for v in values["values"]), len(values["values"])
    cell = text.format(factor * values["mean"])
    if values["std"]:
        cell += f" ± {text.format(factor * values['std'])}"
    return cell if held == all_of else f"{cell} ({held} of {all_of})"


def _reach_cell(found: Json, text: str) -> str:
    """Median, and how many reach it if not all."""
    if not found["values"]:
        return "–"
    cell = text.format(found["median"]) if found["median"] is not None else f"> {text.format(found['more_than'])}"
    reached, all_of = found["reached"], len(found["values"])
    return cell if reached == all_of else f"{cell} ({reached} of {all_of})"


def _range(values: Json) -> str:
    return f"{values['min']:.4f} – {values['max']:.4f}" if values["std"] is not None else "–"
