"""Spaces with a head: whatever holds of classifiers' spaces holds of these, for every family."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from latency_lut.backends.base import blocks_job
from latency_lut.tables.plan import make_plan
from search_spaces import SearchSpace, UserError, get_space, macs, num_params, peak_activations
from search_spaces.dense.blocks import Passing
from search_spaces.dense.passing import Passed, let_pass
from search_spaces.dense.space import HeadedSpace
from search_spaces.deployed import deployed
from search_spaces.structure.fvcore_macs import fvcore_macs
from supernet import Supernet, train_step
from tests.contracts.space import image, randomized
from tests.contracts.supernet import drawn, images, lively, shaken
from tests.toy_family import Bottleneck

BASES = ("mobileone-nano", "mobilevit-nano", "efficientvit-nano", "efficientformerv2-nano")
TIMM = "timm/test_efficientnet@2x8"
SPACES = [f"{base}+ssdlite" for base in (*BASES, TIMM)] + ["mobilevit-nano+deeplabv3"]


def made(name: str) -> SearchSpace:
    return get_space(name, 64, 3)


def raw(model: Any, found: Any) -> Tensor:
    """What networks give, as one tensor: of a supernet, what its chain of blocks has gathered."""
    outputs = model.gathered(found.found) if isinstance(found, Passed) else found
    return torch.cat(outputs, dim=2) if isinstance(outputs, tuple) else outputs


@pytest.mark.parametrize("name", SPACES)
@torch.no_grad()
def test_a_subnet_is_the_extracted_network(name: str) -> None:
    space = made(name)
    net, x = shaken(Supernet(space)), images(space, 2)
    for arch in drawn(space, 1):
        model = net.extract(arch)
        assert type(model) is type(space.build(arch))
        assert torch.equal(raw(model, net(x, arch)), raw(model, model(x)))


@pytest.mark.parametrize("name", ["mobilevit-nano+ssdlite", "mobilevit-nano+deeplabv3"])
def test_a_network_that_is_loaded_is_extracted_as_it_was(name: str) -> None:
    """Also where blocks have a name in common, as the first and the last part of a MobileViT block."""
    space = made(name)
    net, arch = Supernet(space), space.sample(random.Random(0))
    given = lively(space.build(arch), 5).state_dict()
    net.load_network(arch, given)
    found = net.extract(arch).state_dict()
    assert [n for n, tensor in given.items() if tensor.ndim and not torch.equal(found[n], tensor)] == []


@pytest.mark.parametrize("name", SPACES)
def test_costs_are_those_of_the_built_network(name: str) -> None:
    space = made(name)
    for arch in (space.largest, space.sample(random.Random(1))):
        shipped = deployed(randomized(space.build(arch), 0))
        assert num_params(space, arch) == sum(p.numel() for p in shipped.parameters())
        assert macs(space, arch) == fvcore_macs(shipped, image(space, 1))


def test_what_passes_by_is_in_memory() -> None:
    space = made("mobileone-nano+ssdlite")
    blocks = space.lower(space.largest)
    alone = {block.name: block.peak_activations for block in space.base.lower(space.base.largest)}  # type: ignore[attr-defined]
    first = next(i for i, block in enumerate(blocks) if block.name == "heads.0")
    elements = blocks[first].columns * blocks[first].resolution ** 2  # type: ignore[attr-defined]
    assert all(b.peak_activations == alone[b.name] for b in blocks[:first])
    following = [b for b in blocks[first:] if b.name in alone]
    assert following and all(b.peak_activations == alone[b.name] + elements for b in following)
    assert peak_activations(space, space.largest) >= max(alone[b.name] for b in blocks if b.name in alone)


def test_blocks_of_the_backbone_are_rows_of_its_own_table() -> None:
    space = made("mobilevit-nano+ssdlite")
    assert isinstance(space, HeadedSpace)
    own = space.base.all_blocks()
    found = space.all_blocks()
    heads = {key for key, block in found.items() if block.kind in ("box_head", "extra_map", "pooled_map")}
    assert heads and set(found) - heads <= set(own)
    assert set(make_plan(space).terms) == set(found)


def test_a_part_of_a_head_is_timed_with_what_it_makes() -> None:
    """What a graph does not return a runtime would not compute."""
    space = made("mobileone-nano+ssdlite")
    block = next(b for b in space.lower(space.largest) if b.kind == "box_head")
    x = torch.randn(1, *block.input_shape())
    outputs = blocks_job((block, block)).module()(x)
    assert torch.equal(outputs[0], x) and [y.shape for y in outputs[1:]] == [outputs[1].shape] * 2


def test_slimming_takes_the_choices_of_the_backbone() -> None:
    space = made("mobileone-nano+deeplabv3")
    assert isinstance(space, HeadedSpace)
    steps = [action.choice for action in space.slim(space.largest)]
    assert steps == [action.choice for action in space.base.slim(space.base.largest)]
    assert space.from_json(space.to_json(space.largest)) == space.largest
    assert space.size() == space.base.size() and space.smallest.values == space.base.smallest.values


def test_a_step_trains_detectors() -> None:
    space = made("mobileone-nano+ssdlite")
    torch.manual_seed(0)
    net, boxes = Supernet(space, norm="shared"), space.build(space.largest)
    target = [{"boxes": torch.tensor([[4.0, 4, 40, 40]]), "labels": torch.tensor([1])}, NOTHING]

    def criterion(found: Any, wanted: Any) -> Tensor:
        loss: Tensor = boxes.loss(boxes.gathered(found.found), wanted)  # type: ignore[operator]
        return loss

    losses = train_step(net.train(), images(space, 2), target, (space.largest, space.smallest), criterion)  # type: ignore[arg-type]
    assert losses.shape == (2,) and losses.isfinite().all()
    assert all(p.grad is not None for n, p in net.named_parameters() if n.startswith("heads."))


NOTHING = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}


def test_paths_are_dropped_beside_what_passes_by() -> None:
    torch.manual_seed(0)
    block = let_pass(torch.nn.Conv2d(3, 3, 1))
    x, found = torch.randn(64, 3, 4, 4), (torch.randn(1),)
    y = block(Passed(x, found))
    assert torch.equal(y.x, block(x)) and y.found is found
    block.drop_prob = 0.5  # type: ignore[assignment]
    dropped = block.train()(Passed(x, found)).x
    kept = (dropped != x).flatten(1).any(1)
    assert 16 < int(kept.sum()) < 48
    torch.testing.assert_close((dropped - x)[kept], 2 * (y.x - x)[kept])


def test_a_block_that_lets_pass_is_the_block() -> None:
    block = Bottleneck("body.0", 8, 2, 16)
    passing = Passing.of(block, 7)
    assert (passing.key, passing.name, passing.variant) == (block.key, block.name, block.variant)
    assert replace(passing, name="").build().state_dict().keys() == block.build().state_dict().keys()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mobileone-nano+yolo", "no head 'yolo' in 'mobileone-nano\\+yolo'; choose from ssdlite, deeplabv3"),
        ("nothing+ssdlite", "no space 'nothing'"),
    ],
)
def test_bad_names(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        get_space(name, 64)


def test_a_detector_is_no_timm_model() -> None:
    space = made("mobileone-nano+ssdlite")
    with pytest.raises(UserError, match="no models of timm"):
        space.source(space.largest)
