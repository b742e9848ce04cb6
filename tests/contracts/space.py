"""What every search space must satisfy."""

from __future__ import annotations

import copy
import json
import random
from abc import ABC, abstractmethod
from collections.abc import Iterator
from itertools import pairwise
from operator import attrgetter
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn

from search_spaces import Arch, CostTable, SearchSpace, UserError, get_space, macs, num_params, peak_activations
from search_spaces.deployed import deployed
from search_spaces.structure.fvcore_macs import fvcore_macs
from tests.contracts.memory import traced_peak


class SpaceContract(ABC):
    """Inherit, and give the space."""

    @classmethod
    @abstractmethod
    def make_space(cls) -> SearchSpace:
        """The space under test; small images keep its models quick."""

    @pytest.fixture(scope="class")
    @classmethod
    def space(cls) -> SearchSpace:
        return cls.make_space()

    @classmethod
    def archs_to_build(cls, space: SearchSpace) -> list[Arch]:
        rng = random.Random(1)
        return [space.largest, space.smallest, *(space.sample(rng) for _ in range(3))]

    @pytest.fixture(scope="class")
    @classmethod
    def archs(cls, space: SearchSpace) -> list[Arch]:
        rng = random.Random(0)
        return [*space.named.values(), *(space.sample(rng) for _ in range(30))]

    @pytest.fixture(scope="class")
    @classmethod
    def models(cls, space: SearchSpace) -> list[tuple[Arch, nn.Module]]:
        return [(arch, randomized(space.build(arch), seed)) for seed, arch in enumerate(cls.archs_to_build(space))]

    @staticmethod
    def is_smaller(space: SearchSpace, arch: Arch, before: Arch) -> bool:
        """Whether an action made the network smaller."""
        return num_params(space, arch) < num_params(space, before) and macs(space, arch) < macs(space, before)

    # ---- archs

    def test_canonical_is_idempotent_and_builds_the_same_network(self, space: SearchSpace) -> None:
        rng = random.Random(0)
        built = 0
        for _ in range(200):
            values = tuple(rng.choice(choice.options) for choice in space.choices)
            try:
                canonical = space.canonical(values)
            except ValueError:
                continue
            built += 1
            assert space.canonical(canonical) == canonical
            assert space.lower(Arch(space.name, canonical)) == space.lower(Arch(space.name, values))
        assert built > 20

    def test_every_arch_is_canonical(self, space: SearchSpace, archs: list[Arch]) -> None:
        for arch in archs:
            assert space.canonical(arch.values) == arch.values

    def test_json_round_trip(self, space: SearchSpace, archs: list[Arch]) -> None:
        for arch in archs:
            assert space.from_json(json.loads(json.dumps(space.to_json(arch)))) == arch

    def test_named_archs_are_found_by_name(self, space: SearchSpace) -> None:
        for name, arch in space.named.items():
            assert space.load_arch(name) == space.load_arch(name.upper()) == arch

    def test_samples_repeat_by_seed_alone(self, space: SearchSpace) -> None:
        def draw(seed: int) -> list[Arch]:
            random.seed(random.randrange(1000))  # the global generator must not matter
            rng = random.Random(seed)
            return [space.sample(rng) for _ in range(5)]

        assert draw(3) == draw(3)
        assert draw(3) != draw(4)

    def test_samples_reach_every_option(self, space: SearchSpace) -> None:
        rng = random.Random(0)
        samples = [space.sample(rng).values for _ in range(1000)]
        for choice, values in zip(space.choices, zip(*samples, strict=True), strict=True):
            assert set(values) == set(choice.options), choice.name

    @pytest.mark.parametrize("data", [None, [], "s0", 3])
    def test_json_that_is_no_object_is_refused(self, space: SearchSpace, data: Any) -> None:
        with pytest.raises(UserError, match="must be a JSON object"):
            space.from_json(data)

    def test_fields_and_values_are_checked(self, space: SearchSpace) -> None:
        good = space.to_json(space.largest)
        choice = space.choices[0]
        refused(space, {**good, "space": "other"}, "space 'other'", space.name)
        refused(space, {**good, "self": 1}, "unknown field self", choice.field)
        for field in dict.fromkeys(c.field for c in space.choices):
            refused(space, {k: v for k, v in good.items() if k != field}, f"no field {field}", space.name)
            refused(space, {**good, field: 7}, f"{field} is 7", "give a list of")
            refused(space, {**good, field: good[field][:-1]}, f"{field} is ", f"give a list of {len(good[field])}")
        assert len(choice.index) == 1, (
            "the first choice of a space is no nested one, so that its values are easy to spoil"
        )
        rest = good[choice.field][1:]
        refused(space, {**good, choice.field: ["x", *rest]}, f"{choice.name} is 'x'", "give an integer")
        for value in (-1, 10**30):
            refused(space, {**good, choice.field: [value, *rest]}, f"{choice.name} is {value}", str(choice.options[-1]))

    # ---- slimming

    def test_an_action_takes_one_choice_one_option_down(self, space: SearchSpace, archs: list[Arch]) -> None:
        at = {choice.name: i for i, choice in enumerate(space.choices)}
        for arch in (space.largest, space.smallest, *archs[-4:]):
            actions = space.slim(arch)
            assert len({action.choice for action in actions}) == len({a.arch for a in actions}) == len(actions)
            for action in actions:
                i = at[action.choice]
                options = space.choices[i].options
                assert action.before == arch.values[i]
                assert action.after == action.arch.values[i] == options[options.index(action.before) - 1]
                assert (space.encode([action.arch]) <= space.encode([arch])).all()
                assert space.canonical(action.arch.values) == action.arch.values
                assert self.is_smaller(space, action.arch, arch)

    def test_slimming_ends_at_the_smallest_network(self, space: SearchSpace) -> None:
        assert space.slim(space.smallest) == ()
        steps = sum(len(choice.options) - 1 for choice in space.choices)
        for seed in range(2):
            rng, arch = random.Random(seed), space.largest
            for _ in range(steps):
                if actions := space.slim(arch):
                    arch = rng.choice(actions).arch
            assert space.slim(arch) == ()
            assert [b.key for b in space.lower(arch)] == [b.key for b in space.lower(space.smallest)]

    # ---- geometry

    def test_blocks_follow_one_another(self, space: SearchSpace, archs: list[Arch]) -> None:
        for arch in archs:
            blocks = space.lower(arch)
            assert len({(block.kind, block.name) for block in blocks}) == len(blocks)
            assert blocks[0].input_shape() == (space.in_chans, space.image_size, space.image_size)
            assert blocks[-1].output_shape() == (space.num_classes,)
            for block, following in pairwise(blocks):
                assert block.output_shape() == following.input_shape()
            for block in blocks:
                assert not block.chainable or block.output_shape() == block.input_shape()

    def test_every_lowered_block_is_among_all_blocks(self, space: SearchSpace, archs: list[Arch]) -> None:
        every = space.all_blocks()
        for arch in archs:
            for block in space.lower(arch):
                listed = every[block.key]
                assert (listed.key, listed.num_params, listed.macs) == (block.key, block.num_params, block.macs)

    def test_cost_table_is_the_sum_over_the_blocks(self, space: SearchSpace, archs: list[Arch]) -> None:
        encoded = space.encode(archs)
        assert encoded.shape == (len(archs), len(space.choices))
        assert [space.decode(row) for row in encoded] == archs
        for cost in (num_params, macs):
            table = CostTable(space, attrgetter(cost.__name__))
            np.testing.assert_array_equal(table(encoded), [cost(space, arch) for arch in archs])
        assert CostTable(space, lambda block: block.macs)(space.encode([])).shape == (0,)

    def test_cost_table_may_take_the_maximum(self, space: SearchSpace, archs: list[Arch]) -> None:
        table = CostTable(space, attrgetter("peak_activations"), np.maximum)
        np.testing.assert_array_equal(table(space.encode(archs)), [peak_activations(space, arch) for arch in archs])

    # ---- models

    @pytest.fixture
    def double_by_default(self) -> Iterator[None]:
        """timm makes fused layers of the default dtype."""
        torch.set_default_dtype(torch.float64)
        yield
        torch.set_default_dtype(torch.float32)

    def test_counts_equal_those_of_the_built_model(
        self, space: SearchSpace, models: list[tuple[Arch, nn.Module]]
    ) -> None:
        for arch, model in models:
            shipped = deployed(model)
            assert num_params(space, arch) == sum(p.numel() for p in shipped.parameters())
            assert macs(space, arch) == fvcore_macs(shipped, image(space, 1))

    @pytest.mark.usefixtures("double_by_default")
    def test_the_deployed_model_computes_the_same(
        self, space: SearchSpace, models: list[tuple[Arch, nn.Module]]
    ) -> None:
        """In double precision: rounding errors of single precision grow through a deep network of random weights."""
        x = image(space, 1)
        for _, model in models:
            double = copy.deepcopy(model).double()
            expected = double(x)
            close = 1e-9 * float(expected.abs().max())
            torch.testing.assert_close(deployed(double)(x), expected, rtol=1e-7, atol=close)

    def test_peak_memory_equals_that_of_the_built_models_operators(
        self, space: SearchSpace, archs: list[Arch], models: list[tuple[Arch, nn.Module]]
    ) -> None:
        for arch, model in models:
            assert peak_activations(space, arch) == traced_peak(deployed(model), image(space, 1))
        blocks = {block.key: block for arch in archs[-10:] for block in space.lower(arch)}
        for block in blocks.values():  # of a network only the greatest shows
            x = torch.zeros(1, *block.input_shape())
            held, keeps = block.elements_held, block.keeps_input
            assert block.peak_activations == held + traced_peak(deployed(block.build()), x, keeps), block.key

    def test_blocks_with_the_models_weights_are_the_model(
        self, space: SearchSpace, models: list[tuple[Arch, nn.Module]]
    ) -> None:
        for arch, model in models:
            weights = model.state_dict()
            x = image(space)
            y: Any = x
            used: list[str] = []
            for block in space.lower(arch):
                module = block.build().eval()
                prefix = space.module_names(arch)[block.name]
                names = {name: f"{prefix}.{name}" if prefix else name for name in module.state_dict()}
                module.load_state_dict({name: weights[full] for name, full in names.items()})
                used += names.values()
                assert output_of(y).shape[1:] == block.input_shape()
                y = module(y)
                assert output_of(y).shape[1:] == block.output_shape()
            assert sorted(used) == sorted(weights)
            assert torch.equal(y, model(x))

    def test_source_makes_the_model(self, space: SearchSpace, models: list[tuple[Arch, nn.Module]]) -> None:
        x = image(space, 1)
        for arch, model in models:
            namespace: dict[str, Any] = {}
            exec(space.source(arch), namespace)
            other = namespace["create_model"]().eval()
            other.load_state_dict(model.state_dict())
            assert torch.equal(other(x), model(x))

    @torch.inference_mode()
    def test_in_evaluation_a_network_follows_its_weights(
        self, space: SearchSpace, models: list[tuple[Arch, nn.Module]]
    ) -> None:
        """As a moving average, which is tested again and again and never trained itself."""
        for arch, model in models:
            average, x = copy.deepcopy(model).eval(), image(space)
            before = average(x)
            later = randomized(space.build(arch), 99)
            average.load_state_dict(later.state_dict())
            torch.testing.assert_close(average(x), later.eval()(x))
            assert not torch.allclose(average(x), before)

    def test_drop_path_changes_training_only(self, space: SearchSpace, models: list[tuple[Arch, nn.Module]]) -> None:
        arch, model = models[0]
        plain = copy.deepcopy(model)
        dropping = space.build(arch, drop_path_rate=0.5).eval()
        dropping.load_state_dict(plain.state_dict())
        x = image(space)
        assert torch.equal(dropping(x), plain(x))
        assert not torch.equal(dropping.train()(x), plain.train()(x))


