"""The page of a pruning: what it cost and gained, beside the newest search of its run, and what remains."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from nas.evaluation.intervals import error_bars, with_interval
from nas.objective.mes import PUBLISHED
from nas.objective.precisions import precision_of
from nas.runs import load_run_info
from nas.searching.result import points_of, read_result
from search_spaces import UserError
from search_spaces.command.files import write_text
from search_spaces.command.page import (
    BLUE,
    CYCLE,
    GRAY,
    GREEN,
    ORANGE,
    Markup,
    commands,
    embed,
    figure,
    html,
    log_axis,
    page,
    table,
    warning,
)
from search_spaces.structure.base import Structure

Json = dict[str, Any]
WITHIN_BLOCKS = ("Q, K", "V", "FFN")  # kinds of channels that Figure 5 has over the embedding
Channels = dict[str, dict[str, int]]  # by kind and layer


def write_page(folder: Path, result: Json, digest: str, dense: Structure, pruned: Structure) -> Path:
    """Writes `report.html` in the folder, which is in `prune/` of a run, and returns its path.

    Args:
        result: the pruning's `result.json`.
        digest: of the splits that its accuracies are of.
    """
    parts = [
        *_summary(folder, result),
        *_curve(result, newest_search(folder.resolve().parents[1], digest)),
        *_bars(dense, pruned),
        *_stages(result),
        *_shapes(dense, pruned),
        html("<h2>Command</h2>\n{}", commands([result["command"]])),
    ]
    path = folder / "report.html"
    write_text(path, page(f"{result['model']}, {result['target']}", parts))
    return path


def newest_search(run_folder: Path, digest: str) -> tuple[Path, Json] | None:
    """The newest search of the run that knows latencies of floating point, and its folder.

    None if it has none, or is of other images than the splits of that digest.
    """
    found = []
    try:
        if load_run_info(run_folder).splits.digest != digest:
            return None
    except UserError:  # no run with a supernet, or damaged
        return None
    for path in run_folder.glob("search*/result.json"):
        try:
            search = read_result(path.parent)
        except UserError:  # damaged: no reason to lose this page
            continue
        if any("latency_ms" in point and precision_of(point) != "int8" for point in points_of(search)):
            found.append((path.stat().st_mtime_ns, path.parent, search))
    return max(found)[1:] if found else None


# ---- sections

_METRICS = {"macs": "MACs", "params": "parameters", "latency": "latency"}
_CRITERIA = {"taylor": "Taylor importance", "magnitude": "weight", "random": "luck"}
_SCOPES = {
    "local": "layer by layer",
    "global": "over the whole network",
    "isomorphic": "among layers of one structure",
}


def _summary(folder: Path, result: Json) -> Iterator[Markup]:
    accuracy, networks, method = result["accuracy"], result["networks"], result["method"]
    counts, splits = result["num_images"], [split for split, count in result["num_images"].items() if count]
    yield html("<h1>{}</h1>\n", folder.resolve().name)
    metric, _, share = result["target"].partition("=")
    why = _CRITERIA.get(method["criterion"], method["criterion"])
    saved = "" if method["normalize"] == "none" else f" for the {_named(method['normalize'])} saved"
    yield html(
        '<p class="soft">{model}, cut to {share} of its {metric} in {pruning_seconds:.1f} s: what had the least {why}, '
        "{scope}; then fine-tuned {finetune_epochs} epochs in {finetune_minutes:.1f} minutes</p>\n",
        **{**result, "share": share, "metric": _named(metric), "why": why + saved},
        scope=_SCOPES.get(method["scope"], method["scope"]),
    )
    if missed := missed_latency(result):
        yield warning(f"WARNING: {missed}")
    rows = [
        [
            label,
            *(with_interval(accuracy[key][split], counts[split]).replace(" (", "\n(") for split in splits),
            f"{row['latency_ms']:.3f}",
            f"{row['num_params'] / 1e6:.3f}",
            f"{row['macs'] / 1e6:.2f}",
            f"{row['mes']:.1f}",
        ]
        for label, key, row in (
            ("before", "dense", networks["dense"]),
            ("pruned", "pruned", networks["pruned"]),
            ("fine-tuned", "finetuned", networks["pruned"]),
        )
    ]
    head = [
        "",
        *(f"Accuracy, 95 % interval\n{_held_out(result, split)}" for split in splits),
        "Latency, ms\nmeasured",
        "Parameters\nmillions",
    ]
    yield table([*head, "MACs\nmillions", "MES"], rows, wide=True)
    yield html(
        '<p class="soft">Latency: both networks in one interleaved run, {runtime} {runtime_version}, {precision}, '
        "{threads} thread(s), {device}. MES = 100 · (latency / 1 ms)<sup>−1</sup> · (parameters / 3 M)<sup>−0.5</sup>"
        "</p>\n",
        **result["device"],
    )
    if "search" not in splits:
        yield html('<p class="soft">Trained on the search split, too: accuracies are of the test split.</p>\n')
    if result["busy"]:
        yield warning("WARNING: the machine was busy while latencies were measured; repeat it when it is quiet")
    if trials := [trial for entry in result["rounds"] for trial in entry["latency_trials"]]:
        cells = [[f"{100 * t['macs_share']:.1f} %", f"{100 * t['latency_share']:.1f} %"] for t in trials]
        yield html("<h3>Networks measured on the way to the latency</h3>\n")
        yield table(["MACs", "Latency"], cells, text=())


def _held_out(result: Json, split: str) -> str:
    """What the images of a split are called."""
    maybe_seen = {"search": "search split, maybe seen", "test": "held-out images, maybe seen"}
    return maybe_seen[split] if result["may_have_seen_test"] else f"{split} split"


def _named(metric: str) -> str:
    return _METRICS.get(metric, metric)


def _curve(result: Json, found: tuple[Path, Json] | None) -> Iterator[Markup]:
    """On the search split; on the test split, and without the search, where the network was trained on that."""
    import plotly.graph_objects as go

    split, found = ("search", found) if result["num_images"]["search"] else ("test", None)
    networks, accuracy = result["networks"], {stage: shares[split] for stage, shares in result["accuracy"].items()}
    scores = [networks["dense"]["mes"], networks["pruned"]["mes"]]
    traces = []
    if found is not None:
        search = found[1]
        points = [p for p in points_of(search) if "latency_ms" in p and precision_of(p) != "int8"]
        search_scores = [float(PUBLISHED.mes(p)) for p in points]
        scores += search_scores
        for name, color, size, chosen in (
            ("search, all", GRAY, 4, lambda _: True),
            ("search, Pareto set", BLUE, 8, lambda p: p["pareto"]),
        ):
            pairs = sorted((m, p["accuracy"]) for m, p in zip(search_scores, points, strict=True) if chosen(p))
            traces.append(_markers(go, name, pairs, color, size))
    path = [
        (networks["dense"]["mes"], accuracy["dense"]),
        (networks["pruned"]["mes"], accuracy["pruned"]),
        (networks["pruned"]["mes"], accuracy["finetuned"]),
    ]
    this = _markers(go, "this network", path, ORANGE, 11, mode="lines+markers+text")
    whiskers = error_bars([(share, result["num_images"][split]) for _, share in path])
    traces.append(this.update(text=["before", "pruned", "fine-tuned"], error_y=whiskers))
    yield html("<h2>Accuracy against MES</h2>\n")
    held_out = _held_out(result, split)
    plot = figure(traces, "MES (log scale, more is better)", f"accuracy on the {held_out}, %", xaxis=log_axis(scores))
    yield embed("curve", plot, "")
    beside = ""
    if found is not None:
        beside = (
            f" The search is {found[0].name} of this run: its latency is that of its table, its accuracies are those "
            "of the supernet’s weights, before retraining."
        )
    yield html(
        '<p class="soft">MES of all points has the exponents and units above. Whiskers: 95 % intervals.{}</p>\n', beside
    )


def _markers(
    go: Any, name: str, points: Sequence[tuple[float, float]], color: str, size: int, mode: str = "markers"
) -> Any:
    """(MES, accuracy) of networks."""
    return go.Scatter(
        name=name,
        x=[x for x, _ in points],
        y=[100 * y for _, y in points],
        mode=mode,
        textposition="top right",
        cliponaxis=False,
        marker={"color": color, "size": size},
        line={"color": color, "width": 1},
    )


def channels(structure: Structure) -> Channels:
    """Output channels of each layer by kind; of attentions, over all heads. Queries and keys have one dimension."""
    sizes: defaultdict[str, dict[str, int]] = defaultdict(dict)
    for d in structure.dimensions:
        owner = d.name.rpartition(".")[0] if d.kind in ("heads", "key", "value") else d.name
        sizes[owner][d.kind] = d.size
    found: Channels = {kind: {} for kind in ("embedding", "Q, K", "V", "heads", "FFN", "width")}
    for owner, of in sizes.items():
        heads = of.get("heads", 1)
        if "key" in of:
            found["Q, K"][owner] = heads * of["key"]
        if "value" in of:
            found["V"][owner] = heads * of["value"]
        if "heads" in of and "key" not in of and "value" not in of:
            found["heads"][owner] = heads
        for kind, label in (("embedding", "embedding"), ("ffn", "FFN"), ("width", "width")):
            if kind in of:
                found[label][owner] = of[kind]
    return {kind: layers for kind, layers in found.items() if layers}


def embeddings(structure: Structure) -> dict[str, str]:
    """By layer, as `channels` names it, the embedding that its tensors share an entry with."""
    kinds = {d.name: d.kind for d in structure.dimensions}
    found: dict[str, str] = {}
    for axes in structure.axes.values():
        factors = [f for layout in axes for segment in layout for f in segment if isinstance(f, str)]
        for embedding in (f for f in factors if kinds[f] == "embedding"):
            for f in factors:
                owner = f.rpartition(".")[0] if kinds[f] in ("heads", "key", "value") else f
                found.setdefault(owner, embedding)
    return found


def ratios(structure: Structure) -> dict[str, dict[str, float]]:
    """Channels over the embedding that they come from or go to: of Q and K, V and FFNs, by layer."""
    counts, sizes, owner = channels(structure), structure.sizes, embeddings(structure)
    found = {
        kind: {layer: n / sizes[owner[layer]] for layer, n in counts.get(kind, {}).items() if layer in owner}
        for kind in WITHIN_BLOCKS
    }
    return {kind: layers for kind, layers in found.items() if layers}


def _bars(dense: Structure, pruned: Structure) -> Iterator[Markup]:
    before, after = channels(dense), channels(pruned)
    shares = {
        kind: {layer: 100 * after[kind][layer] / count for layer, count in layers.items()}
        for kind, layers in before.items()
    }
    yield html("<h2>What remains</h2>\n")
    yield embed("remaining", _grouped(shares, "channels that remain, %"))
    if "Q, K" in before:
        yield html(
            '<p class="soft">Queries and keys (Q, K) are multiplied with each other, so they lose the same channels. A '
            "projection’s output is the embedding, its input the values (V).</p>\n"
        )
    both = {"before": ratios(dense), "after": ratios(pruned)}
    if any(both.values()):
        pairs = {f"{kind}, {label}": layers for label, found in both.items() for kind, layers in found.items()}
        yield html("<h3>Channels over the embedding</h3>\n")
        yield embed("ratio", _grouped(pairs, "output channels / embedding", pairs=True))
        yield html(
            '<p class="soft">As Figure 5 of EfficientViT (Liu et al., CVPR 2023, supplement) has it for DeiT-T; the '
            "embedding is each network’s own.</p>\n"
        )


def _grouped(series: Mapping[str, Mapping[str, float]], x_title: str, *, pairs: bool = False) -> Any:
    """Bars by layer, the first on top, a colour for each kind; of pairs, the first of the same kind is an outline."""
    import plotly.graph_objects as go

    kinds = list(dict.fromkeys(name.rpartition(", ")[0] if pairs else name for name in series))
    order = list(dict.fromkeys(_block(layer) for layers in series.values() for layer in layers))
    traces = []
    for name, layers in series.items():
        color = CYCLE[kinds.index(name.rpartition(", ")[0] if pairs else name) % len(CYCLE)]
        hollow = pairs and name.endswith("before")
        marker = {"color": "rgba(0,0,0,0)" if hollow else color, "line": {"color": color, "width": 1 if pairs else 0}}
        traces.append(
            go.Bar(
                name=escape(name),
                orientation="h",
                y=[escape(_block(layer)) for layer in layers],
                x=list(layers.values()),
                marker=marker,
                hovertemplate="%{y}: %{x:.3g}<extra>" + escape(name) + "</extra>",
            )
        )
    return _by_part(traces, [escape(layer) for layer in order], x_title)


def _by_part(bars: Sequence[Any], parts: Sequence[str], x_title: str) -> Any:
    """Horizontal bars: a part's name has a line of its own, however narrow the page."""
    axis = {"categoryorder": "array", "categoryarray": list(parts), "autorange": "reversed", "showgrid": False}
    axis |= {"tickmode": "linear"}  # a name for each
    height = 90 + len(parts) * (10 + 10 * len(bars))
    return figure(bars, x_title, barmode="group", bargap=0.25, height=height, yaxis=axis, showlegend=len(bars) > 1)


