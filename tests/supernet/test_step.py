"""A training step: what adds up in the store, and who learns from whom."""

from __future__ import annotations

import copy
import random

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from search_spaces.efficientformerv2 import EfficientFormerV2Space
from supernet import SAMPLERS, Supernet, train_step
from supernet.losses import soft_cross_entropy
from tests.contracts.supernet import drawn, shaken
from tests.supernet.test_store import images, tiny_space

TARGET = torch.tensor([0, 1, 2, 3])


@pytest.fixture(scope="module")
def space() -> EfficientFormerV2Space:
    return tiny_space()


@pytest.fixture
def net(space: EfficientFormerV2Space) -> Supernet:
    return shaken(Supernet(space)).train()


def test_sandwich_adds_the_gradients_of_every_arch(net: Supernet, space: EfficientFormerV2Space) -> None:
    x, target = images(space, 4), TARGET
    archs = SAMPLERS["sandwich"](space, 2)(random.Random(0), lambda arch: 0.0)
    assert archs[:2] == (space.largest, space.smallest) and len(archs) == 4
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


def test_without_distillation_all_learn_from_the_labels(net: Supernet, space: EfficientFormerV2Space) -> None:
    x, archs = images(space, 4), drawn(space, 1)
    state = copy.deepcopy(net.state_dict())
    given: list[Tensor] = []
    losses = train_step(net, x, TARGET, archs, F.cross_entropy, backward=given.append)
    assert torch.equal(torch.stack(given).detach(), losses) and not losses.requires_grad
    assert all(p.grad is None for p in net.parameters()), "backward is the caller's"
    net.load_state_dict(state)
    for arch, loss in zip(archs, losses, strict=True):
        assert F.cross_entropy(net(x, arch), TARGET).item() == loss.item()


def test_a_loss_that_is_not_finite_names_its_network(net: Supernet, space: EfficientFormerV2Space) -> None:
    archs = (space.smallest, space.largest)
    with torch.no_grad():  # a weight that only the largest has
        net.get_parameter("stages.3.blocks.1.mlp.fc1.conv.weight").fill_(torch.inf)
    with pytest.raises(FloatingPointError, match=r"^the loss of largest is nan$"):
        train_step(net, images(space, 4), TARGET, archs, F.cross_entropy)
