"""What the page of a pruning shows."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import timm

from nas.pruning.page import channels, embeddings, newest_search
from nas.runs import load_run_info
from nas.searching.result import points_of
from search_spaces.structure.families.registry import prepare
from tests.nas.synthetic_run import add_search, make_run
from tests.search_spaces.structure.families.test_vit import SMALL


def test_channels_are_those_over_all_heads() -> None:
    structure = prepare(timm.create_model("vit_tiny_patch16_224", **SMALL))
    assert channels(structure) == {
        "embedding": {"embedding": 24},
        "Q, K": {"blocks.0.attn": 24, "blocks.1.attn": 24},
        "V": {"blocks.0.attn": 24, "blocks.1.attn": 24},
        "FFN": {"blocks.0.ffn": 96, "blocks.1.ffn": 96},
    }
    smaller = structure.resized({"blocks.1.attn.heads": 3, "blocks.1.attn.key": 2})
    assert channels(smaller)["Q, K"] == {"blocks.0.attn": 24, "blocks.1.attn": 6}
    assert channels(smaller)["V"] == {"blocks.0.attn": 24, "blocks.1.attn": 18}
    assert embeddings(replace(structure))["blocks.1.attn"] == "embedding"


def test_the_search_beside_it_is_of_the_same_run_and_has_latencies(tmp_path: Path) -> None:
    run, other = tmp_path / "run", tmp_path / "other"
    space = make_run(run)
    add_search(other, space)  # of the same images: of another network all the same
    digest = load_run_info(run).splits.digest
    assert newest_search(run, digest) is None
    add_search(run, space)
    add_search(tmp_path / "sized", space, with_latency=False)
    (tmp_path / "sized/search").rename(run / "search-sized")
    (run / "search-damaged").mkdir()
    (run / "search-damaged/result.json").write_text("{}")
    found = newest_search(run, digest)
    assert found is not None and found[0] == run / "search"
    assert points_of(found[1]) == points_of(json.loads((run / "search/result.json").read_text()))
    assert newest_search(run, "of other images") is None