def refused(space: SearchSpace, data: dict[str, Any], *parts: str) -> None:
    """Asserts that `from_json` refuses the data with one line that holds all parts."""
    with pytest.raises(UserError) as caught:
        space.from_json(data)
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message


def output_of(y: Tensor | tuple[Tensor, Tensor]) -> Tensor:
    """A block's own, without what it hands on beside it."""
    return y[0] if isinstance(y, tuple) else y


class TimmContract:
    """Inherit, give the space, and test by `is_timms`, with what was published, each network that is timm's.

    Attributes:
        space: of the published networks' size; there is one of its name and "-nano", too.
    """

    space: SearchSpace

    def is_timms(self, name: str) -> None:
        """Asserts that the network computes what timm's does, of as many parameters and MACs."""
        arch, x = self.space.published[name], image(self.space, 1)
        theirs = randomized(timm.create_model(f"{self.space.name}_{name}"), 0)
        shipped = deployed(theirs)
        assert num_params(self.space, arch) == sum(p.numel() for p in shipped.parameters())
        assert macs(self.space, arch) == fvcore_macs(shipped, x)
        ours = self.space.build(arch).eval()
        assert type(ours) is type(theirs)
        ours.load_state_dict(theirs.state_dict())
        assert torch.equal(ours(x), theirs(x))

    def fresh(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The smallest published network's weights and those of timm's, both of one seed."""
        name = next(iter(self.space.published))
        torch.manual_seed(3)
        theirs = timm.create_model(f"{self.space.name}_{name}").state_dict()
        torch.manual_seed(3)
        return self.space.build(self.space.published[name]).state_dict(), theirs

    def test_is_initialized_as_timms_model(self) -> None:
        ours, theirs = self.fresh()
        assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())

    def test_nano_takes_images_of_64_pixels(self) -> None:
        space = get_space(f"{self.space.name}-nano", image_size=64)
        model = deployed(space.build(space.largest))
        assert macs(space, space.largest) == fvcore_macs(model, image(space, 1))

    @pytest.mark.parametrize("image_size", [0, -32, 16, 100, 2048])
    def test_image_size_is_checked(self, image_size: int) -> None:
        with pytest.raises(UserError, match=rf"image size {image_size} .* multiple of 32 from 32 to 1024"):
            get_space(self.space.name, image_size=image_size)


def image(space: SearchSpace, batch: int = 2) -> Tensor:
    shape = (batch, space.in_chans, space.image_size, space.image_size)
    return torch.randn(shape, generator=torch.Generator().manual_seed(7))


def randomized(model: nn.Module, seed: int) -> nn.Module:
    """The model in evaluation mode, no branch silent: fresh layer scales and BN statistics hide what they scale."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in model.state_dict().items():
        if tensor.ndim == 1 and tensor.is_floating_point():
            low = -0.5 if name.endswith(("bias", "running_mean")) else 0.5
            tensor.uniform_(low, low + 1, generator=generator)
    return model.eval().requires_grad_(False)
