"""Scores, against members that are found by zeroing each unit alone."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas.networks.importance import magnitude, member_sums, random, taylor
from search_spaces import UserError
from search_spaces.layout import axis
from search_spaces.structure.base import Builder, Structure
from search_spaces.structure.families.registry import prepare
from search_spaces.structure.slicing import zero
from tests.contracts.pruning import randomized
from tests.search_spaces.structure.families.test_vit import SMALL


@pytest.fixture
def model() -> nn.Module:
    return randomized(timm.create_model("vit_tiny_patch16_224", init_values=1.0, **{**SMALL, "depth": 1}))


def members(model: nn.Module, structure: Structure, dimension: str, unit: int) -> dict[str, Tensor]:
    """Of each parameter, which numbers pruning the unit removes."""
    ones = copy.deepcopy(model)
    for parameter in ones.parameters():
        parameter.data.fill_(1.0)
    zero(ones, structure, {dimension: torch.tensor([unit])})
    return {name: parameter.detach() == 0 for name, parameter in ones.named_parameters()}


def batches() -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(3)
    return [(torch.randn(2, 3, 32, 32, generator=generator), torch.tensor([1, i])) for i in range(2)]


def test_taylor_is_the_squared_sum_over_members_averaged_over_batches(model: nn.Module) -> None:
    structure = prepare(model)
    scores = taylor(model.train(), structure, batches())
    assert model.training and all(parameter.grad is None for parameter in model.parameters())
    model.eval()
    products = []
    for images, labels in batches():
        model.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        products.append({n: p.detach() * p.grad for n, p in model.named_parameters() if p.grad is not None})
    for dimension in structure.dimensions:
        for unit in (0, dimension.size - 1):
            removed = members(model, structure, dimension.name, unit)
            sums = [sum(float(table[removed[n]].sum()) for n, table in product.items()) for product in products]
            expected = sum(s**2 for s in sums) / len(sums)
            assert float(scores[dimension.name][unit]) == pytest.approx(expected, rel=1e-3), dimension.name


def test_magnitude_is_the_norm_of_the_members(model: nn.Module) -> None:
    structure = prepare(model)
    scores = magnitude(model, structure)
    for dimension in structure.dimensions:
        removed = members(model, structure, dimension.name, 1)
        squares = sum(float(p.detach()[removed[n]].square().sum()) for n, p in model.named_parameters())
        assert float(scores[dimension.name][1]) == pytest.approx(squares**0.5, rel=1e-4)


def test_a_number_of_one_unit_on_both_axes_counts_once() -> None:
    layer = nn.Linear(3, 6, bias=False)
    builder = Builder(layer)
    width = builder.dimension("w", "width", 3)
    builder.tensor("weight", axis(width, width), axis(width))
    sums = member_sums(builder.build(), {"weight": torch.ones(6, 3)})
    assert sums["w"].tolist() == [2 * 3 + 6 - 2] * 3


def test_random_scores_follow_from_the_seed(model: nn.Module) -> None:
    structure = prepare(model)
    first, again, other = (random(structure, seed) for seed in (0, 0, 1))
    assert torch.equal(first["embedding"], again["embedding"])
    assert not torch.equal(first["embedding"], other["embedding"])


def test_importance_that_is_not_finite_is_refused(model: nn.Module) -> None:
    structure = prepare(model)
    with torch.no_grad():
        model.get_parameter("blocks.0.mlp.fc1.weight")[5] = float("nan")
    with pytest.raises(UserError, match="the importance of embedding is not finite"):
        magnitude(model, structure)
    with pytest.raises(UserError, match="is not finite"):
        taylor(model, structure, batches())


def test_images_that_cannot_be_read_have_no_importance(model: nn.Module) -> None:
    with pytest.raises(UserError, match=r"none of the images .* can be read"):
        taylor(model, prepare(model), ())
