"""Which units remain for a target."""

from __future__ import annotations

from typing import get_args

import pytest
import timm
import torch
from torch import Tensor

from nas.networks.importance import random
from nas.pruning.selection import Metric, Ranking, Scope, Unreachable, groups, select
from search_spaces.structure.base import Structure
from search_spaces.structure.costs import Costs
from search_spaces.structure.families.registry import prepare

Prunable = tuple[Structure, Costs]


@pytest.fixture(scope="module")
def vit() -> Prunable:
    """Two blocks of 64 channels, 4 heads of 16, FFN of 256."""
    model = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=64, depth=2, num_heads=4, num_classes=10
    )
    structure = prepare(model)
    return structure, Costs(model, structure, torch.zeros(1, 3, 32, 32))


def whole_cost(vit: Prunable, metric: Metric) -> int:
    structure, costs = vit
    return costs.macs(structure.sizes) if metric == "macs" else costs.num_params(structure.sizes)


def cost(vit: Prunable, kept: dict[str, Tensor], metric: Metric) -> int:
    sizes = {name: len(index) for name, index in kept.items()}
    return vit[1].macs(sizes) if metric == "macs" else vit[1].num_params(sizes)


@pytest.mark.parametrize("metric", get_args(Metric))
@pytest.mark.parametrize("scope", get_args(Scope))
@pytest.mark.parametrize("share", [0.75, 0.5, 0.25])
def test_the_target_is_met_within_two_percent(vit: Prunable, scope: Scope, metric: Metric, share: float) -> None:
    structure, costs = vit
    limit = int(share * whole_cost(vit, metric))
    kept = select(structure, random(structure, 0), costs, metric, limit, Ranking(scope))
    assert 0.98 * limit <= cost(vit, kept, metric) <= limit
    for dimension in structure.dimensions:
        index = kept[dimension.name]
        assert 1 <= len(index) <= dimension.size
        assert torch.equal(index, index.unique())


def test_sizes_are_multiples_where_these_come_near(vit: Prunable) -> None:
    structure, costs = vit
    limit = whole_cost(vit, "macs") // 2
    kept = select(structure, random(structure, 0), costs, "macs", limit, Ranking("isomorphic"))
    assert all(len(kept[d.name]) % 8 == 0 for d in structure.dimensions if d.kind != "heads")


def test_the_most_important_units_remain(vit: Prunable) -> None:
    structure, costs = vit
    scores = random(structure, 0)
    kept = select(structure, scores, costs, "macs", whole_cost(vit, "macs") // 2, Ranking("isomorphic"))
    for name, index in kept.items():
        assert set(index.tolist()) == set(scores[name].topk(len(index)).indices.tolist())


def test_global_ranks_everything_together(vit: Prunable) -> None:
    structure, costs = vit
    scores = {name: values + 2 * (name == "blocks.0.ffn") for name, values in random(structure, 0).items()}
    kept = select(structure, scores, costs, "macs", whole_cost(vit, "macs") // 2, Ranking("global", round_to=1))
    assert len(kept["blocks.0.ffn"]) == 256, "its least important feature comes last"
    removed = [scores[n][~torch.isin(torch.arange(len(scores[n])), index)] for n, index in kept.items()]
    worst = max(float(values.max()) for values in removed if len(values))
    remaining = min(float(scores[n][index].min()) for n, index in kept.items() if len(index) > 1)
    assert worst <= remaining + 0.02, "but for the last steps, which must not cost too little"


def test_isomorphic_takes_the_same_share_of_each_structure(vit: Prunable) -> None:
    structure, costs = vit
    numbers = groups(structure, "isomorphic")
    assert len(set(numbers.values())) == 5, "embedding, heads, key, value, FFN"
    assert all(numbers[f"blocks.0.{part}"] == numbers[f"blocks.1.{part}"] for part in ("ffn", "attn.heads"))
    scores = {name: values + 2 * ("blocks.1" in name) for name, values in random(structure, 0).items()}
    kept = select(structure, scores, costs, "macs", whole_cost(vit, "macs") // 2, Ranking("isomorphic"))
    ffn = [len(kept[f"blocks.{i}.ffn"]) for i in range(2)]
    assert ffn[1] == 256 and ffn[0] < 256, "the block whose units matter more keeps them"
    lost = {
        number: 1
        - sum(len(kept[n]) for n in kept if numbers[n] == number)
        / sum(d.size for d in structure.dimensions if numbers[d.name] == number)
        for number in set(numbers.values())
    }
    assert max(lost.values()) - min(lost.values()) <= 0.25, (
        "as alike as steps of a head of eight, and of 8 of 32, allow"
    )


def test_local_takes_the_same_share_of_each_dimension(vit: Prunable) -> None:
    structure, costs = vit
    scores = {name: values + 2 * ("blocks.1" in name) for name, values in random(structure, 0).items()}
    kept = select(structure, scores, costs, "macs", whole_cost(vit, "macs") // 2, Ranking("local"))
    assert abs(len(kept["blocks.0.ffn"]) - len(kept["blocks.1.ffn"])) <= 8


def test_what_saves_more_goes_first(vit: Prunable) -> None:
    """Of units that matter alike, heads and embedding save the most MACs; FFNs go where their time is dear."""
    structure, costs = vit
    scores = {d.name: torch.ones(d.size) for d in structure.dimensions}
    limit = int(0.9 * whole_cost(vit, "macs"))

    def changed(ranking: Ranking) -> set[str]:
        kept = select(structure, scores, costs, "macs", limit, ranking)
        return {d.kind for d in structure.dimensions if len(kept[d.name]) < d.size}

    assert changed(Ranking("global", "macs", round_to=1)) >= {"heads", "embedding"}
    dear = {d.name: 100.0 if d.kind == "ffn" else 1.0 for d in structure.dimensions}
    assert changed(Ranking("global", "latency", round_to=1, ms_per_mac=dear)) == {"ffn"}


def test_a_target_below_the_minima_names_what_they_allow(vit: Prunable) -> None:
    structure, costs = vit
    least = costs.macs({d.name: 1 for d in structure.dimensions})
    with pytest.raises(Unreachable) as error:
        select(structure, random(structure, 0), costs, "macs", least - 1, Ranking("isomorphic"))
    assert error.value.least == least
    kept = select(structure, random(structure, 0), costs, "macs", least, Ranking("isomorphic"))
    assert all(len(index) == 1 for index in kept.values())
