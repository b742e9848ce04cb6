from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import pytest

from latency_lut.diff import main
from latency_lut.tables.diff import compare, report
from latency_lut.tables.plan import held_out_archs
from latency_lut.tables.table import LatencyTable, Row
from search_spaces import Arch, SearchSpace, UserError, get_space

ATTENTION = 5.0  # times as slow on the other device


@pytest.fixture(scope="module")
def archs(nano: SearchSpace, table: LatencyTable) -> list[Arch]:
    return held_out_archs(nano, table, 40, seed=0)


def scaled(table: LatencyTable, factor: Callable[[str], float], whole: float = 1.0) -> LatencyTable:
    """The table with each block `factor(key)` times as slow, and the calibration `whole` times."""
    rows = {
        key: Row(
            row.min_ms * factor(key), row.median_ms * factor(key), {g: w * factor(key) for g, w in row.terms.items()}
        )
        for key, row in table.rows.items()
    }
    line = table.calibration
    calibration = replace(line, scale=line.scale * whole, offset_ms=line.offset_ms * whole)
    return replace(table, rows=rows, calibration=calibration)


def slow_attention(table: LatencyTable) -> LatencyTable:
    return scaled(table, lambda key: ATTENTION if key.startswith("attention(") else 1.0)


def test_a_table_built_again_the_same(table: LatencyTable, nano: SearchSpace, archs: list[Arch]) -> None:
    later = replace(table.provenance, date="2030-01-01T00:00:00+00:00", command="another --out")
    diff = compare(table, replace(table, provenance=later), nano, archs)
    assert diff.conditions == {}
    assert diff.anchor_ratio == 1
    for ratios in (diff.all_blocks, diff.weighty_blocks, *diff.kinds.values()):
        assert ratios is not None
        assert (ratios.low, ratios.median, ratios.high, ratios.difference) == (1, 1, 1, 0)
    assert diff.all_blocks is not None and diff.all_blocks.count == len(nano.all_blocks())
    assert all(block.ratio == block.relative == 1 and block.rank_a == block.rank_b for block in diff.blocks)
    assert (diff.block_spearman, diff.archs.spearman, diff.archs.kendall) == pytest.approx((1, 1, 1))
    assert (diff.archs.ratio, diff.archs.swapped, diff.archs.swaps) == (1, 0, ())
    text = report(diff)
    assert "made in the same way" in text
    assert "every block has the same ratio" in text
    assert "moved most" not in text


def test_twice_as_slow_in_everything(table: LatencyTable, nano: SearchSpace, archs: list[Arch]) -> None:
    plain = replace(table, calibration=replace(table.calibration, offset_ms=0.0))
    slow = scaled(plain, lambda _: 2.0)
    slow = replace(slow, provenance=replace(slow.provenance, anchor_ms=2 * slow.provenance.anchor_ms))
    diff = compare(plain, slow, nano, archs)
    assert diff.anchor_ratio == 2
    assert diff.all_blocks is not None
    assert (diff.all_blocks.low, diff.all_blocks.median, diff.all_blocks.difference) == (2, 2, 1)
    assert all(block.ratio == 2 and block.relative == 1 for block in diff.blocks)
    assert diff.archs.ratio == 2
    assert diff.archs.swapped == 0
    assert compare(slow, plain, nano, archs).archs.ratio == 0.5


def test_what_differs_in_the_making_is_listed(table: LatencyTable, nano: SearchSpace, archs: list[Arch]) -> None:
    runtime = replace(table.provenance.runtime, device="other device", threads=2)
    settings = replace(table.provenance.settings, samples=7)
    source = replace(table.provenance, runtime=runtime, settings=settings, busy=True, anchor_drift=0.5)
    diff = compare(table, replace(table, provenance=source), nano, archs)
    assert diff.conditions == {"device": ("fake device", "other device"), "threads": (1, 2), "samples": (3, 7)}
    assert "other device" in report(diff)


def test_a_slower_kind_of_block_heads_the_list(table: LatencyTable, nano: SearchSpace, archs: list[Arch]) -> None:
    diff = compare(table, slow_attention(table), nano, archs)
    assert diff.kinds["attention"].median == pytest.approx(ATTENTION)
    assert diff.kinds["ffn"].median == 1
    attentions = [key for key in nano.all_blocks() if key.startswith("attention(")]
    lines = report(diff).splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("differ most")) + 1
    assert sorted(line.split()[0] for line in lines[start : start + len(attentions)]) == sorted(attentions)
    assert "5.000    +400.0%" in lines[start]
    moved = [block.key for block in diff.blocks if block.rank_b < block.rank_a]
    assert set(moved) <= set(attentions)
    assert diff.block_spearman is not None and diff.block_spearman < 1


