"""What every search space must satisfy as a supernet."""

from __future__ import annotations

import copy
import random
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cache
from itertools import product

import pytest
import torch
from torch import Tensor, nn

from search_spaces import Arch, BlockSpec, SearchSpace
from search_spaces.layout import Layout
from supernet import Supernet
from supernet.convolutions import mend_convolutions
from supernet.slices import Extent, Part
from supernet.store import Norm
from tests.contracts.space import output_of

norms = pytest.mark.parametrize("norm", ["width", "shared"])
CPU = torch.device("cpu")


class SupernetContract(ABC):
    """Inherit, once for a family."""

    @classmethod
    @abstractmethod
    def make_tiny(cls) -> SearchSpace:
        """A space with every kind of block, but few values in all (under a million), so that its stores are small."""

    def test_size_counts_the_archs(self) -> None:
        tiny = self.make_tiny()
        archs = set()
        for values in product(*(choice.options for choice in tiny.choices)):
            try:
                archs.add(tiny.canonical(values))
            except ValueError:
                continue
        assert tiny.size() == len(archs)

    @classmethod
    def channels(cls, block: BlockSpec) -> Layout:
        """The axes of its `input` and `output`, each with the batch first, where channels are more than one size."""
        return Layout()

    @norms
    @torch.no_grad()
    def test_a_subnet_is_the_extracted_network(self, norm: Norm) -> None:
        space = self.make_tiny()
        net, x = shaken(Supernet(space, norm=norm)), images(space, 2)
        for arch in drawn(space, 3):
            model = net.extract(arch)
            assert type(model) is type(space.build(arch))
            assert torch.equal(net(x, arch), model(x))

    def test_a_network_that_is_loaded_is_extracted_as_it_was(self) -> None:
        space = self.make_tiny()
        net = Supernet(space)
        for arch in drawn(space, 0):
            given = lively(space.build(arch), 5).state_dict()
            net.load_network(arch, given)
            found = net.extract(arch).state_dict()
            assert [
                name for name, tensor in given.items() if tensor.ndim and not torch.equal(found[name], tensor)
            ] == []

    @norms
    def test_every_tensor_fits_the_store(self, norm: Norm) -> None:
        space = self.make_tiny()
        net = Supernet(space, norm=norm)
        for slot in space.slots:
            for block in dict.fromkeys(space.slot_blocks(slot)):
                with torch.device("meta"):
                    expected = {name: tensor.shape for name, tensor in block.build().state_dict().items()}
                assert {name: tensor.shape for name, tensor in net.tensors(block)} == expected

    def test_norms_begin_as_the_block_says(self) -> None:
        """In a fresh supernet, which makes them itself, as in the block's module."""
        space = self.make_tiny()
        net = Supernet(space)
        for block in {block.key: block for slot in space.slots for block in space.slot_blocks(slot)}.values():
            stored = dict(net.tensors(block))
            for name, part in block.build().named_modules():
                if isinstance(part, nn.BatchNorm2d):
                    start = (part.weight.unique().item(), part.bias.unique().item())
                    assert start == pytest.approx(block.norm_start(name)), (block.key, name)
                    entries = part.state_dict(prefix=f"{name}.").items()
                    assert all(torch.equal(stored[entry], value) for entry, value in entries), (block.key, name)

    @norms
    def test_gradients_are_the_extracted_networks_and_stay_inside_its_slice(self, norm: Norm) -> None:
        space = self.make_tiny()
        x = images(space, 2)
        for arch in drawn(space, 1):
            net = shaken(Supernet(space, norm=norm))
            model = mend_convolutions(net.extract(arch)).train().requires_grad_(True)  # norms amplify rounding
            net.train()(x, arch).square().sum().backward()
            model(x).square().sum().backward()
            expected = sum(float(p.grad.abs().sum()) for p in model.parameters() if p.grad is not None)
            everywhere = sum(float(p.grad.abs().sum()) for p in net.parameters() if p.grad is not None)
            gradients = copy.deepcopy(net).requires_grad_(False)
            for own, parameter in zip(gradients.parameters(), net.parameters(), strict=True):
                own.copy_(torch.zeros_like(own) if parameter.grad is None else parameter.grad)
            inside = sum(
                float(tensor.abs().sum())
                for block in space.lower(arch)
                for name, tensor in gradients.tensors(block)
                if name in parameter_names(block)
            )
            assert 0 < everywhere == pytest.approx(inside, rel=1e-4) == pytest.approx(expected, rel=1e-3)

    @torch.no_grad()
    def test_slicing_equals_masking(self) -> None:
        """A block computes what a larger one of its slot does with zeros where it has nothing: entries lie right."""
        space = self.make_tiny()
        kinds, compared = set(), set()
        for slot in space.slots:
            blocks = list(dict.fromkeys(space.slot_blocks(slot)))
            for block, larger in ((a, b) for a in blocks for b in blocks if larger_tensors(a, b)):
                kinds.add(block.kind)
                if (masked := Masked.make(block, larger)) is not None:
                    compared.add(block.kind)
                    expected, found = masked.outputs(self.channels)
                    close = 1e-5 * float(expected.abs().max())
                    torch.testing.assert_close(found, expected, rtol=1e-4, atol=close)
        assert compared == kinds

    def test_drop_path_acts_on_every_residual_block(self) -> None:
        space = self.make_tiny()
        residual = {b.key: b for slot in space.slots for b in space.slot_blocks(slot) if b.residual}
        assert residual
        net = shaken(Supernet(space))
        for block in residual.values():
            x = torch.rand(2, *block.input_shape(), generator=torch.Generator().manual_seed(3))
            for training in (False, True):
                net.train(training)
                net._drop_prob[block.name] = 0.0
                whole = net.run_block(block, x)
                net._drop_prob[block.name] = 1 - 1e-7
                assert torch.equal(net.run_block(block, x), whole) != training, block.key


