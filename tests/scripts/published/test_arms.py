"""What the papers' tables compare, on networks of both sizes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from timm.models.byobnet import MobileOneBlock

from scripts.published.arms import TABLES, Arm
from search_spaces import num_params


def arms(name: str, image_size: int) -> list[Arm]:
    return list(TABLES[name].arms(image_size, 10))


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("image_size", [32, 224])
def test_every_row_is_a_network_for_the_images(name: str, image_size: int) -> None:
    rows = arms(name, image_size)
    assert len({row.label for row in rows}) == len(rows) > 1
    assert all(row.space.image_size == image_size and row.space.num_classes == 10 for row in rows)
    assert all(num_params(row.space, row.arch) > 0 for row in rows)


@pytest.mark.parametrize("image_size", [32, 224])
def test_expansions_have_the_same_parameters(image_size: int) -> None:
    counts = [num_params(row.space, row.arch) for row in arms("efficientformerv2-expansion", image_size)]
    assert max(counts) / min(counts) < 1.06
    if image_size == 224:
        assert min(counts) > 11e6  # S2's size


def test_without_bias_attention_has_none_to_learn() -> None:
    _, row = arms("efficientformerv2-attention-bias", 32)
    network = row.space.build(row.arch)
    assert row.prepare is not None
    row.prepare(network)
    biases = [p for name, p in network.named_parameters() if "attention_biases" in name]
    assert biases and all(not p.requires_grad and not p.any() for p in biases)


def test_without_branches_a_block_is_a_convolution_and_its_norm() -> None:
    _, row = arms("mobileone-branches", 32)
    network: Any = row.space.build(row.arch).eval()
    assert row.prepare is not None
    row.prepare(network)
    blocks: list[Any] = [block for block in network.modules() if isinstance(block, MobileOneBlock)]
    assert blocks and all(len(block.conv_kxk) == 1 for block in blocks)
    names = {name.split(".", 3)[-1] for name, _ in network.named_parameters() if name.startswith("stages")}
    assert not any("identity" in name or "conv_scale" in name for name in names)
    assert all(block.conv_kxk[0].bn.weight.eq(1).all() for block in blocks), "no block begins silent"
    x = torch.randn(2, 3, 32, 32)
    assert network(x).std() > 0


def test_mobileones_settings_are_added_one_by_one() -> None:
    kept = [set(row.settings) for row in arms("mobileone-training", 32)]
    assert kept == [
        {"progressive", "weight_decay_end", "ema_decay"}, {"weight_decay_end", "ema_decay"}, {"ema_decay"}, set(),
    ]  # fmt: skip
    assert [row.paper for row in arms("mobileone-training", 32)] == [76.4, 76.8, 77.3, 77.4]
