"""Spaces around networks of timm."""

from __future__ import annotations

import random
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from timm.optim import create_optimizer_v2
from torch import Tensor, nn

from search_spaces import Arch, SearchSpace, UserError, get_space, macs
from search_spaces.deployed import deployed
from search_spaces.structure.fvcore_macs import fvcore_macs
from search_spaces.timm_network import description, network
from search_spaces.timm_network import space as timm_space
from search_spaces.timm_network.space import TimmSpace, _few, _options, _renumbered
from search_spaces.timm_network.timm_models import create_timm
from supernet import Supernet
from tests.contracts.space import SpaceContract, image
from tests.contracts.supernet import SupernetContract


class TestConvolutions(SpaceContract):
    """Layer norms and layer scales, and blocks to be removed in every stage."""

    @classmethod
    def make_space(cls) -> SearchSpace:
        return get_space("timm/test_convnext@2x16", image_size=32, num_classes=5)


class TestAttention(SpaceContract):
    """Heads, keys and values of attentions are choices."""

    @classmethod
    def make_space(cls) -> SearchSpace:
        return get_space("timm/test_vit@2x16", image_size=32, num_classes=5)


class TestSupernet(SupernetContract):
    @classmethod
    def make_tiny(cls) -> SearchSpace:
        return get_space("timm/test_resnet@2x16", image_size=32, num_classes=2)


@pytest.mark.parametrize(
    "name",
    ["test_efficientnet@2x16"]
    + [
        pytest.param(name, marks=pytest.mark.heavy)
        for name in (
            *("efficientformerv2_s0@2x16", "efficientvit_m0", "repvit_m0_9", "mobilenetv4_conv_small"),
            *("swin_tiny_patch4_window7_224", "iformer_t", "lcnetv2_small", "xception41p", "volo_d1_224"),
            "vit_small_patch16_dinov3@2x16",
        )
    ],
)
def test_a_part_of_any_network_runs_in_the_supernet_alone_and_elsewhere(name: str, tmp_path: Path) -> None:
    space = small(name)
    arch = space.sample(random.Random(1))
    supernet = Supernet(space, norm="shared").eval()
    alone = supernet.extract(arch)
    with torch.inference_mode():
        x = image(space)
        logits = alone(x)
        torch.testing.assert_close(supernet(x, arch), logits)
        assert macs(space, arch) == fvcore_macs(deployed(alone), x[:1])
        torch.testing.assert_close(elsewhere(space, arch, alone)(x), logits)


def elsewhere(space: SearchSpace, arch: Arch, alone: nn.Module) -> nn.Module:
    """The network of the arch's source code, with these weights."""
    scope: dict[str, Any] = {}
    exec(space.source(arch), scope)
    model: nn.Module = scope["create_model"]()
    model.load_state_dict(alone.state_dict())
    return model.eval()


def test_the_supernet_decays_what_the_network_does() -> None:
    space = get_space("timm/test_vit@2x16", image_size=32, num_classes=5)
    alone = _undecayed(space.build(space.largest))
    assert alone == {"cls_token", "pos_embed"}
    assert _undecayed(Supernet(space, norm="shared")) == {f"stem.{name}" for name in alone}


class Classifiers(nn.Module):
    """As RepViT's."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.head, self.head_dist = nn.Linear(32, num_classes), nn.Linear(32, num_classes)
        self.distilled_training = False

    def forward(self, x: Tensor) -> Any:
        x, distilled = self.head(x), self.head_dist(x)
        return (x, distilled) if self.distilled_training and self.training else (x + distilled) / 2


class Distilled(nn.Module):
    """With its classifiers in a module, as RepViT, or in the network's forward pass, as DeiT."""

    def __init__(self, num_classes: int, in_module: bool) -> None:
        super().__init__()
        convolutions = ((3, 32), (32, 16), (16, 32), (32, 16), (16, 32))
        first, *others = (nn.Conv2d(*channels, 3, padding=1) for channels in convolutions)
        pairs = zip(others[::2], others[1::2], strict=True)
        self.stem, self.blocks = first, nn.Sequential(*(nn.Sequential(a, nn.ReLU(), b) for a, b in pairs))
        self.classifiers, self.in_module = Classifiers(num_classes), in_module

    def set_distilled_training(self, enable: bool = True) -> None:
        self.classifiers.distilled_training = enable

    def forward(self, x: Tensor) -> Any:
        x = self.blocks(self.stem(x)).mean((2, 3))
        return self.classifiers(x) if self.in_module else self.classifiers.forward(x)


