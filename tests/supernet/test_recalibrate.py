"""Running statistics measured for one network, against means and variances of what its norms see."""

from __future__ import annotations

import random
import weakref
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from search_spaces import Arch
from search_spaces.efficientformerv2 import EfficientFormerV2Space
from supernet import SAMPLERS, Supernet, measure_statistics, recalibrate, train_step
from tests.contracts.supernet import drawn, norms, shaken
from tests.rounding import assert_equal_but_for_rounding
from tests.supernet.test_store import images, tiny_space

Norms = dict[str, nn.BatchNorm2d]


@pytest.fixture(scope="module")
def space() -> EfficientFormerV2Space:
    return tiny_space()


def some_batches(space: EfficientFormerV2Space) -> tuple[Tensor, ...]:
    return images(space, 12).split(4)


def norms_of(model: nn.Module) -> Norms:
    return {name: part for name, part in model.named_modules() if isinstance(part, nn.BatchNorm2d)}


def plain_network(net: Supernet, arch: Arch) -> nn.Module:
    model = net.space.build(arch)
    model.load_state_dict(net.extract(arch).state_dict())
    return model.train()  # only norms and stochastic depth, which it has none of, behave otherwise


@norms
def test_statistics_are_those_of_a_plain_network_on_the_same_images(space: EfficientFormerV2Space, norm) -> None:
    net = shaken(Supernet(space, norm=norm))
    for arch in drawn(space, 1):
        model, seen = plain_network(net, arch), dict[str, list[Tensor]]()

        def record(name: str, part: nn.Module, inputs: tuple[Tensor, ...], seen=seen) -> None:
            seen.setdefault(name, []).append(inputs[0].transpose(0, 1).flatten(1))

        for name, part in norms_of(model).items():
            part.register_forward_pre_hook(partial(record, name))
        with torch.no_grad():
            outputs = [model(batch) for batch in some_batches(space)]
        found = net.extract(arch)
        for own, expected in zip(measure_statistics(found, some_batches(space)), outputs, strict=True):
            assert_equal_but_for_rounding(own, expected, model)
        for name, part in norms_of(found).items():
            means, variances = (torch.stack([f(x) for x in seen[name]]).mean(dim=0) for f in (_mean, _variance))
            assert part.running_mean is not None and part.running_var is not None
            assert_equal_but_for_rounding(part.running_mean, means, model)
            assert_equal_but_for_rounding(part.running_var, variances, model)


def _mean(x: Tensor) -> Tensor:
    return x.mean(dim=1)


def _variance(x: Tensor) -> Tensor:
    return x.var(dim=1)


def test_nothing_else_changes(space: EfficientFormerV2Space) -> None:
    net = shaken(Supernet(space))
    model = space.build(space.largest, drop_path_rate=0.9)
    model.load_state_dict(net.extract(space.largest).state_dict())
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.train()
    once = {name: t.clone() for name, t in recalibrate(model, some_batches(space)).state_dict().items()}
    changed = {name for name, tensor in once.items() if not torch.equal(tensor, before[name])}
    assert {name.rpartition(".")[2] for name in changed} == {"running_mean", "running_var", "num_batches_tracked"}
    assert not any(part.training for part in model.modules())
    assert all(part.momentum == 0.1 for part in norms_of(model).values())
    twice = recalibrate(model, some_batches(space)).state_dict()  # and not the mean of both
    assert all(torch.equal(tensor, twice[name]) for name, tensor in once.items())


def test_a_network_may_be_measured_in_parts(space: EfficientFormerV2Space) -> None:
    net, arch = shaken(Supernet(space)), space.sample(random.Random(1))
    model = recalibrate(net.extract(arch), some_batches(space))
    x = list(some_batches(space))
    blocks = [net.block_module(block) for block in space.lower(arch)]
    for block in blocks:
        x = measure_statistics(block, x)
    with torch.no_grad():
        assert torch.equal(nn.Sequential(*blocks)(images(space)), model(images(space)))


def test_slices_of_a_network_trained_alone_run_once_recalibrated(space: EfficientFormerV2Space) -> None:
    """As EagleEye judges the parts of a network that was trained without them."""
    torch.manual_seed(0)
    net = Supernet(space, norm="shared").train()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    sampler, target = SAMPLERS["largest"](space, 2), torch.arange(12) % 5
    for _ in range(5):
        optimizer.zero_grad()
        archs = sampler(random.Random(0), lambda arch: 0.0)
        train_step(net, images(space, 12), target, archs, F.cross_entropy)
        optimizer.step()
    with torch.no_grad():
        for arch in drawn(space, 1):
            raw, model = net.extract(arch), recalibrate(net.extract(arch), [images(space, 12)])
            expected = plain_network(net, arch)(images(space, 12))  # normalized by the same images
            assert (model(images(space, 12)) - expected).abs().max() < 0.1 * expected.abs().max()
            assert (raw(images(space, 12)) - expected).abs().max() > 0.3 * expected.abs().max()


def test_recalibrating_keeps_no_outputs() -> None:
    """Those of a segmenter are as large as its images."""
    alive: list[weakref.ref[Tensor]] = []

    class Spy(nn.BatchNorm2d):
        def forward(self, x: Tensor) -> Tensor:
            assert not [output for output in alive[:-1] if output() is not None]
            alive.append(weakref.ref(y := super().forward(x)))
            return y

    recalibrate(Spy(3), (torch.randn(2, 3, 4, 4) for _ in range(4)))
    assert len(alive) == 4
