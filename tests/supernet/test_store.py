"""The slicing rule: what a subnet computes, what it trains, and what it leaves alone."""

from __future__ import annotations

import copy
import random

import pytest
import timm
import torch
from timm.models.efficientformer_v2 import EfficientFormerV2
from torch import Tensor, nn
from torch.nn import functional as F

from search_spaces import Arch, SearchSpace, get_space
from search_spaces.efficientformerv2 import EfficientFormerV2Space
from supernet import SAMPLERS, Supernet, train_step
from supernet.losses import soft_cross_entropy


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


def shaken(net: Supernet) -> Supernet:
    """Every entry random, so that no part of a network hides behind its initial ones and zeros."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, tensor in net.state_dict().items():
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 2.0, generator=generator)
            elif tensor.is_floating_point():
                tensor.add_(torch.randn(tensor.shape, generator=generator) * 0.1)
    return net.eval()


def images(space: SearchSpace, count: int = 3) -> Tensor:
    size = space.image_size
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(2))


def some_archs(space: SearchSpace, count: int) -> list[Arch]:
    rng = random.Random(3)
    return [space.largest, space.smallest, *(space.sample(rng) for _ in range(count))]


@torch.no_grad()
def test_extracted_network_is_timms_and_computes_the_same(net: Supernet, space: EfficientFormerV2Space) -> None:
    x = images(space)
    outputs = []
    for arch in some_archs(space, 6):
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
    for arch in some_archs(space, 6):
        torch.testing.assert_close(net(x, arch), masked_largest(net, space, arch)(x), rtol=1e-4, atol=1e-5)


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
    torch.testing.assert_close(copied.double()(x.double(), space.smallest).float(), expected, rtol=1e-4, atol=1e-4)


def test_drop_path_acts_only_in_training(space: EfficientFormerV2Space) -> None:
    net = shaken(Supernet(space, drop_path_rate=0.9))
    x = images(space)
    assert torch.equal(net(x, space.largest), net(x, space.largest))
    net.train()
    without = shaken(Supernet(space)).train()
    assert torch.equal(without(x, space.largest), without(x, space.largest))
    assert not torch.equal(net(x, space.largest), net(x, space.largest))


def test_sandwich_adds_the_gradients_of_every_arch(net: Supernet, space: EfficientFormerV2Space) -> None:
    x, target = images(space, 4), torch.tensor([0, 1, 2, 3])
    archs = SAMPLERS["sandwich"](space, 2)(random.Random(0), lambda arch: 0.0)
    assert archs[:2] == (space.largest, space.smallest) and len(archs) == 4
    net.train()
    state = copy.deepcopy(net.state_dict())
    losses = train_step(net, x, target, archs, F.cross_entropy, soft_cross_entropy)
    together = {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}
    net.load_state_dict(state)
    net.zero_grad(set_to_none=True)
    logits = net(x, archs[0])
    F.cross_entropy(logits, target).backward()
    teacher = logits.detach().softmax(dim=1)
    for arch, loss in zip(archs[1:], losses[1:], strict=True):
        own = -(teacher * net(x, arch).log_softmax(dim=1)).sum(dim=1).mean()
        torch.testing.assert_close(own.detach(), loss)
        own.backward()
    for name, parameter in net.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(together[name], parameter.grad, rtol=1e-4, atol=1e-6)
    assert set(together) == {name for name, p in net.named_parameters() if p.grad is not None}


@pytest.mark.slow
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
