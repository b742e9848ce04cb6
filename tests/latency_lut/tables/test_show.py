from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from latency_lut.show import main
from latency_lut.tables.blocks import block_costs, block_table, block_text
from latency_lut.tables.plan import Plan
from latency_lut.tables.plots import cost_figure
from latency_lut.tables.show import origin
from latency_lut.tables.table import Graph, LatencyTable, Row
from search_spaces import SearchSpace, UserError
from search_spaces.command import align
from tests.latency_lut.fake import cost_ns


def with_graph(table: LatencyTable, name: str, **changes: Any) -> LatencyTable:
    """The table with that graph changed, and the rows that follow."""
    graph: Graph = replace(table.graphs[name], **changes)
    graphs = {**table.graphs, name: graph}
    plan = Plan({}, {key: row.terms for key, row in table.rows.items()})
    minima = plan.costs({name: min(graph.samples_ms) for name, graph in graphs.items()})
    medians = plan.costs({name: median(graph.samples_ms) for name, graph in graphs.items()})
    rows = {key: Row(max(0.0, minima[key]), max(0.0, medians[key]), terms) for key, terms in plan.terms.items()}
    clamped = tuple(key for key, cost in minima.items() if cost <= 0)
    return replace(table, graphs=graphs, rows=rows, clamped=clamped)