@pytest.mark.parametrize("in_module", [False, True])
def test_in_distilled_training_the_supernet_returns_the_logits_of_each_classifier(
    in_module: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network, "create_timm", lambda *_: Distilled(5, in_module))
    found = network.describe(Distilled(5, in_module), 8)
    space = TimmSpace("timm/distilled", network.Network("distilled", {}, 8, 5, found))
    supernet = Supernet(space, norm="shared").train()
    x = image(space)
    for arch in (space.largest, space.smallest):
        supernet.set_distilled_training()
        alone: Any = supernet.extract(arch).train()
        alone.set_distilled_training()
        for logits, expected in zip(supernet(x, arch), alone(x), strict=True):
            torch.testing.assert_close(logits, expected)
        torch.testing.assert_close(supernet.eval()(x, arch), alone.eval()(x))
        supernet.train().set_distilled_training(False)
        assert isinstance(supernet(x, arch), Tensor)


@torch.inference_mode()
@pytest.mark.parametrize("name", ["efficientformer_l1", "levit_128s", "tiny_vit_5m_224"])
def test_attentions_of_timm_follow_their_biases(name: str) -> None:
    network = create_timm("--model", name, 5, {}).eval()
    attention = next(part for part in network.modules() if hasattr(part, "attention_biases"))
    attention.get_attention_biases(torch.device("cpu"))
    attention.attention_biases.fill_(3.0)
    assert bool((attention.get_attention_biases(torch.device("cpu")) == 3).all())


def _undecayed(model: nn.Module) -> set[str]:
    """What timm's optimizer does not decay, but for biases and norms."""
    groups = create_optimizer_v2(model, "adamw", lr=1e-3, weight_decay=0.05).param_groups
    without = {id(p) for group in groups if group["weight_decay"] == 0 for p in group["params"] if p.ndim > 1}
    return {name for name, parameter in model.named_parameters() if id(parameter) in without}


def small(name: str) -> SearchSpace:
    return get_space(f"timm/{name}", image_size=64 if name.startswith("efficient") else 32, num_classes=5)


@pytest.mark.parametrize(
    ("field", "size", "options"),
    [
        ("heads", 3, (1, 2, 3)),
        ("heads", 12, (3, 6, 9, 12)),
        ("key", 64, (32, 64)),
        ("value", 16, (8, 16)),
        ("value", 8, (8,)),
        ("width", 192, (96, 144, 192)),
        ("expansion", 20, (8, 16, 20)),
    ],
)
def test_options_are_few(field: str, size: int, options: tuple[int, ...]) -> None:
    assert _options(field, size, steps=4, multiple=8) == options


def test_a_block_of_many_dimensions_has_few_forms() -> None:
    four, three = (16, 32, 48, 64), (32, 48, 64)
    inner, shared = [f"i{i}" for i in range(24)], [f"s{i}" for i in range(24)]
    options = {**dict.fromkeys(inner, four), **dict.fromkeys(shared, three)}
    assert _few([inner[:4], shared[:6]], options, inner) == options
    few = _few([inner[:6]], options, inner)
    assert [few[name] for name in inner[:6]] == [(32, 64)] * 2 + [four] * 4
    few = _few([[*inner, *shared]], options, inner)
    assert [few[name] for name in inner] == [(64,)] * 24
    assert [few[name] for name in shared] == [(64,)] * 14 + [(32, 64)] * 10


