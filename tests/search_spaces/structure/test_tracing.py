"""Structures of networks of any family: what the known families promise holds for them too."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from search_spaces.structure.base import Structure
from search_spaces.structure.costs import Costs, layer_macs
from search_spaces.structure.fvcore_macs import fvcore_macs
from search_spaces.structure.layouts import Layouts
from search_spaces.structure.slicing import cut
from search_spaces.structure.tracing import trace
from search_spaces.structure.verify import verify
from tests.contracts.pruning import PruningContract, num_params, split


class TracedContract(PruningContract):
    kinds = ("width",)
    other_macs = 0

    def prepare(self, model: nn.Module) -> Structure:
        return replace(trace(model, self.image_size), other_macs=self.other_macs).structure(model)

    def test_all_that_is_found_is_true(self) -> None:
        model = self.model()
        layouts = trace(model, self.image_size)
        assert verify(model, layouts, self.image_size) == replace(layouts, other_macs=self.other_macs)

    @torch.no_grad()
    def test_costs_are_those_counted(self, whole: nn.Module, images: Tensor) -> None:
        structure = self.prepare(whole)
        costs = Costs(whole, structure, images[:1])
        kept, _ = split(structure, lambda _: True)
        for model, sizes in ((whole, structure.sizes), ((half := cut(whole, structure, kept))[0], half[1].sizes)):
            assert costs.num_params(sizes) == num_params(model)
            assert costs.macs(sizes) == fvcore_macs(model, images[:1])


class TestResNet(TracedContract):
    def model(self) -> nn.Module:
        return timm.create_model("test_resnet", num_classes=10)


class TestSqueezeExcite(TracedContract):
    """Inverted residuals."""

    def model(self) -> nn.Module:
        return timm.create_model("test_efficientnet", num_classes=10)


class TestConvNeXt(TracedContract):
    """Layer norms, and layer scales that are no layer's."""

    def model(self) -> nn.Module:
        return timm.create_model("convnext_atto", depths=(1, 1, 1, 1), dims=(8, 12, 16, 24), num_classes=10)


class Joined(nn.Module):
    """A concatenation, of channels that stay whole too (of a layer that is not described), and positions flattened."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.Conv2d(8, 12, 3, stride=4, padding=1)
        self.twice, self.norm = nn.Conv2d(8, 16, 4, stride=4, groups=8), nn.BatchNorm2d(12 + 3 + 16)
        self.other = nn.ConvTranspose2d(3, 3, 1)
        self.flat, self.head = nn.Linear(31 * 4 * 4, 20), nn.Linear(20, 10)

    def forward(self, x: Tensor) -> Tensor:
        one = self.one(x).relu()
        joined = torch.cat([self.two(one), self.other(nn.functional.avg_pool2d(x, 8)), self.twice(one)], dim=1)
        return self.head(self.flat(self.norm(joined).flatten(1)).relu())


class TestJoined(TracedContract):
    other_macs = 3 * 3 * 4 * 4  # of the layer that is not described

    def model(self) -> nn.Module:
        return Joined()


class Grouped(nn.Module):
    """A bottleneck as RegNet's: the units of a convolution with groups are its groups."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.expand = nn.Conv2d(3, 8, 4, stride=4), nn.Conv2d(8, 24, 1)
        self.grouped, self.norm = nn.Conv2d(24, 24, 3, padding=1, groups=6, bias=False), nn.BatchNorm2d(24)
        self.project, self.head = nn.Conv2d(24, 8, 1), nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.project(self.norm(self.grouped(self.expand(x).relu())).relu())
        return self.head(x.mean((2, 3)))


class TestGrouped(TracedContract):
    def model(self) -> nn.Module:
        return Grouped()

    def test_groups_go_whole(self, whole: nn.Module) -> None:
        structure = self.prepare(whole)
        assert structure.sizes == {"stem.width": 8, "expand.width": 6}
        smaller, _ = cut(whole, structure, {"expand.width": torch.tensor([1, 4])})
        grouped: Any = smaller.get_submodule("grouped")
        assert (grouped.groups, grouped.in_channels, grouped.weight.shape) == (2, 8, (8, 4, 3, 3))


def test_layouts_are_written_as_they_lie() -> None:
    layouts = trace(Joined(), 32)
    assert layouts.sizes == {"one.width": 8, "two.width": 12, "flat.width": 20}
    joined = "two.width + 3 + one.width*2"
    assert layouts.axes["norm.running_var"] == (joined,)
    assert layouts.axes["twice.weight"] == ("one.width*2",)
    assert layouts.axes["flat.weight"] == ("flat.width", "two.width*16 + 48 + one.width*32")
    assert layouts.axes["head.weight"] == ("10", "flat.width")
    only = layouts.only(("two.width",))
    assert only.sizes == {"two.width": 12}
    assert only.axes["flat.weight"] == ("20", "two.width*16 + 48 + 8*32")