@cache
def parameter_names(block: BlockSpec) -> set[str]:
    with torch.device("meta"):
        return {name for name, _ in block.build().named_parameters()}


class Masked:
    """A block, and a larger one whose tensors are the smaller one's where that has entries, else zero."""

    def __init__(self, block: BlockSpec, larger: BlockSpec, small: nn.Module, large: nn.Module) -> None:
        self.block, self.larger, self.small, self.large = block, larger, small, large

    @classmethod
    def make(cls, block: BlockSpec, larger: BlockSpec) -> Masked | None:
        """None if the two do not have the same tensors, each of the block's a part of the larger's."""
        small, large = lively(block.build(), 0), larger.build().eval()
        tensors, state = small.state_dict(), large.state_dict()
        if tensors.keys() != state.keys():
            return None
        for name, whole in state.items():
            unused = 1.0 if name.endswith("running_var") else 0.0
            whole.fill_(unused)
            if not whole.is_floating_point():
                continue
            own = Extent.of(name, tensors[name].shape, block.layout())
            try:
                part = own.within(Extent.of(name, whole.shape, larger.layout()), CPU)
            except ValueError:
                return None
            whole += part.padded(tensors[name] - unused, whole.shape, whole.stride())
        return cls(block, larger, small, large)

    def outputs(self, channels: Callable[[BlockSpec], Layout]) -> tuple[Tensor, Tensor]:
        """Of both, for one input: what the block makes of it, and the larger's outputs in the block's channels.

        The larger's input is 0 where the block has no channels.
        """

        def part(name: str, own: tuple[int, ...], whole: tuple[int, ...]) -> Part:
            larger = Extent.of(name, (2, *whole), channels(self.larger))
            return Extent.of(name, (2, *own), channels(self.block)).within(larger, CPU)

        x = torch.rand(2, *self.block.input_shape(), generator=torch.Generator().manual_seed(2))
        masked = torch.zeros(2, *self.larger.input_shape())
        part("input", self.block.input_shape(), self.larger.input_shape()).write(masked, x)
        found = part("output", self.block.output_shape(), self.larger.output_shape()).of(output_of(self.large(masked)))
        return output_of(self.small(x)), found


def larger_tensors(block: BlockSpec, other: BlockSpec) -> bool:
    """Whether the other is a wider or a larger version of the block, at the same place and of the same use."""
    pairs = [*zip(block.input_shape(), other.input_shape(), strict=True)]
    pairs += [*zip(block.output_shape(), other.output_shape(), strict=True)]
    return (
        block.kind == other.kind
        and block.residual == other.residual
        and block.input_shape()[1:] == other.input_shape()[1:]
        and all(a <= b for a, b in pairs)
        and block.num_params < other.num_params
    )


def shaken(net: Supernet) -> Supernet:
    """Every entry random, so that no part of a network hides behind its initial ones and zeros; evaluation mode."""
    lively(net, 1)
    return net.eval()


@torch.no_grad()
def lively(module: nn.Module, seed: int) -> nn.Module:
    """The module in evaluation mode, each of its entries random."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in module.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 2.0, generator=generator)
        elif tensor.is_floating_point():
            tensor.add_(torch.randn(tensor.shape, generator=generator) * 0.1)
    return module.eval()


def images(space: SearchSpace, count: int) -> Tensor:
    shape = (count, space.in_chans, space.image_size, space.image_size)
    return torch.randn(shape, generator=torch.Generator().manual_seed(7))


def drawn(space: SearchSpace, count: int) -> list[Arch]:
    rng = random.Random(3)
    return [space.largest, space.smallest, *(space.sample(rng) for _ in range(count))]
