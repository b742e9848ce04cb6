"""The slicing rule: what a subnet computes, what it trains, and what it leaves alone."""

from __future__ import annotations

import copy
import random
from collections.abc import Sequence

import pytest
import timm
import torch
from timm.models.efficientformer_v2 import EfficientFormerV2
from torch import Tensor, nn
from torch.nn import functional as F

from search_spaces import Arch, BlockSpec, SearchSpace, get_space
from search_spaces.efficientformerv2 import EfficientFormerV2Space
from supernet import Supernet
from supernet.store import Norm
from tests.contracts.supernet import drawn, norms, shaken
from tests.rounding import assert_equal_but_for_rounding


def tiny_space(layer_scale_init: float = 0.5) -> EfficientFormerV2Space:
    widths = ((16, 24), (24, 32), (32, 48), (48, 64))
    return EfficientFormerV2Space(
        "tiny", widths, (1, 2, 3, 2), image_size=32, num_classes=5, stem_stride=2, layer_scale_init=layer_scale_init
    )


@pytest.fixture(scope="module")
def space() -> EfficientFormerV2Space:
    return tiny_space()


@pytest.fixture
def net(space: EfficientFormerV2Space) -> Supernet:
    return shaken(Supernet(space))


def images(space: SearchSpace, count: int = 3) -> Tensor:
    size = space.image_size
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(2))


@torch.no_grad()
def test_extracted_network_is_timms_and_computes_the_same(net: Supernet, space: EfficientFormerV2Space) -> None:
    x = images(space)
    outputs = []
    for arch in drawn(space, 2):
        model = net.extract(arch)
        assert isinstance(model, EfficientFormerV2)
        assert torch.equal(net(x, arch), model(x))
        blocks = nn.Sequential(*(net.block_module(block) for block in space.lower(arch)))
        assert torch.equal(blocks(x), model(x))
        outputs.append(model(x))
    assert not torch.allclose(outputs[0], outputs[1])


@torch.no_grad()
def test_extracted_network_shares_nothing_with_the_store(net: Supernet, space: EfficientFormerV2Space) -> None:
    model = net.extract(space.largest)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.zero_()
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())


@torch.no_grad()
def test_slicing_equals_masking_the_largest_network(net: Supernet, space: EfficientFormerV2Space) -> None:
    """The subnet at its own size against the largest network whose inactive channels and blocks are zero."""
    x = images(space)
    for arch in drawn(space, 2):
        masked = masked_largest(net, space, arch)
        assert_equal_but_for_rounding(net(x, arch), masked(x), masked)


def masked_largest(net: Supernet, space: EfficientFormerV2Space, arch: Arch) -> nn.Module:
    model = space.build(space.largest).eval()
    state = {name: torch.zeros_like(tensor) for name, tensor in model.state_dict().items()}
    state |= {name: torch.ones_like(tensor) for name, tensor in state.items() if name.endswith("running_var")}
    small, stored = net.extract(arch).state_dict(), net.state_dict()
    for slot, own in space.module_names(arch).items():
        for name, tensor in small.items():
            if name.startswith(f"{own}.") or (not own and name.startswith(("norm.", "head"))):
                full = f"{slot}{name.removeprefix(own)}" if own else name
                active = tuple(slice(0, length) for length in tensor.shape)
                is_weight = full in stored  # a norm's entries are there once for each variant, under other names
                state[full][active] = stored[full][active] if is_weight else tensor
    model.load_state_dict(state)
    return model


def test_gradients_stay_inside_the_slice(net: Supernet, space: EfficientFormerV2Space) -> None:
    arch = space.sample(random.Random(5))
    before = copy.deepcopy(net.state_dict())
    net.train()
    F.cross_entropy(net(images(space), arch), torch.tensor([0, 1, 2])).backward()
    used: dict[str, Tensor] = {}
    for block in space.lower(arch):
        used.update({f"{block.name}.{name}".removeprefix("."): t for name, t in net.tensors(block)})
    for name, parameter in net.named_parameters():
        if parameter.grad is None:
            continue
        if parameter.ndim == 1 and name not in used:
            assert any(name.startswith(f"{u.rpartition('.')[0]}.") for u in used), f"{name} is no part of the subnet"
            continue
        inside = tuple(slice(0, length) for length in used[name].shape)
        outside = parameter.grad.clone()
        outside[inside] = 0
        assert outside.abs().sum() == 0, name
        assert parameter.grad.abs().sum() > 0 or name.endswith("bias"), f"{name} is not trained"
    variants = {f".{block.variant}." for block in space.lower(arch)}
    for name, tensor in net.state_dict().items():
        if "running" in name and not torch.equal(tensor, before[name]):
            assert any(variant in name for variant in variants), f"{name} is another width's"


def test_each_width_has_its_own_norm(net: Supernet, space: EfficientFormerV2Space) -> None:
    names = [name for name in net.state_dict() if name.startswith("stages.0.blocks.0.mlp.fc1.bn.")]
    assert {name.split(".")[7] for name in names} == {f"w{w}e{e}" for w in (16, 24) for e in (1, 2, 3, 4)}


@torch.no_grad()
def test_evaluation_follows_the_weights(net: Supernet, space: EfficientFormerV2Space) -> None:
    """timm caches the attention bias in evaluation: blocks of one shape, and one block over time, must not share it."""
    x = images(space)
    before = net(x, space.largest)
    for name, parameter in net.named_parameters():
        if name == "stages.2.blocks.1.token_mixer.attention_biases":
            parameter.add_(torch.randn_like(parameter) * 3)
    after = net(x, space.largest)
    assert not torch.allclose(before, after)
    assert torch.equal(after, net.extract(space.largest)(x))