def test_archs_that_swap_are_counted_and_named(table: LatencyTable, nano: SearchSpace, archs: list[Arch]) -> None:
    slow = slow_attention(table)
    diff = compare(table, slow, nano, archs).archs
    times = [(table.latency_ms(nano, arch), slow.latency_ms(nano, arch)) for arch in archs]
    pairs = list(combinations(times, 2))
    swapped = [(i, j) for i, j in pairs if (i[0] - j[0]) * (i[1] - j[1]) < 0]
    assert diff.swapped == len(swapped) / len(pairs) > 0
    named = [nano.from_json(arch) for swap in diff.swaps for arch in (swap.first, swap.second)]
    assert len(set(named)) == len(named)
    assert set(named) <= set(archs)
    for swap in diff.swaps:
        first, second = nano.from_json(swap.first), nano.from_json(swap.second)
        assert swap.a_ms == (table.latency_ms(nano, first), table.latency_ms(nano, second))
        assert swap.b_ms == (slow.latency_ms(nano, first), slow.latency_ms(nano, second))
        assert swap.a_ms[0] < swap.a_ms[1]
        assert swap.b_ms[0] > swap.b_ms[1]
        assert swap.kind == "attention"
    clearest = max(min(max(i[k], j[k]) / min(i[k], j[k]) for k in (0, 1)) for i, j in swapped)
    (a1, a2), (b1, b2) = diff.swaps[0].a_ms, diff.swaps[0].b_ms
    assert min(a2 / a1, b1 / b2) == pytest.approx(clearest)


def test_a_cost_of_zero_has_no_ratio(table: LatencyTable, nano: SearchSpace, archs: list[Arch]) -> None:
    key = next(iter(table.rows))
    zero = replace(table, clamped=(key,), rows={**table.rows, key: Row(0.0, 0.0, {})})
    for pair in ((table, zero), (zero, table), (zero, zero)):
        diff = compare(*pair, nano, archs)
        assert [block.key for block in diff.blocks if block.ratio is None] == [key]
        assert diff.all_blocks is not None and diff.all_blocks.count == len(table.rows) - 1
        assert f"without a ratio, as one table has 0 for them: {key}" in report(diff)


def test_blocks_that_hardly_matter_are_left_out(table: LatencyTable, nano: SearchSpace, archs: list[Arch]) -> None:
    key = next(iter(table.rows))
    tiny = scaled(table, lambda k: 1e-3 if k == key else 1.0)
    diff = compare(tiny, scaled(tiny, lambda k: 3.0 if k == key else 1.0), nano, archs)
    assert [block.key for block in diff.blocks if not block.weighty] == [key]
    assert diff.all_blocks is not None and diff.weighty_blocks is not None
    assert diff.weighty_blocks.count == diff.all_blocks.count - 1
    assert "every block has the same ratio" in report(diff)


def test_text_and_json(
    table: LatencyTable, table_file: Path, nano: SearchSpace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    slow = slow_attention(table)
    slow = replace(slow, provenance=replace(slow.provenance, busy=True, date="2030-01-01T00:00:00+00:00"))
    slow.save(tmp_path / "b.json")
    argv = [str(table_file), str(tmp_path / "b.json"), "--num-archs", "30"]
    main(argv)
    text = capsys.readouterr().out
    assert text.startswith(f"A {table_file}: efficientformerv2-nano at 32 px, fake runtime")
    assert f"\nB {tmp_path / 'b.json'}: " in text
    heads = text.splitlines()[:2]
    assert [head.rpartition(", measured ")[2] for head in heads] == [table.provenance.date, slow.provenance.date]
    assert "30 random networks" in text
    assert text.count('{"space":"efficientformerv2-nano"') == 6
    assert text.endswith("\nB: " + slow.warnings[0] + "\n")
    main([*argv, "--json"])
    shown = json.loads(capsys.readouterr().out)
    assert (shown["a"]["warnings"], shown["b"]["warnings"]) == ([], list(slow.warnings))
    assert [shown["a"]["table"], shown["b"]["table"]] == argv[:2]
    assert [shown["a"]["date"], shown["b"]["date"]] == [table.provenance.date, slow.provenance.date]
    assert [shown["a"]["busy"], shown["b"]["busy"]] == [False, True]
    assert shown["a"]["runtime"]["device"] == "fake device"
    assert shown["kinds"]["attention"]["median"] == pytest.approx(ATTENTION)
    assert [block["key"] for block in shown["blocks"]] == list(nano.all_blocks())
    assert shown["archs"]["count"] == 30
    assert nano.from_json(shown["archs"]["swaps"][0]["first"])


def test_bad_input(table: LatencyTable, table_file: Path, tmp_path: Path) -> None:
    bigger = get_space("efficientformerv2-nano", image_size=64)
    rows = dict.fromkeys(bigger.all_blocks(), next(iter(table.rows.values())))
    replace(table, image_size=64, rows=rows).save(tmp_path / "64.json")
    known, other = str(table_file), str(tmp_path / "64.json")
    of_32, of_64 = (f"is of efficientformerv2-nano at {size} px for 10 classes" for size in (32, 64))
    for argv, message in (
        ([], "two tables are compared; give their files"),
        ([known], "two tables are compared; give their files"),
        ([known, "none.json"], "cannot read none.json"),
        ([known, known, "--num-archs", "2"], "--num-archs is 2; give a number at least 3"),
        ([known, other], f"{known} {of_32}, {other} {of_64}; give two tables of the same"),
    ):
        with pytest.raises(UserError, match=re.escape(message)) as error:
            main(argv)
        assert "\n" not in str(error.value)


def test_tables_are_compared_on_calibration_networks_too(
    table_file: Path, nano: SearchSpace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    few = [nano.smallest, nano.largest]
    monkeypatch.setattr(type(nano), "sample", lambda self, rng: rng.choice(few))
    main([str(table_file), str(table_file), "--json"])
    assert json.loads(capsys.readouterr().out)["archs"]["count"] == 2
    del few[1]
    with pytest.raises(UserError, match=r"^efficientformerv2-nano has one network only: there is no order to compare"):
        main([str(table_file), str(table_file)])
