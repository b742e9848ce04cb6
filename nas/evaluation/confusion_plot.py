"""What a network takes for what, drawn."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np

from search_spaces.command.page import BLUE, ORANGE, figure

MAX_CLASSES = 60  # in a matrix; of more, this many of the most frequent mistakes:
MOST = 30
NUMBERED = 15  # classes up to which the matrix has its figures written in it
LABEL = 24  # characters of a class's name


def confusion_matrix(names: Sequence[str], counts: np.ndarray, top: float, unit: str) -> Any:
    """Shares of each row, in %; what is right and what is wrong in two scales, so that mistakes are seen at all.

    Args:
        counts: (classes, classes) of the class of the row, that were taken for that of the column.
        top: end of the scale of mistakes, in %.
        unit: what is counted: "images".
    """
    import plotly.graph_objects as go

    share, right = shares(counts), np.eye(len(counts), dtype=bool)
    sizes = counts.sum(axis=1)
    hover = [["" for _ in names] for _ in names]
    for i, j in np.argwhere(counts):
        hover[i][j] = f"{escape(names[i])} taken for {escape(names[j])}<br>{counts[i, j]:,} of {sizes[i]:,} {unit}"
    traces = [
        go.Heatmap(
            z=np.where(part & (counts > 0), share, np.nan),  # what is not a number is not drawn
            zmin=0,
            zmax=end,
            colorscale=[[0, tint], [1, color]],
            xgap=1,
            ygap=1,
            texttemplate="%{z:.1f}" if len(counts) <= NUMBERED else None,
            customdata=hover,
            hovertemplate="%{customdata} (%{z:.1f} %)<extra></extra>",
            showscale=color == ORANGE and len(counts) > NUMBERED,
            colorbar={"ticksuffix": " %", "thickness": 12, "outlinewidth": 0},
        )
        for part, tint, color, end in ((right, "#e8effc", BLUE, 100.0), (~right, "#fdeede", ORANGE, top or 1.0))
    ]
    labels = [short(name) for name in names]
    ticks, ends = class_ticks(labels), [-0.5, len(counts) - 0.5]
    room = 7 * max(map(len, labels))  # pixels of the longest label
    upright = room * len(counts) > 900
    return figure(
        traces,
        "taken for",
        "class",
        height=100 + (44 if len(counts) <= NUMBERED else 17) * len(counts) + (room if upright else 0),
        xaxis={**ticks, "tickangle": -90 if upright else 0, "range": ends},
        yaxis={**ticks, "range": ends[::-1]},
    )


def shares(counts: np.ndarray) -> np.ndarray:
    """In % of each row's images."""
    return np.asarray(100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1))


def worst_share(counts: np.ndarray) -> float:
    """The largest share of a row that is wrong, in %: where a scale of mistakes can end."""
    return float(shares(counts)[~np.eye(len(counts), dtype=bool)].max())


def mistakes(counts: np.ndarray, limit: int = MOST) -> list[tuple[int, int, int]]:
    """(class, taken for, count) of a confusion matrix, at most `limit` of them, the largest counts first."""
    true, predicted = np.nonzero(counts - np.diag(np.diagonal(counts)))
    count = counts[true, predicted]
    first = np.argsort(-count, kind="stable")[:limit]
    return [(int(true[i]), int(predicted[i]), int(count[i])) for i in first]


def class_ticks(labels: Sequence[str]) -> dict[str, Any]:
    """Ticks at 0, 1, …, which carry the labels: as categories, equal ones would become one."""
    text = [escape(label) for label in labels]
    return {"tickvals": list(range(len(text))), "ticktext": text, "showgrid": False}


def short(name: str) -> str:
    return name if len(name) <= LABEL else f"{name[: LABEL - 1]}…"