@torch.no_grad()
def test_copies_and_moves_keep_tensors_and_index_together(net: Supernet, space: EfficientFormerV2Space) -> None:
    x = images(space)
    expected = net(x, space.smallest)
    copied = copy.deepcopy(net)
    for tensor in (*net.parameters(), *net.buffers()):
        tensor.zero_()
    assert torch.equal(copied(x, space.smallest), expected)
    in_double = copied.double()(x.double(), space.smallest).float()
    assert_equal_but_for_rounding(in_double, expected, copied.extract(space.smallest))


def test_drop_path_acts_only_in_training(space: EfficientFormerV2Space) -> None:
    net = shaken(Supernet(space, drop_path_rate=0.9))
    x = images(space)
    assert torch.equal(net(x, space.largest), net(x, space.largest))
    net.train()
    without = shaken(Supernet(space)).train()
    assert torch.equal(without(x, space.largest), without(x, space.largest))
    assert not torch.equal(net(x, space.largest), net(x, space.largest))


# ---- shared norms, frozen statistics, checkpointed activations


def test_shared_norms_are_sliced_like_everything_else(space: EfficientFormerV2Space) -> None:
    net = shaken(Supernet(space, norm="shared"))
    stored = net.state_dict()
    assert set(stored) == set(space.build(space.largest).state_dict())
    for arch in drawn(space, 1):
        for own, tensor in net.extract(arch).state_dict().items():
            name = stored_name(space, arch, own)
            torch.testing.assert_close(tensor, stored[name][tuple(slice(0, n) for n in tensor.shape)], rtol=0, atol=0)


def stored_name(space: EfficientFormerV2Space, arch: Arch, own: str) -> str:
    for block, prefix in space.module_names(arch).items():
        if prefix and own.startswith(f"{prefix}."):
            return block + own.removeprefix(prefix)
    return own  # the head's


@norms
def test_in_training_a_subnet_is_the_extracted_network(space: EfficientFormerV2Space, norm: Norm) -> None:
    net, x = shaken(Supernet(space, norm=norm)), images(space)
    for arch in drawn(space, 1):
        model = net.extract(arch)
        assert not torch.equal(net.train()(x, arch), net.eval()(x, arch))
        assert_equal_but_for_rounding(net.train()(x, arch), model.train()(x), model)


def changed(before: dict[str, Tensor], net: Supernet) -> set[str]:
    return {name for name, tensor in net.state_dict().items() if not torch.equal(tensor, before[name])}


def test_statistics_of_shared_norms_are_of_no_network_and_stay(space: EfficientFormerV2Space) -> None:
    net = Supernet(space, norm="shared").train()
    before = copy.deepcopy(net.state_dict())
    for arch in drawn(space, 2):
        net(images(space), arch).sum().backward()
    assert changed(before, net) == set()
    assert net.get_parameter("stages.0.blocks.0.mlp.fc1.bn.weight").grad is not None


def test_frozen_statistics_stay_and_nothing_else_differs(net: Supernet, space: EfficientFormerV2Space) -> None:
    net.train()
    before = copy.deepcopy(net.state_dict())
    with net.frozen_statistics():
        frozen = net(images(space), space.largest)
    assert changed(before, net) == set()
    assert torch.equal(frozen, net(images(space), space.largest))
    assert {name.rpartition(".")[2] for name in changed(before, net)} == {
        "running_mean",
        "running_var",
        "num_batches_tracked",
    }


@pytest.mark.parametrize(("norm", "bf16"), [("width", False), ("shared", True)])
def test_checkpointed_activations_change_no_gradient_and_no_statistic(
    space: EfficientFormerV2Space, norm: Norm, bf16: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    archs, calls = drawn(space, 1), 0
    run_block = Supernet.run_block

    def counting(self: Supernet, block: BlockSpec, x: Tensor, slices: Sequence[Tensor]) -> Tensor:
        nonlocal calls
        calls += 1
        return run_block(self, block, x, slices)

    monkeypatch.setattr(Supernet, "run_block", counting)
    found, num_calls = [], []
    for again in (False, True):
        torch.manual_seed(0)
        net, calls = shaken(Supernet(space, 0.5, norm, checkpoint_activations=again)).train(), 0
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            for arch in archs:
                F.cross_entropy(net(images(space), arch), torch.tensor([0, 1, 2])).backward()
        gradients = {f"{name}.grad": p.grad for name, p in net.named_parameters() if p.grad is not None}
        found.append({**gradients, **net.state_dict()})
        num_calls.append(calls)
    assert num_calls[1] == 2 * num_calls[0]
    assert found[0].keys() == found[1].keys()
    assert [name for name, tensor in found[0].items() if not torch.equal(tensor, found[1][name])] == []


@pytest.mark.heavy
@torch.no_grad()
def test_published_networks_of_the_full_space() -> None:
    """S0 as a slice of the full supernet is timm's S0, and takes the weights of a timm checkpoint."""
    space = get_space("efficientformerv2", image_size=64)
    net = shaken(Supernet(space))
    arch, x = space.published["s0"], images(space, 1)
    assert torch.equal(net(x, arch), net.extract(arch)(x))
    model = net.extract(arch)
    reference = timm.create_model("efficientformerv2_s0", img_size=64).eval()
    model.load_state_dict(reference.state_dict())
    assert torch.equal(model(x), reference(x))
