"""Backbones compute what timm's do, of every family; strides can be taken away, or finer maps added."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from nas.networks.backbones import resized
from search_spaces import Arch, SearchSpace, UserError, get_space
from search_spaces.dense.backbone import Backbone, cuts
from search_spaces.deployed import deployed
from tests.nas.synthetic_run import trained_like
from tests.rounding import assert_equal_but_for_rounding
from tests.toy_family import ToySpace

CONVOLUTIONAL = {"exclude_final_conv": True}  # timm counts a last 1x1 one among the maps, its authors do not


def published(space: str, arch: str, size: int) -> tuple[SearchSpace, Arch]:
    made = get_space(space, size, 10)
    return made, made.published[arch]


@pytest.mark.parametrize(
    ("space", "arch", "size", "strides"),
    [
        ("mobilevit", "xxs", 64, (2, 4, 8, 16, 32)),
        ("mobileone", "s0", 64, (2, 4, 8, 16, 32)),
        ("efficientvit", "m0", 128, (16, 32, 64)),
        ("efficientformerv2", "s0", 64, (4, 8, 16, 32)),
        ("timm/test_efficientnet", "test_efficientnet", 64, (2, 4, 8, 16, 32)),
        ("timm/test_resnet", "test_resnet", 64, (4, 8, 16, 32)),
    ],
)
def test_maps_are_timms(space: str, arch: str, size: int, strides: tuple[int, ...]) -> None:
    made, which = published(space, arch, size)
    network = trained_like(made, which)
    backbone = Backbone(made, which).eval()
    backbone.load(network.state_dict())
    x = torch.randn(2, 3, size, size)
    with torch.no_grad():
        expected = maps_of(network, x)
        found = backbone(x)
    assert backbone.strides == strides
    assert [tuple(m.shape) for m in found] == [
        (2, c, size // s, size // s) for c, s in zip(backbone.channels, strides, strict=True)
    ]
    for mine, theirs in zip(found, expected[-len(strides) :], strict=True):
        assert_equal_but_for_rounding(mine, theirs, network)


def maps_of(network: nn.Module, x: Tensor) -> list[Tensor]:
    """timm's own of its network."""
    options = CONVOLUTIONAL if hasattr(network, "final_conv") else {}
    found: list[Tensor] = network.forward_intermediates(x, intermediates_only=True, **options)  # type: ignore[operator]
    return found


@pytest.mark.parametrize(
    ("space", "name"), [("mobileone", "mobileone_s0"), ("efficientformerv2", "efficientformerv2_s0")]
)
def test_what_is_said_of_maps_is_what_timm_says(space: str, name: str) -> None:
    with torch.device("meta"):
        theirs = timm.create_model(name, features_only=True)
        mine = Backbone(*published(space, name.rpartition("_")[2], 224))
    assert channels_and_strides(mine) == channels_and_strides(theirs)


def channels_and_strides(network: Any) -> tuple[list[int], list[int]]:
    """By its `feature_info`."""
    return network.feature_info.channels(), network.feature_info.reduction()