class Shuffled(nn.Module):
    """Channels of groups shuffled; then an ordinary bottleneck."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.grouped = nn.Conv2d(3, 16, 4, stride=4), nn.Conv2d(16, 16, 3, padding=1, groups=4)
        self.after, self.head = nn.Conv2d(16, 24, 1), nn.Linear(24, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.grouped(self.stem(x)).unflatten(1, (4, 4)).transpose(1, 2).flatten(1, 2)
        return self.head(self.after(x.relu()).mean((2, 3)))


def test_channels_that_do_not_lie_side_by_side_stay_whole() -> None:
    model = Shuffled()
    found = trace(model, 32)
    assert found.sizes == {"after.width": 24} and found.axes["after.weight"] == ("after.width", "16")
    assert verify(model, found, 32) == found


class Products(nn.Module):
    """Two products of activations: in the second, one side can be pruned."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.key, self.value = nn.Conv2d(3, 8, 8, stride=8), nn.Conv2d(8, 6, 1), nn.Conv2d(8, 12, 1)
        self.head = nn.Linear(12, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        key, value = self.key(x).flatten(2), self.value(x).flatten(2)
        logits = key.transpose(1, 2) @ torch.ones_like(key)
        return self.head((value @ logits.softmax(-1)).mean(-1))


def test_products_of_activations_are_counted_and_keep_their_size() -> None:
    model = Products()
    layouts = verify(model, trace(model, 32), 32)
    assert layouts.other_macs == 16 * 16 * (6 + 12)
    assert set(layouts.sizes) == {"stem.width"}
    structure, image = layouts.structure(model), torch.zeros(1, 3, 32, 32)
    smaller, pruned = cut(model, structure, {"stem.width": torch.arange(3)})
    assert Costs(smaller, pruned, image).macs(pruned.sizes) == fvcore_macs(smaller, image)


def test_branches_can_be_fused_after_pruning() -> None:
    """FastViT's keep their channels as numbers."""
    model = timm.create_model("fastvit_t8", embed_dims=(8, 16, 32, 64), layers=(1, 1, 1, 1), num_classes=10)
    found = trace(model, 32)
    assert found.attributes["stages.0.blocks.0.token_mixer.mixer.in_chs"] == "stem.0.conv_kxk.0.conv.width"
    assert verify(model, found, 32) == found


@pytest.mark.parametrize("name", ["convnextv2_atto", "convnext_zepto_rms"])
def test_norms_over_channels_leave_them_elastic(name: str) -> None:
    """Global response normalization, and norms without a mean."""
    model = timm.create_model(name, depths=(1, 1, 1, 1), dims=(8, 12, 16, 24), num_classes=10)
    found = trace(model, 32)
    assert sorted(found.sizes.values()) == [8, 12, 16, 24, 32, 48, 64, 96]
    assert verify(model, found, 32) == found


class UnitLength(nn.Module):
    """With features of length 1, and a norm of PyTorch's without a mean."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 12, 4, stride=4), nn.RMSNorm(12)
        self.wide, self.head = nn.Linear(12, 16), nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x).flatten(2).transpose(1, 2))
        return self.head(nn.functional.normalize(self.wide(x).mean(1), dim=-1))


def test_features_of_unit_length_leave_channels_elastic() -> None:
    model = UnitLength()
    found = trace(model, 32)
    assert found.sizes == {"stem.width": 12, "wide.width": 16}
    assert verify(model, found, 32) == found


def test_a_deep_network_is_understood_before_it_is_trained() -> None:
    """Fresh layers make each output smaller than their input, by the sixtieth it is one of biases alone."""
    layers = [nn.Sequential(nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8)) for _ in range(60)]
    model = nn.Sequential(
        nn.Conv2d(3, 8, 4, stride=4), *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10)
    )
    found = trace(model, 16)
    assert len(found.sizes) == 61
    assert verify(model, found, 16) == found


def test_a_network_of_one_layer_has_its_macs() -> None:
    """As blocks that deployment merges to a convolution."""
    assert layer_macs(nn.Conv2d(3, 8, 3), torch.zeros(1, 3, 6, 6)) == 16 * 8 * 27


def test_convolutions_padded_to_the_same_size_are_counted() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding="same"), nn.ReLU(), nn.Conv2d(8, 6, 1), nn.AdaptiveAvgPool2d(1))
    assert fvcore_macs(model, torch.zeros(1, 3, 8, 8)) == 64 * (8 * 27 + 6 * 8)
    found = trace(model, 8)
    assert set(found.sizes) == {"0.width"} and verify(model, found, 8) == found


def test_a_network_whose_logits_are_constant_tells_nothing() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 8), nn.ReLU(), nn.Conv2d(8, 8, 1), nn.Softmax(0), nn.AdaptiveAvgPool2d(1))
    assert not verify(model, Layouts({"0.width": 8}, {"0.weight": ("0.width",)}, {}), 8).sizes
