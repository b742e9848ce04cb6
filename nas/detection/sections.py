"""Parts of pages that show what is found on images, by boxes or by masks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from nas.dense.export import FOLDER, Facts
from nas.dense.result import DenseResult
from nas.detection.metric import RECALLS, By, ObjectFigures, Seen
from nas.evaluation.confusion_plot import MAX_CLASSES, confusion_matrix, mistakes, worst_share
from search_spaces.command.page import CYCLE, GRAY, Markup, embed, figure, html, joined, link, table

ONE: dict[By, str] = {"bbox": "box", "segm": "mask"}
MANY: dict[By, str] = {"bbox": "boxes", "segm": "masks"}
NOTE = (
    "AP, average precision, is COCO’s: the area under the curve of precision against recall, as a mean over the "
    "classes and over how exactly {} must lie (an IoU, overlap over union, of 0.50 to 0.95); AP50 and AP75 are at "
    "0.50 and 0.75 alone. Small objects have less than 32 × 32 pixels of their image, large ones more than 96 × 96. "
    "Objects marked as crowds do not count."
)
CURVES = (
    "Precision, the share of {} that are right, against recall, the share of objects that are found, as those of "
    "lower scores are shown, too (IoU 0.5)."
)
CONFUSION = (
    "Of {many} with a score of {score:.2f} or more, from which on F1, the balance of precision and recall, is best "
    "here ({f1:.1f} %): shares of each row’s objects, in %, by the class that their {one} says. The last row has "
    "{many} on no object, the last column objects without a {one} (IoU 0.5, whatever the class)."
)
NOTHING = "no object"
NARROW = 18  # characters of a name beside a box
STYLE = """
.boxes { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 240px), 1fr)); gap: 12px; }
.boxes figure { margin: 0; }
.boxes svg { width: 100%; display: block; border-radius: 4px; background: var(--panel); }
.boxes rect { fill: none; vector-effect: non-scaling-stroke; stroke-width: 2; }
.boxes .there { stroke: #2fbf71; stroke-dasharray: 5 4; }
.boxes .found { stroke: #ff8c1a; }
.boxes text { font-family: system-ui, sans-serif; paint-order: stroke; stroke: #000b; stroke-linejoin: round; }
.boxes text.there { fill: #7df0ae; stroke: #000b; }
.boxes text.found { fill: #ffc38a; stroke: #000b; }
.boxes figcaption { overflow-wrap: anywhere; }
"""


# ---- figures


def figures_table(parts: Sequence[tuple[str, ObjectFigures]], what: str) -> Iterator[Markup]:
    """A row each, by the names given, and what the columns mean.

    Args:
        what: must lie exactly, as "a box".
    """
    head = ["Images", "AP", "AP50", "AP75", "Small\nAP", "Medium\nAP", "Large\nAP", "Recall\nof 100"]
    rows = [
        [
            f"{name}\n{found['num_images']:,} images, {found['num_objects']:,} objects",
            *(percent(found[key]) for key in ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large", "recall")),
        ]
        for name, found in parts
    ]
    yield table(head, rows, wide=True)
    yield html('<p class="soft">In %. {}</p>\n', NOTE.format(what))


def percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"


def curves(classes: Sequence[str], test: ObjectFigures, by: By) -> Iterator[Markup]:
    yield html('<h2>Precision and recall</h2>\n<p class="soft">{}</p>\n', CURVES.format(MANY[by]))
    yield embed("curves", precision_curves(classes, test), "square")


def precision_curves(classes: Sequence[str], found: ObjectFigures) -> Any:
    """The mean of all classes, and each of them where these are few."""
    import plotly.graph_objects as go

    there = {name: one["precision"] for name, one in zip(classes, found["per_class"], strict=True) if one["precision"]}
    recalls = (100 * np.linspace(0, 1, RECALLS)).tolist()
    lines = [("all classes", np.mean(list(there.values()), axis=0), GRAY, 4.0)]
    if 1 < len(there) <= 2 * len(CYCLE):
        lines += [(name, np.array(curve), CYCLE[i % len(CYCLE)], 1.5) for i, (name, curve) in enumerate(there.items())]
    traces = [
        go.Scatter(x=recalls, y=(100 * curve).tolist(), name=escape(name), line={"color": color, "width": width},
                   hovertemplate="%{y:.0f} % right, %{x:.0f} % found<extra>" + escape(name) + "</extra>")
        for name, curve, color, width in lines
    ]  # fmt: skip
    ends = [0, 101]
    return figure(traces, "recall, %", "precision, %", xaxis={"range": ends}, yaxis={"range": ends})


def confusion(classes: Sequence[str], test: ObjectFigures, by: By) -> Iterator[Markup]:
    said = CONFUSION.format(one=ONE[by], many=MANY[by], score=test["score"], f1=100 * test["f1"])
    yield html('<h2>What is taken for what</h2>\n<p class="soft">{}</p>\n', said)
    counts, names = np.array(test["confusion"]), [*classes, NOTHING]
    if len(classes) > MAX_CLASSES:
        rows = [[names[a], names[b], f"{objects:,}"] for a, b, objects in mistakes(counts)]
        yield table(["Object", ONE[by].capitalize(), "Objects"], rows, text=(0, 1))
        return
    yield embed("confusion", confusion_matrix(names, counts, worst_share(counts), "objects"))


# ---- images


def picture(name: str, jpeg: str, size: Sequence[int], boxes: Sequence[Markup]) -> Markup:
    """The image with boxes over it, drawn in its own pixels whatever size it is shown in.

    Args:
        jpeg: in base64.
        size: height and width in pixels.
    """
    height, width = size
    return html(
        '<svg viewBox="0 0 {} {}" role="img" aria-label="{}"><image href="data:image/jpeg;base64,{}" width="{}" '
        'height="{}"/>{}</svg>',
        width, height, name, jpeg, width, height, joined(boxes),
    )  # fmt: skip


def there(classes: Sequence[str], image: Seen) -> list[Markup]:
    """Boxes of its objects."""
    return [_box(one, "there", classes[one["category_id"]], _letter(image)) for one in image["objects"]]


def found(classes: Sequence[str], image: Seen, score: float) -> list[Markup]:
    """Boxes found, with that score or more."""
    return [
        _box(one, "found", f"{classes[one['category_id']][:NARROW]} {one['score']:.2f}", _letter(image))
        for one in image["found"]
        if one["score"] >= score
    ]


def _letter(image: Seen) -> float:
    """The size of letters, in the image's pixels."""
    return max(image["size"]) / 22


def _box(one: Mapping[str, Any], kind: str, text: str, letter: float) -> Markup:
    """An object's class stands below its box, what was found above it."""
    left, top, width, height = one["bbox"]
    y = top + height - 0.25 * letter if kind == "there" else top + 0.95 * letter
    return html(
        '<rect class="{}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"/><text class="{}" x="{:.1f}" y="{:.1f}" '
        'font-size="{:.1f}" stroke-width="{:.1f}">{}</text>',
        kind, left, top, width, height, kind, left + 0.2 * letter, y, letter, letter / 5, text,
    )  # fmt: skip


# ---- files


def files(result: DenseResult, use: str) -> Iterator[Markup]:
    yield html("<h2>Files</h2>\n")
    if not result["files"]:
        yield html('<p class="soft">None were written.</p>\n')
        return
    rows = [_file(facts) for facts in result["files"].values()]
    yield table(["File", "MB", "Latency\nms", "From PyTorch’s"], rows, text=(0, 3))
    yield html('<p class="soft">{}</p>\n', use)


UNITS = {"boxes": "pixels", "scores": "in score", "coordinates": "of the sides", "confidence": "in confidence"}


def _file(facts: Facts) -> list[str]:
    differences = ", ".join(f"{value:.1e} {UNITS.get(what, what)}" for what, value in facts["differences"].items())
    latency = facts.get("latency_ms")
    return [
        link(f"{FOLDER}/{facts['file']}", facts["file"]),
        f"{facts['bytes'] / 1e6:.2f}",
        f"{latency['min']:.3f}\n{latency['threads']} thread{'s' if latency['threads'] > 1 else ''}" if latency else "–",
        f"{differences}\n{facts.get('executed_by', 'ONNX Runtime')}",
    ]
