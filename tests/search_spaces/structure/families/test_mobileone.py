"""MobileOne."""

from __future__ import annotations

import pytest
import timm
import torch
from timm.models.byobnet import MobileOneBlock
from timm.utils.model import reparameterize_model
from torch import Tensor, nn

from search_spaces import UserError
from search_spaces.structure.costs import Costs
from search_spaces.structure.families.registry import prepare
from search_spaces.structure.fvcore_macs import fvcore_macs
from search_spaces.structure.slicing import prune
from search_spaces.structure.verify import true_dimensions
from tests.contracts.pruning import PruningContract, PublishedContract, split
from tests.rounding import assert_equal_but_for_rounding


class MobileOneContract(PruningContract):
    kinds = ("width",)

    @torch.no_grad()
    def test_a_pruned_model_can_be_fused(self, whole: nn.Module, images: Tensor) -> None:
        structure = prepare(whole)
        kept, _ = split(structure, lambda _: True)
        prune(whole, structure, kept)
        fused = reparameterize_model(whole)
        assert all(block.reparam_conv is not None for block in fused.modules() if isinstance(block, MobileOneBlock))
        assert_equal_but_for_rounding(fused(images), whole(images), whole)

    @torch.no_grad()
    def test_one_channel_may_remain(self, whole: nn.Module, images: Tensor) -> None:
        structure = prepare(whole)
        pruned = prune(whole, structure, {d.name: torch.tensor([0]) for d in structure.dimensions})
        assert prepare(whole).sizes == pruned.sizes
        assert whole(images).shape == (2, 10)


class TestFourBranches(MobileOneContract):
    """As S0."""

    def model(self) -> nn.Module:
        return small("mobileone_s0", 1 / 6)


class TestSqueezeExcite(MobileOneContract):
    """As S4, whose stem has fewer channels than its first stage."""

    def model(self) -> nn.Module:
        return small("mobileone_s4", 1 / 8)


class TestS0(PublishedContract):
    name = "mobileone_s0"


def small(name: str, width_factor: float) -> nn.Module:
    return timm.create_model(name, width_factor=width_factor, num_classes=10)


def test_identity_branches_tie_the_channels_of_a_stage() -> None:
    sizes = prepare(timm.create_model("mobileone_s1")).sizes
    assert sizes == {
        "stem.width": 64,
        "stages.0.1.width": 96,
        "stages.1.1.width": 192,
        "stages.2.1.width": 512,
        "stages.3.1.width": 1280,
    }


def test_a_fused_one_is_refused() -> None:
    with pytest.raises(UserError, match="already re-parameterized, its branches fused; give the unfused checkpoint"):
        prepare(reparameterize_model(small("mobileone_s1", 1 / 8)))


def test_costs_are_those_of_the_fused_network() -> None:
    model = small("mobileone_s0", 1 / 6)
    structure = prepare(model)
    costs, fused = Costs(model, structure, torch.zeros(1, 3, 32, 32)), reparameterize_model(model)
    assert costs.num_params(structure.sizes) == sum(p.numel() for p in fused.parameters())
    assert costs.macs(structure.sizes) == fvcore_macs(fused, torch.zeros(1, 3, 32, 32))


@pytest.mark.heavy
def test_its_channels_are_verified_as_trained() -> None:
    model = small("mobileone_s1", 1 / 8)
    structure = prepare(model)
    assert true_dimensions(model, structure, 32) == (tuple(structure.sizes), 0)
