"""The recipe `progressive`: growing images, stochastic gradient descent, a weight decay that decays."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from nas.data import Images
from nas.training.optimization import Optimization
from nas.training.recipe import TrainConfig, check_fits, with_recipe
from nas.training.trainer import Trainer
from search_spaces import SPACES, UserError, get_space
from tests.nas.training.test_trainer import equal, images, state, task_of

__all__ = ["images"]  # a fixture

PUBLISHED = with_recipe(TrainConfig(), 224, "imagenet", 10, "progressive")
SMALL = TrainConfig(
    recipe="progressive", progressive=True, optimizer="sgd", epochs=4, batch_size=4, lr=10.0, weight_decay=0.1,
    weight_decay_end=0.01, warmup_epochs=0.0, clip_grad=0.0, amp="off", checkpoint_seconds=0,
)  # fmt: skip


def test_it_is_as_published() -> None:
    """MobileOne, Appendix C.1: SGD at 0.1 for a batch of 256, weight decay from 1e-4 to 1e-5, EMA, label smoothing."""
    optimization = Optimization(nn.Conv2d(3, 3, 3), PUBLISHED, 3000, 10)
    group = optimization.optimizer.param_groups[0]
    assert isinstance(optimization.optimizer, torch.optim.SGD)
    assert (group["lr"], group["momentum"], group["nesterov"]) == (pytest.approx(0.1), 0.9, False)
    assert (PUBLISHED.epochs, PUBLISHED.batch_size, PUBLISHED.ema_decay) == (300, 256, 0.9995)
    assert (PUBLISHED.label_smoothing, PUBLISHED.augment) == (0.1, "randaugment")


def test_sizes_and_strengths_are_those_of_table_10() -> None:
    steps = {epoch: PUBLISHED.at_epoch(epoch, 224) for epoch in (0, 38, 39, 113, 114, 299)}
    assert steps == {0: (160, 0.3), 38: (160, 0.3), 39: (192, 0.6), 113: (192, 0.6), 114: (224, 1.0), 299: (224, 1.0)}
    assert replace(PUBLISHED, progressive=False).at_epoch(0, 224) == (224, 1.0)
    assert replace(PUBLISHED, epochs=10).at_epoch(0, 32) == (24, 0.3)


def test_weight_decay_falls_by_a_cosine_for_weights_alone() -> None:
    optimization = Optimization(nn.Conv2d(3, 3, 3), replace(SMALL, lr=1.0), 100, 10)
    found: list[list[float]] = []
    for step in (0, 50, 100):
        optimization.begin_step(step)
        found.append(sorted(group["weight_decay"] for group in optimization.optimizer.param_groups))
    assert found == [[0, pytest.approx(0.1)], [0, pytest.approx(0.055)], [0, pytest.approx(0.01)]]


def recorder(images: Images, config: TrainConfig, seen: list[tuple[int, int]]) -> Callable[..., Trainer]:
    """Makes trainers in a folder that note how many images of which size each step has, and stop at a step."""

    def make(folder: Path, stop: int | None = None) -> Trainer:
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)
        )

        def step(x: Tensor, target: Tensor, number: int, criterion: object, backward: object) -> Tensor:
            if number == stop:
                raise KeyboardInterrupt
            seen.append((len(x), x.shape[-1]))
            loss = criterion(model(x), target)  # type: ignore[operator]
            backward(loss)  # type: ignore[operator]
            return torch.as_tensor(loss).detach()

        return Trainer(model, task_of(images, config, 32), config, folder, step, lambda ema: {"accuracy": 0.5})

    return make


def check_resuming(make: Callable[..., Trainer], folder: Path, stop: int, whole: Trainer) -> None:
    """Stopped at a step and resumed, a training equals the whole one."""
    with pytest.raises(KeyboardInterrupt):
        make(folder, stop=stop).fit("")
    resumed = make(folder)
    resumed.resume()
    resumed.fit("")
    assert equal(state(resumed), state(whole))


def test_images_grow_and_a_resumed_run_equals_an_uninterrupted_one(tmp_path: Path, images: Images) -> None:
    seen: list[tuple[int, int]] = []
    make = recorder(images, SMALL, seen)
    whole = make(tmp_path / "whole")
    whole.fit("")
    assert [size for _, size in seen] == [24] * 10 + [32] * 10  # 5/7 and 6/7 of 32 px are both nearest to 24
    check_resuming(make, tmp_path / "r", 7, whole)


@pytest.mark.parametrize("name", SPACES)
def test_every_space_names_a_recipe_that_its_networks_can_be_trained_by(name: str) -> None:
    space = get_space(name)
    config = with_recipe(TrainConfig(), space.image_size, "images", 10, space.recipe)
    assert config.recipe == space.recipe
    check_fits(config, space)
    if space.any_size:
        x = torch.zeros(1, space.in_chans, *2 * [space.image_size // 8 * 6])
        assert space.build(space.smallest).eval()(x).shape == (1, space.num_classes)
    else:
        with pytest.raises(UserError, match=rf"--progressive trains .* networks of {name} take {space.image_size} px"):
            check_fits(replace(config, progressive=True), space)
