"""A training step: what adds up in the store, and who learns from whom."""

from __future__ import annotations

import copy
import random
from typing import Any

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


# ---- two classifiers


def test_in_distilled_training_a_network_has_the_logits_that_it_has_alone(
    net: Supernet, space: EfficientFormerV2Space
) -> None:
    x = images(space, 4)
    net.set_distilled_training()
    for arch in drawn(space, 2):
        alone: Any = net.extract(arch).train()
        alone.set_distilled_training(True)
        for found, expected in zip(net(x, arch), alone(x), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
        assert isinstance(net.eval()(x, arch), Tensor)
        net.train().set_distilled_training(False)
        assert isinstance(net(x, arch), Tensor)
        net.set_distilled_training()


@pytest.mark.parametrize("again", [False, True])
def test_each_classifier_learns_from_the_largest_networks_own(space: EfficientFormerV2Space, again: bool) -> None:
    """As the largest's first learns from the labels and its second from a teacher."""
    net = shaken(Supernet(space, checkpoint_activations=again)).train()
    net.set_distilled_training()
    x, seen = images(space, 4), []

    def criterion(logits: tuple[Tensor, Tensor], target: Tensor) -> Tensor:
        seen.append(logits)
        return F.cross_entropy(logits[0], target) + logits[1].square().mean()

    state = copy.deepcopy(net.state_dict())
    losses = train_step(net, x, TARGET, (space.largest, space.smallest), criterion, soft_cross_entropy)
    weights: dict[str, Any] = dict(net.named_parameters())
    assert not torch.equal(weights["head.weight"].grad, weights["head_dist.weight"].grad)
    net.load_state_dict(state)
    (theirs,), _ = seen, net(x, space.largest)
    own = net(x, space.smallest)
    first, second = (soft_cross_entropy(mine, teacher.detach()) for mine, teacher in zip(own, theirs, strict=True))
    torch.testing.assert_close(losses[1], ((first + second) / 2).detach())