def _block(layer: str) -> str:
    """Attention and FFN of a block stand side by side; what is no more than a width is the layer's."""
    return layer.removesuffix(".attn").removesuffix(".ffn").removesuffix(".width")


def _stages(result: Json) -> Iterator[Markup]:
    import plotly.graph_objects as go

    times = {name: row["stages_ms"] for name, row in result["networks"].items()}
    if not all(times.values()):
        return
    order = list(dict.fromkeys(stage for stages in times.values() for stage in stages))
    traces = [
        go.Bar(
            name={"dense": "before"}.get(name, name),
            orientation="h",
            y=[escape(stage) for stage in order],
            x=[stages.get(stage, 0.0) for stage in order],
            marker={"color": color},
        )
        for (name, stages), color in zip(times.items(), (GRAY, GREEN), strict=True)
    ]
    yield html("<h2>Latency by part</h2>\n")
    yield embed("stages", _by_part(traces, [escape(stage) for stage in order], "ms"))
    yield html(
        '<p class="soft">The runtime’s own time of every operator, added up by the part of the network that it is of; '
        "its profiler slows each operator a little, so the sum is more than the latency above.</p>\n"
    )


def _shapes(dense: Structure, pruned: Structure) -> Iterator[Markup]:
    before, after = dense.sizes, pruned.sizes
    rows = [
        [d.name, d.kind, str(before[d.name]), str(after[d.name]), f"{100 * after[d.name] / before[d.name]:.0f} %"]
        for d in dense.dimensions
    ]
    shapes = table(["Dimension", "Kind", "Before", "After", "Remains"], rows, text=(0, 1))
    yield html("<details><summary>The {} dimensions</summary>\n{}</details>\n", len(rows), shapes)


