"""Networks as chains of their blocks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from search_spaces.structure.chain import chain, run
from search_spaces.timm_network.blocks import digest_of

IMAGE = torch.zeros(1, 3, 8, 8)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1))

    def forward(self, x: Any) -> Any:
        return self.layers(x)


class OfLists(Block):
    """As those of SelecSLS, which pass on what all before have made."""

    def forward(self, x: Any) -> Any:
        made = x if isinstance(x, list) else [x]
        return [*made, self.layers(made[-1])]


class OfTwo(Block):
    """As those of CoaT, which are told the size of the map."""

    def forward(self, x: Tensor, scale: float = torch.nan) -> Tensor:
        made: Tensor = self.layers(x)
        assert scale == 2, f"scale is {scale}"
        return made * scale


class Network(nn.Module):
    def __init__(self, kind: type[Block]) -> None:
        super().__init__()
        self.blocks, self.head = nn.ModuleList([kind(), kind()]), nn.Conv2d(3, 5, 1)

    def forward(self, x: Any) -> Any:
        for block in self.blocks:
            x = block(x, scale=2) if isinstance(block, OfTwo) else block(x)
        x = x[-1] if isinstance(self.blocks[-1], OfLists) else x
        return self.head(F.dropout(x, 0.5, self.training))


def test_blocks_run_one_after_another() -> None:
    assert [link.name for link in chain(Network(Block).eval(), IMAGE)] == ["blocks.0", "blocks.1", "head"]


class Residuals(nn.Module):
    """Two parts of two layers, which deployment could merge."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = Block(), Block()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.one(x)
        return x + self.two(x)


class Merged(Residuals):
    def reparameterize(self) -> None:
        """As LCNetV2's blocks."""


class WithMask(Residuals):
    """As Swin V2's blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mask", torch.ones(3, 1, 1), persistent=False)


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        (Residuals, ["0.0.one", "0.0.two", "0.1.one", "0.1.two"]),
        (Merged, ["0.0", "0.1"]),
        (WithMask, ["0.0", "0.1"]),
    ],
)
def test_blocks_are_cut_into_parts_unless_something_needs_them_whole(kind: type[nn.Module], names: list[str]) -> None:
    network = nn.Sequential(nn.Sequential(kind(), kind()), nn.Conv2d(3, 5, 1)).eval()
    assert [link.name for link in chain(network, IMAGE)] == [*names, "head"]


class Placed(nn.Module):
    """As EVA's: each block takes the positions that the network makes."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = Block(), Block()

    def forward(self, x: Tensor, positions: Tensor | None = None, scale: float = 1.0) -> Tensor:
        x = x + self.first(x)
        return x + self.second(x if positions is None else scale * x + positions)


class Positions(nn.Module):
    positions: Tensor

    def __init__(self, by_name: bool, last: float = 1.0) -> None:
        super().__init__()
        self.by_name = by_name
        self.blocks, self.head = nn.ModuleList([Placed(), Placed()]), nn.Conv2d(3, 5, 1)
        self.register_buffer("positions", torch.linspace(-1, last, 64).reshape(8, 8), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x, positions=self.positions) if self.by_name else block(x, self.positions)
        made: Tensor = self.head(x)
        return made


@pytest.mark.parametrize("by_name", [True, False])
@torch.no_grad()
def test_what_a_network_gives_its_blocks_lies_in_their_parts(by_name: bool) -> None:
    network = Positions(by_name).eval()
    links = chain(network, IMAGE)
    assert [link.name for link in links] == [f"blocks.{i}.{part}" for i in (0, 1) for part in ("first", "second")] + [
        "head"
    ]
    *_, made = run(links, IMAGE)
    torch.testing.assert_close(made, network(IMAGE))
    assert {
        f"{link.prefix}.{name}" if link.prefix else name for link in links for name in link.module.state_dict()
    } == {*network.state_dict()}
    (given,) = (part for part in links[1].module.modules() if part._non_persistent_buffers_set)
    again: Any = given.to_empty(device="cpu")
    again.value.zero_()
    again.init_non_persistent_buffers()
    assert torch.equal(again(), network.positions)


def test_blocks_that_are_given_weights_are_no_chain() -> None:
    network = Positions(True).eval()
    positions = network.positions
    del network.positions
    network.positions = nn.Parameter(positions)
    with pytest.raises(ValueError, match=r"^Positions is no chain of blocks$"):
        chain(network, IMAGE)


def test_blocks_that_are_given_different_tensors_differ() -> None:
    here, there = (chain(Positions(True, last).eval(), IMAGE)[1].module for last in (1.0, 2.0))
    assert digest_of(here, (), {}) != digest_of(there, (), {})


class CrossStage(nn.Module):
    """As CspNet's: a list of blocks beside which half of the channels pass by."""

    def __init__(self) -> None:
        super().__init__()
        self.begin, self.end = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 3, 1)
        self.blocks = nn.Sequential(Block(), Block())

    def forward(self, x: Tensor) -> Tensor:
        passes, x = self.begin(x).chunk(2, dim=1)
        return self.end(torch.cat([passes, self.blocks(x)], dim=1))


def test_a_stage_whose_blocks_follow_one_another_beside_something_is_a_block() -> None:
    network = nn.Sequential(nn.Sequential(CrossStage(), CrossStage()), nn.Conv2d(3, 5, 1)).eval()
    assert [link.name for link in chain(network, IMAGE)] == ["0.0", "0.1", "head"]


@pytest.mark.parametrize(
    ("kind", "why"),
    [(OfLists, "blocks.0 makes a list, no tensor"), (OfTwo, "scale is nan")],
)
def test_blocks_that_take_more_than_a_tensor_are_no_chain(kind: type[Block], why: str) -> None:
    with pytest.raises(ValueError, match=f"^Network is no chain of blocks: {why}$"):
        chain(Network(kind).eval(), IMAGE)


@torch.no_grad()
def test_dropout_that_is_a_function_drops_in_training_alone() -> None:
    network = Network(Block).eval()
    head = chain(network, IMAGE)[-1].module
    x = torch.randn(1, 3, 8, 8)
    assert torch.equal(head(x), network.head(x))
    head.train()
    network.train()
    torch.manual_seed(1)
    dropped = head(x)
    torch.manual_seed(1)
    assert torch.equal(dropped, network.head(F.dropout(x, 0.5)))
    assert not torch.equal(dropped, head.eval()(x))
    assert head.state_dict().keys() == {"head.weight", "head.bias"}