def test_every_row_is_shown_with_its_cost_in_the_order_of_execution(
    table_file: Path, nano: SearchSpace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main([str(table_file), "--out", str(tmp_path / "t.html")])
    text = capsys.readouterr().out
    assert text.startswith(f"{table_file}\n")
    assert "fake device" in text
    assert "3 samples of each graph, built 2" in text
    lines = [line for line in text.splitlines() if re.match(r"(stages\.\d|stem|head) ", line)]
    assert len(lines) == len(nano.all_blocks())
    for line, block in zip(lines, nano.all_blocks().values(), strict=True):
        assert f"{cost_ns(block.key) / 1e6:.4f}" in line
        assert f" {block.num_params:,} " in line
        assert {block.kind, "x".join(map(str, block.input_shape())), "fake"} <= set(line.split())
    assert text.endswith(f"{tmp_path / 't.html'}\n")


def test_the_most_expensive_first(table_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([str(table_file), "--out", str(tmp_path / "t.html"), "--sort", "ms", "--json"])
    blocks = json.loads(capsys.readouterr().out)["blocks"]
    assert [b["key"] for b in blocks] == sorted((b["key"] for b in blocks), key=lambda key: -cost_ns(key))


def test_json_has_all_of_the_text(
    table: LatencyTable, table_file: Path, nano: SearchSpace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main([str(table_file), "--out", str(tmp_path / "t.html"), "--json"])
    shown = json.loads(capsys.readouterr().out)
    assert shown["table"] == str(table_file)
    assert shown["provenance"]["runtime"]["device"] == "fake device"
    assert shown["provenance"]["anchor_ms"] == table.provenance.anchor_ms
    assert (shown["scale"], shown["offset_ms"]) == (table.calibration.scale, table.calibration.offset_ms)
    for row, block in zip(shown["blocks"], nano.all_blocks().values(), strict=True):
        assert (row["key"], row["macs"], row["num_params"]) == (block.key, block.macs, block.num_params)
        assert row["min_ms"] == table.rows[block.key].min_ms
        assert row["ms_per_mmac"] == pytest.approx(row["min_ms"] / (block.macs / 1e6))
        assert row["devices"] == {"fake": 1.0}


def test_stages_are_those_of_the_weights(table: LatencyTable, nano: SearchSpace) -> None:
    stages = {cost.key: cost.stage for cost in block_costs(table, nano)}
    names = {block.key: block.name for slot in nano.slots for block in nano.slot_blocks(slot)}
    for key, stage in stages.items():
        assert names[key].startswith(f"{stage}.") or key.startswith(f"{stage}(")


def test_spread_is_that_of_the_samples_as_the_row_weighs_them(table: LatencyTable, nano: SearchSpace) -> None:
    block = next(block for block in nano.all_blocks().values() if block.chainable)
    long, short = table.rows[block.key].terms
    noisy = with_graph(table, long, samples_ms=(1.6, 1.7, 1.8, 1.9, 2.0))
    noisy = with_graph(noisy, short, samples_ms=(1.0, 1.0, 1.0, 1.0, 1.0))
    (spread,) = (cost.spread for cost in block_costs(noisy, nano) if cost.key == block.key)
    assert spread == pytest.approx(0.2 / 0.6)


def test_a_row_of_zero_has_no_spread(table: LatencyTable, nano: SearchSpace) -> None:
    key = next(iter(table.rows))
    zero = replace(table, clamped=(key,), rows={**table.rows, key: Row(0.0, 0.0, {})})
    costs = block_costs(zero, nano)
    assert costs[0].spread is None
    assert " - " in block_text(costs).splitlines()[1]
    assert len(cost_figure([c for c in costs if c.min_ms], lambda c: c.min_ms, "ms", log=True).data)


def test_a_median_below_zero_is_no_median(table: LatencyTable, nano: SearchSpace) -> None:
    block = next(block for block in nano.all_blocks().values() if block.chainable)
    long, short = table.rows[block.key].terms
    noisy = with_graph(table, long, samples_ms=(2.0, 2.1, 2.2))
    noisy = with_graph(noisy, short, samples_ms=(1.0, 3.0, 3.1))
    assert noisy.rows[block.key].median_ms == 0
    assert block.key not in noisy.clamped, "its minimum is above 0"
    (cost,) = (cost for cost in block_costs(noisy, nano) if cost.key == block.key)
    assert cost.median_ms is None
    assert " 0.1667       -  " in block_text([cost])
    (points,) = (trace for trace in cost_figure([cost], lambda c: c.min_ms, "ms").data if trace.mode == "markers")
    assert "<br>0.1667 ms, median -<br>" in points.customdata[0]


def test_devices_are_those_of_the_graphs_that_hold_the_block(table: LatencyTable, nano: SearchSpace) -> None:
    block = next(block for block in nano.all_blocks().values() if block.chainable)
    long, short = table.rows[block.key].terms
    mixed = with_graph(table, long, devices={"NeuralEngine": 0.8, "CPU": 0.2})
    mixed = with_graph(mixed, short, devices={"CPU": 1.0})
    (cost,) = (cost for cost in block_costs(mixed, nano) if cost.key == block.key)
    assert cost.devices == {"NeuralEngine": 0.8, "CPU": 0.2}
    assert "NeuralEngine 80%, CPU 20%" in block_text([cost])


def test_without_devices_there_is_no_column_of_them(table: LatencyTable, nano: SearchSpace) -> None:
    plain = replace(table, graphs={name: replace(graph, devices={}) for name, graph in table.graphs.items()})
    assert "device" not in block_text(block_costs(plain, nano))


def test_the_page_lies_beside_the_table_and_holds_its_figures(
    table: LatencyTable, nano: SearchSpace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table.save(tmp_path / "t.json")
    main([str(tmp_path / "t.json")])
    html = (tmp_path / "t.html").read_text(encoding="utf-8")
    for cell in block_table(block_costs(table, nano))[0][5]:
        assert f">{cell}</span></td>" in html or not cell
    for key in nano.all_blocks():
        assert html.count(key) == 2, "a point in each plot"
    own = re.sub(r"<script>.{1000000,}?</script>", "", html, flags=re.DOTALL)  # Plotly's, which names its makers
    assert len(own) < 300_000
    assert "http:" not in own
    assert "https:" not in own
    assert not re.search(r"""(src|href)=["'](?!data:)""", own)
    assert "default-src 'none'" in own


def test_each_block_is_a_point_in_the_panel_of_its_stage(table: LatencyTable, nano: SearchSpace) -> None:
    costs = block_costs(table, nano)
    figure = cost_figure(costs, lambda cost: cost.min_ms, "ms")
    points = [trace for trace in figure.data if trace.mode == "markers"]
    drawn = sorted((x, y) for trace in points for x, y in zip(trace.x, trace.y, strict=True))
    assert drawn == sorted((cost.width, cost.min_ms) for cost in costs)
    assert [title.text for title in figure.layout.annotations] == [f"stages.{i}" for i in range(4)]
    names = {cost.kind for cost in costs}
    assert figure.layout.margin.t >= 20 * (len(names) // 2 + 2), "a phone's legend has two names in a line"
    assert sorted(t.name for t in points if t.showlegend) == sorted({cost.kind for cost in costs})
    (ffn,) = (t for t in figure.data if t.fill and t.legendgroup == "ffn" and t.xaxis == "x")
    in_first = [c for c in costs if c.kind == "ffn" and c.stage == "stages.0"]
    lowest, highest = ([f(c.min_ms for c in in_first if c.width == w) for w in (16, 24)] for f in (min, max))
    assert list(ffn.y) == [*highest, *reversed(lowest)]


def test_the_line_that_builds_it_again_is_shown_where_it_is_known(table: LatencyTable) -> None:
    known = replace(table, provenance=replace(table.provenance, date="2030-01-02", command="python -m x --y"))
    assert origin(known).endswith("built 2030-01-02, again with: python -m x --y")
    assert origin(replace(table, provenance=replace(known.provenance, command=""))).endswith("built 2030-01-02")


def test_columns_line_up() -> None:
    assert align([("a", "b", "c"), ("long", "10", "")], "<><") == "a      b  c\nlong  10"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["none.json"], "cannot read none.json"),
        (["--sort", "size"], "--sort is 'size'; choose from place, ms"),
        (["TABLE", "--out", "x.json"], "--out is x.json; give a file that ends in .html"),
        ([], "no table in runs/tables; build one"),
    ],
)
def test_bad_input(
    argv: list[str], message: str, table_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=re.escape(message)) as error:
        main([str(table_file) if word == "TABLE" else word for word in argv])
    assert "\n" not in str(error.value)


def test_a_table_of_an_unknown_or_larger_space_is_named(table: LatencyTable, tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    replace(table, space="mine").save(path)
    with pytest.raises(UserError, match=re.escape(f"{path}: no space 'mine'; choose from")):
        main([str(path)])
    replace(table, rows=dict(list(table.rows.items())[1:])).save(path)
    with pytest.raises(UserError, match=re.escape(f"{path}: the table lacks 1 blocks")):
        main([str(path)])