# ---- the terminal


def kind_of_accuracy(may_have_seen: bool) -> str:
    """What an accuracy on the held-out images is called: no test, where the weights may have been trained on them."""
    return "accuracy on images that it may have seen" if may_have_seen else "test accuracy"


def missed_latency(result: Json) -> str | None:
    """That the pruned network is not as fast as it was to be, or more than 5 % faster; None if it is."""
    metric, _, share = result["target"].partition("=")
    dense, pruned = (result["networks"][name]["latency_ms"] for name in ("dense", "pruned"))
    if metric != "latency" or 0.95 * float(share) <= pruned / dense <= float(share):
        return None
    return f"the latency aimed at, {100 * float(share):.1f} %, is not met: it is {100 * pruned / dense:.1f} %"


def as_text(result: Json) -> str:
    """What it came to, for the terminal."""
    dense, pruned = (result["networks"][name] for name in ("dense", "pruned"))
    accuracy = result["accuracy"]
    figures = (("MACs, M", "macs", 1e6), ("parameters, M", "num_params", 1e6), ("latency, ms", "latency_ms", 1))
    lines = [
        f"{label:14}{dense[name] / unit:9.3f} -> {pruned[name] / unit:9.3f}  ({100 * pruned[name] / dense[name]:.1f} %)"
        for label, name, unit in figures
    ]
    if missed := missed_latency(result):
        lines.append(missed)
    lines.append(f"{'MES':14}{dense['mes']:9.1f} -> {pruned['mes']:9.1f}")
    if result["busy"]:
        lines.append("WARNING: the machine was busy while latencies were measured; repeat it when it is quiet")
    count = result["num_images"]["test"]
    steps = " -> ".join(f"{name} {with_interval(accuracy[name]['test'], count)}" for name in accuracy)
    return "\n".join([*lines, f"{kind_of_accuracy(result['may_have_seen_test'])}  {steps}"])