def test_a_space_says_which_dimensions_have_fewer_sizes_for_the_number_of_forms(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(timm_space, "MOST_FORMS", 10)
    space = get_space("timm/test_resnet", image_size=32, num_classes=5)
    forms = [len({block.key for block in space.slot_blocks(slot)}) for slot in space.slots]
    assert max(forms) <= 10 < space.size()
    assert "so that no block has over 10 forms: " in space.remarks[-1]


def test_paths_follow_from_all_lists_that_blocks_are_taken_out_of() -> None:
    assert _renumbered("blocks.2.1.conv", ["blocks.0", "blocks.2.0", "blocks.3"]) == "blocks.1.0.conv"
    assert _renumbered("layer1.2", ["layer1.0", "layer2.0"]) == "layer1.1"
    assert _renumbered("", ["0"]) == ""


class Mixed(nn.Module):
    """Blocks that can be left out: in a list with a norm, in one of blocks alone, and by names."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 4, stride=4)
        self.beside = nn.Sequential(Mix(), nn.BatchNorm2d(32), Mix())
        self.alone = nn.Sequential(Mix(), Mix())
        self.named = nn.Sequential(OrderedDict([("one", Mix()), ("two", Mix())]))
        self.head = nn.Linear(32, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.named(self.alone(self.beside(self.stem(x)))).mean((2, 3)))


class Mix(nn.Module):
    order: Tensor
    mask: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.narrow = nn.Conv2d(32, 64, 1), nn.Conv2d(64, 32, 1)
        self.register_buffer("order", torch.arange(3, -1, -1))
        self.register_buffer("none", None, persistent=False)
        self.init_non_persistent_buffers()

    def init_non_persistent_buffers(self) -> None:
        """As Swin's masks: they are made where the weights are."""
        mask = torch.full((32, 1, 1), 2.0, device=self.wide.weight.device)
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.narrow(self.wide(x[:, :, self.order] * self.mask).relu())


def test_blocks_are_left_out_wherever_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "create_timm", lambda *_: Mixed(5))
    monkeypatch.setattr("timm.create_model", lambda *_, **__: Mixed(5))
    space = TimmSpace("timm/mixed", network.Network("mixed", {}, 16, 5, network.describe(Mixed(5), 16)))
    blocks = ("alone.0", "alone.1", "beside.0", "beside.2", "named.one", "named.two")
    assert sorted(space.network.removable) == sorted(blocks)
    supernet, x = Supernet(space, norm="shared"), image(space)
    assert not {name for name, _ in supernet.named_parameters() if "order" in name}
    rng = random.Random(0)
    for arch in (space.largest, space.smallest, *(space.sample(rng) for _ in range(5))):
        supernet.train()(x, arch).sum().backward()
        alone = supernet.eval().extract(arch)
        torch.testing.assert_close(supernet(x, arch), alone(x))
        torch.testing.assert_close(elsewhere(space, arch, alone)(x), alone(x))


def test_a_network_that_makes_its_buffers_when_it_runs_is_refused() -> None:
    """As ConViT's, whose first run finds out how many tokens there are."""

    class Late(Mix):
        def forward(self, x: Tensor) -> Tensor:
            self.mask = torch.ones_like(x[0])
            return x + self.narrow(self.wide(x * self.mask))

    model = Mixed(5)
    model.alone[1] = Late()
    with pytest.raises(ValueError, match=r"^its alone\.1\.mask is made when it runs"):
        network.describe(model, 16)


def test_blocks_of_a_fixed_width_can_be_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    class Fixed(Mixed):
        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            x = self.alone(x + torch.linspace(0, 1, 32).view(1, 32, 1, 1))
            return self.head(x.mean((2, 3)))

    found = network.describe(Fixed(5), 16)
    assert set(found.dimensions) == {"alone.0.wide.width", "alone.1.wide.width"}
    monkeypatch.setattr(network, "create_timm", lambda *_: Fixed(5))
    assert network.Network("fixed", {}, 16, 5, found).removable == ("alone.0", "alone.1")


def test_attention_and_ffn_are_blocks_of_their_own() -> None:
    space = get_space("timm/test_vit@2x16", image_size=32, num_classes=5)
    kinds = [block.kind for block in space.lower(space.largest)]
    assert kinds == ["stem", *6 * ["PrunableAttention", "Mlp"], "head"]
    assert [block.kind for block in space.lower(space.smallest)] == ["stem", "head"]


def test_a_description_is_found_once(monkeypatch: pytest.MonkeyPatch) -> None:
    description.described.cache_clear()
    first = get_space("timm/test_resnet", image_size=32, num_classes=5)
    description.described.cache_clear()
    monkeypatch.setattr(description, "_find", None)
    assert get_space("timm/test_resnet", image_size=32, num_classes=3).choices == first.choices


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        ("timm/resnet_18", 32, "no network 'resnet_18' in timm .*; the nearest are resnet"),
        ("timm/", 32, "'timm/' is no space; give timm/NAME, or timm/NAME@4x8"),
        ("timm/test_resnet@1x8", 32, "give 2 to 16 parts and multiples of 1 to 64"),
        ("timm/deit_tiny_patch16_224", 1, "cannot"),
        ("timm/crossvit_tiny_240", 240, "cannot be searched: the forward pass of CrossVit cannot be followed: "),
    ],
)
def test_what_cannot_be_searched_is_one_line(name: str, size: int, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        get_space(name, size, 5)
    assert "\n" not in str(error.value)