@pytest.mark.parametrize(
    "name", ["mobilevit-nano", "mobilevit-tiny", "mobileone-nano", "efficientvit-nano", "efficientformerv2-nano"]
)
@pytest.mark.parametrize("arch", ["smallest", "largest"])
def test_every_network_is_a_backbone(name: str, arch: str) -> None:
    space = get_space(name, 64, 3)
    backbone = Backbone(space, space.named[arch]).eval()
    found = backbone(torch.zeros(1, 3, 64, 64))
    assert [m.shape[1] for m in found] == list(backbone.channels)
    assert [64 // m.shape[2] for m in found] == list(backbone.strides)


def test_so_is_one_of_another_package() -> None:
    space = ToySpace(16, 3)
    (found,) = Backbone(space, space.largest).eval()(torch.zeros(1, 3, 16, 16))
    assert found.shape == (1, 16, 8, 8)


def test_a_network_of_tokens_is_none() -> None:
    space = get_space("timm/test_vit", 32, 3)
    with pytest.raises(UserError, match="timm/test_vit is no backbone: it has tokens, no maps; take a network"):
        cuts(space, space.largest)


# ---- output stride


@pytest.mark.parametrize(
    ("space", "arch", "name"),
    [
        ("mobilevit", "xxs", "mobilevit_xxs"),
        ("timm/test_efficientnet", "test_efficientnet", "test_efficientnet"),
        ("timm/test_resnet", "test_resnet", "test_resnet"),
    ],
)
def test_strides_that_are_taken_away_are_as_in_timm(space: str, arch: str, name: str) -> None:
    made, which = published(space, arch, 64)
    network = trained_like(made, which)
    strided = timm.create_model(name, num_classes=10, output_stride=16).eval()
    strided.load_state_dict(network.state_dict())
    backbone = Backbone(made, which, output_stride=16).eval()
    backbone.load(network.state_dict())
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        found, expected = backbone(x)[-1], maps_of(strided, x)[-1]
    assert backbone.strides[-1] == 16 and found.shape[-1] == 4
    assert_equal_but_for_rounding(found, expected, strided)


def test_two_strides_are_taken_away_from_efficientvit() -> None:
    made, which = published("efficientvit", "m0", 128)
    backbone = Backbone(made, which, output_stride=16).eval()
    backbone.load(made.build(which).state_dict())
    (found,) = backbone(torch.zeros(1, 3, 128, 128))
    assert (backbone.strides, backbone.channels, found.shape[-1]) == ((16,), (192,), 8)


def test_a_stride_that_it_has_changes_nothing() -> None:
    space = get_space("efficientformerv2-nano", 64, 3)
    backbone = Backbone(space, space.smallest, output_stride=32)
    assert backbone.strides == Backbone(space, space.smallest).strides == (2, 4, 8, 16)


def test_a_deployed_backbone_with_another_stride_computes_the_same() -> None:
    made, which = published("mobileone", "s0", 64)
    backbone = Backbone(made, which, output_stride=8)
    backbone.load(trained_like(made, which).state_dict())
    x = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        trained, fused = backbone.double().eval()(x), deployed(backbone)(x)
    torch.testing.assert_close(fused[-1], trained[-1])


@pytest.mark.parametrize(
    ("space", "stride", "message"),
    [
        (
            "efficientformerv2-nano",
            8,
            r"cannot have output stride 8, by attentions or layers that need its own strides .*; give 16",
        ),
        ("mobilevit-nano", 6, "output stride 6 is none of mobilevit-nano's; choose from "),
    ],
)
def test_a_stride_that_cannot_be_is_one_line(space: str, stride: int, message: str) -> None:
    made = get_space(space, 64, 3)
    with pytest.raises(UserError, match=message) as error:
        Backbone(made, made.largest, output_stride=stride)
    assert "\n" not in str(error.value)


# ---- finer maps


def test_two_deconvolutions_give_efficientvit_strides_8_and_4() -> None:
    made, which = published("efficientvit", "m0", 64)
    backbone = Backbone(made, which, finest_stride=4).eval()
    found = backbone(torch.zeros(1, 3, 64, 64))
    assert backbone.strides == (4, 8, 16, 32, 64) and [m.shape[-1] for m in found] == [16, 8, 4, 2, 1]
    assert backbone.channels == (64, 64, 64, 128, 192)
    with pytest.raises(UserError, match="finest stride 3: that of efficientvit is 16; choose from 8, 4, 2, 1"):
        Backbone(made, which, finest_stride=3)


# ---- weights


def test_biases_of_attentions_are_resized_as_the_authors_do() -> None:
    made, which = published("efficientvit", "m0", 64)
    state = trained_like(made, which).state_dict()
    backbone = resized(made, which, 320)
    backbone.load(state)
    name = "stages.0.blocks.0.mixer.m.attn.attention_biases"
    before = state[name]
    expected = nn.functional.interpolate(before.view(1, 4, 4, 4), size=(7, 7), mode="bicubic").view(4, 49)
    (found,) = [b for n, b in backbone.blocks[3].state_dict().items() if n.endswith("attention_biases")]
    torch.testing.assert_close(found, expected)


def test_weights_of_another_network_are_one_line() -> None:
    made = get_space("mobilevit-nano", 64, 3)
    backbone = Backbone(made, made.largest)
    with pytest.raises(UserError, match=r"the weights have \(\d.*\) as .*, not \(\d.*\); give this network's"):
        backbone.load(made.build(made.smallest).state_dict() | {"stem.conv.weight": torch.zeros(8, 3, 3, 3)})
    with pytest.raises(UserError, match=r"the weights have no stem.conv.weight; give those of this network"):
        backbone.load({})
