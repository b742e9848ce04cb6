"""EfficientFormerV2: timm's, and those extracted from a supernet."""

from __future__ import annotations

import copy
from typing import Any

import timm
import torch
from timm.models import efficientformer_v2 as timm_v2
from torch import nn

from nas.networks.importance import taylor
from search_spaces import Arch
from search_spaces.efficientformerv2 import EfficientFormerV2Space
from search_spaces.structure.base import Kind
from search_spaces.structure.families.registry import prepare
from search_spaces.structure.slicing import prune
from supernet import Supernet
from tests.contracts.pruning import PruningContract, PublishedContract, randomized, split

KINDS: tuple[Kind, ...] = ("embedding", "heads", "key", "value", "ffn", "width")

IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


class TestTimm(PruningContract):
    """Both attentions have four keys."""

    kinds = KINDS
    image_size = 64

    def model(self) -> nn.Module:
        return small()


class TestLargest(PruningContract):
    """The largest network of a supernet: attention in every block of the last two stages."""

    kinds = KINDS

    def model(self) -> nn.Module:
        space = small_space()
        return Supernet(space).extract(space.largest)


class TestWinner(PruningContract):
    """Attention where timm's constructor cannot have it, in the first block of a stage alone."""

    kinds = KINDS

    def model(self) -> nn.Module:
        space = small_space()
        arch = with_attention(space, [1, 0], [0])
        assert space.constructor(arch)[1], "assignments are needed"
        return Supernet(space).extract(arch)


class TestS0(PublishedContract):
    name = "efficientformerv2_s0"


def small() -> Any:
    arguments: dict[str, Any] = {"depths": (1, 1, 2, 1), "embed_dims": (8, 12, 16, 24), "mlp_ratios": 2, "num_vit": 1}
    return timm.create_model("efficientformerv2_s0", img_size=64, num_classes=10, **arguments)


def small_space() -> EfficientFormerV2Space:
    widths = ((8,), (8, 16), (16,), (16, 24))
    return EfficientFormerV2Space("small", widths, (1, 1, 2, 1), image_size=32, num_classes=10, stem_stride=2)


def with_attention(space: EfficientFormerV2Space, stage_2: list[int], stage_3: list[int]) -> Arch:
    return space.from_json({**space.to_json(space.largest), "attention": [[], [], stage_2, stage_3]})


def attentions(model: nn.Module) -> list[Any]:
    return [m for m in model.modules() if isinstance(m, timm_v2.Attention2d | timm_v2.Attention2dDownsample)]


def test_pruned_keys_are_not_scaled_anew() -> None:
    model = small()
    before = [attention.scale for attention in attentions(model)]
    structure = prepare(model)
    kept, _ = split(structure, lambda d: d.kind == "key")
    prune(model, structure, kept)
    assert [attention.key_dim for attention in attentions(model)] == [16, 8, 16]
    assert [attention.scale for attention in attentions(model)] == before == [32**-0.5, 16**-0.5, 32**-0.5]


def test_talking_heads_lose_rows_and_columns() -> None:
    model = randomized(small())
    structure = prepare(model)
    name = "stages.2.blocks.1.token_mixer"
    before: Any = copy.deepcopy(model.get_submodule(name))
    kept = torch.tensor([1, 2, 5])
    prune(model, structure, {f"{name}.heads": kept})
    after: Any = model.get_submodule(name)
    for part in ("talking_head1", "talking_head2"):
        conv, whole = after.get_submodule(part), before.get_submodule(part)
        assert (conv.in_channels, conv.out_channels) == (3, 3)
        assert torch.equal(conv.weight, whole.weight[kept][:, kept])
        assert torch.equal(conv.bias, whole.bias[kept])


@torch.no_grad()
def test_biases_are_not_kept_from_an_earlier_call() -> None:
    """In evaluation, timm's attentions gather them once."""
    model = randomized(small())
    before = model(IMAGES)
    structure = prepare(model)
    for attention in attentions(model):
        attention.attention_biases.mul_(10)
    assert not torch.allclose(model(IMAGES), before, rtol=1e-3, atol=1e-3)
    prune(model, structure, split(structure, lambda d: d.kind == "heads")[0])
    assert model(IMAGES).shape == (2, 10)


def test_importance_is_taken_over_several_batches() -> None:
    model = randomized(small())
    structure = prepare(model)
    labels = torch.tensor([3, 7])
    one = taylor(model, structure, [(IMAGES, labels)])
    two = taylor(model, structure, [(IMAGES, labels), (IMAGES, labels)])
    for name, scores in one.items():
        torch.testing.assert_close(two[name], scores)
        assert bool((scores > 0).any()), name


def test_a_model_without_distillation_has_one_classifier() -> None:
    model: Any = timm.create_model("efficientformerv2_s0", img_size=64, num_classes=10, distillation=False).eval()
    structure = prepare(model)
    assert "head_dist.weight" not in structure.axes
    prune(model, structure, split(structure, lambda _: True)[0])
    assert model(torch.zeros(1, 3, 64, 64)).shape == (1, 10)
    assert model.num_features == model.head.in_features == 88
