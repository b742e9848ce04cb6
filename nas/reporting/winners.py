"""The report's first tables: the winners of searches, what they are and how accurate."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from nas.objective.metrics import shown
from nas.objective.precisions import precision_of
from nas.reporting.data import Artifacts, Group, Json
from nas.reporting.drawing import numbers
from nas.runs import WHOLE
from nas.runs.results import STARTS, onnx_latency
from nas.searching.result import points_of
from search_spaces.command.page import Markup, html, joined, table, warning


def heading_of(a: Artifacts, group: Group) -> str:
    """The names of its searches; empty where they say nothing: of the only one, on the whole search split."""
    title = a.title(group)
    return "" if [title] == list(a.searches) else title


def winners(a: Artifacts, group: Group) -> Iterator[Markup]:
    if heading := heading_of(a, group):
        yield html("<h3>{}</h3>\n", heading)
    yield table(*winner_table(a, group), wide=True)
    yield from (html("<p><strong>{}</strong></p>\n", sentence) for sentence in a.recommendations(group))
    if trained := [name for name in group.networks if a.retrained.get(name, {}).get("all_data")]:
        yield html('<p class="soft">Trained on the search images, too: {}.</p>\n', ", ".join(trained))
    yield from map(warning, a.warnings(group))
    yield html('<p class="soft">{}</p>\n', _score(group))


def winner_table(a: Artifacts, group: Group) -> tuple[list[str], list[list[str]]]:
    """Headings and rows: the winners, once for each training, and the largest network for comparison, if a search has
    evaluated it. Columns in which nothing is known yet are left out; a line break is before an interval.
    """
    points = (p for search in group.searches.values() for p in points_of(search))
    largest = [p for p in points if p["arch"] == a.space.to_json(a.space.largest)][:1]
    names, winners = [*group.networks, *("largest" for _ in largest)], [*group.networks.values(), *largest]
    inherited = {"init": "inherit", "start_test_accuracy": a.supernet["test_accuracy"]["largest"]} if a.supernet else {}
    retrained = [*(a.retrained.get(name, {}) for name in group.networks), *(inherited for _ in largest)]
    precisions = list(map(precision_of, winners))
    timed = [onnx_latency(a.exported.get(n, {}), p) for n, p in zip(names, precisions, strict=True)]
    tested, searched = a.info.splits.test, a.num_searched(group)
    sizes = ("Parameters\nmillions", "MACs\nmillions", "Memory\nMB", "MES")
    columns: dict[str, Sequence[str]] = {
        "Network": ["whole (fine-tuned)" if name == WHOLE else name for name in names],
        "Precision": precisions,
        f"Search {a.figure}\ninherited": [
            _interval(a, None if name == WHOLE else w["accuracy"], searched, w.get("accuracy_interval", ()))
            for name, w in zip(names, winners, strict=True)
        ],
        **{
            f"Test {a.figure}\n{word}": [
                _interval(a, r["start_test_accuracy"] if r.get("init") == init else None, tested) for r in retrained
            ]
            for init, word in STARTS.items()
        },
        f"Test {a.figure}\nretrained": [_interval(a, r.get("test_accuracy"), tested) for r in retrained],
        **{
            f"{shown(metric).title.capitalize()}\npredicted": numbers([w.get(metric) for w in winners])
            for metric in group.latencies
        },
        "Latency, ms\nmeasured": numbers([t.get("min") for t in timed]),
        **dict(zip(sizes, size_columns(winners), strict=True)),
    }
    known = {head: cells for head, cells in columns.items() if set(cells) != {"–"}}
    return list(known), [list(row) for row in zip(*known.values(), strict=True)]


def size_columns(points: Sequence[Json]) -> tuple[list[str], ...]:
    return (
        numbers([p["num_params"] / 1e6 for p in points]),
        numbers([p["macs"] / 1e6 for p in points]),
        numbers([p.get("memory_mb") for p in points]),
        numbers([p["mes"] for p in points]),
    )


def _score(group: Group) -> Markup:
    """The definition of MES in these searches."""
    terms = ((shown(term.metric), term) for term in group.objective.terms)
    factor = ' · <span class="whole">({} / {})<sup>−{:g}</sup></span>'
    return html("MES = 100{}", joined(html(factor, m.name, m.text(term.unit), term.alpha) for m, term in terms))


def _interval(a: Artifacts, value: float | None, count: int, ends: Sequence[float] = ()) -> str:
    """Of so many images; its interval in a second line."""
    return "–" if value is None else a.said(value, count, ends).replace(" (", "\n(")
