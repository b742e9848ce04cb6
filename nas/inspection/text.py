"""What `nas.evaluate` prints, made of what it writes as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nas.evaluation import intervals
from nas.objective.metrics import columns, shown
from search_spaces.command import align

Json = dict[str, Any]

MAX_CLASSES, WORST, BEST = 30, 10, 5  # all classes of up to so many, else the least and the most accurate


def as_text(result: Json) -> str:
    """One line a network; if it is one, a line a class below."""
    networks = result["networks"]
    costs = columns(result["tables"], networks)
    titles = (shown(metric).title for metric in costs)
    rows = [("network", "precision", "top-1 (95 % interval)", "top-5", "mean of classes", *titles, "MES")]
    rows += [
        (
            n["name"],
            n["precision"],
            percent(n["top1"]),
            percent(n["top5"]),
            percent(n["mean_per_class"]),
            *(shown(metric).cell(n[metric]) for metric in costs),
            f"{n['mes']:.4g}" if "mes" in n else "-",
        )
        for n in networks
    ]
    lines = [origin(result), align(rows, "<<" + ">" * (len(rows[0]) - 2))]
    if len(networks) == 1:
        lines += ["", _class_table(result, networks[0])]
    return "\n".join(lines)


def _class_table(result: Json, network: Json) -> str:
    names, sizes, accuracies = result["classes"], result["class_sizes"], network["per_class"]
    shown = list(range(len(names)))
    if len(names) > MAX_CLASSES:
        ranked = worst_first(accuracies)
        shown = [*ranked[:WORST], *ranked[WORST:][-BEST:]]
    rows = [("class", "images", "accuracy (95 % interval)", "most often taken for")]
    for i in shown:
        wrong = [(n, j) for j, n in enumerate(network["confusion"][i]) if n and j != i]
        most, other = max(wrong, key=lambda mistake: mistake[0], default=(0, i))
        rows.append((names[i], f"{sizes[i]:,}", percent(accuracies[i]), f"{names[other]} ({most:,})" if most else ""))
    if len(names) > MAX_CLASSES:
        rows.insert(WORST + 1, ("…", "", "", ""))
    return align(rows, "<>><")


def origin(result: Json) -> str:
    """What has been evaluated on what, in one line."""
    recalibrated, ranges = result["calibration_images"], result.get("range_images", 0)
    return (
        f"{result['space']}, {len(result['classes'])} classes, {result['num_images']:,} images of the "
        f"{result['split']} split"
        + (f", norms recalibrated on {recalibrated:,} images" if recalibrated else "")
        + (f", int8 simulated with ranges of {ranges:,} images" if ranges else "")
    )


def percent(accuracy: Json | None) -> str:
    """An accuracy in % with its interval: '94.91 % (91.6–97.0)'."""
    if accuracy is None or accuracy["value"] is None:
        return "–"
    return intervals.as_text(accuracy["value"], (accuracy["low"], accuracy["high"]))


def worst_first(per_class: Sequence[Json]) -> list[int]:
    """Classes that have images, the least accurate first."""
    known = [i for i, accuracy in enumerate(per_class) if accuracy["value"] is not None]
    return sorted(known, key=lambda i: per_class[i]["value"])
