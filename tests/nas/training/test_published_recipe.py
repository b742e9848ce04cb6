"""Table 1 of EfficientFormerV2's supplement, item by item, in what nas.retrain builds by default for S0, S1, S2, L."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from timm.data import create_transform
from timm.data.auto_augment import RandAugment
from timm.layers import DropPath
from timm.loss import SoftTargetCrossEntropy
from timm.utils import dispatch_clip_grad
from torch import Tensor, nn
from torchvision.transforms import ColorJitter

from nas.data import Images
from nas.data.sources import Decoded, Skipped
from nas.training import trainer as loop
from nas.training.drop_path import drop_path_rate
from nas.training.network import fresh, make_trainer
from nas.training.recipe import TrainConfig, with_recipe
from nas.training.task import Classification
from nas.training.trainer import Trainer
from nas.training.winner import Config, Job
from nas.training.winners import configure
from search_spaces import SPACES, SearchSpace, get_space, macs
from search_spaces.command import settings
from search_spaces.command.files import read_json, write_json
from tests.nas.synthetic_run import add_supernet, make_run
from tests.nas.tiny import tiny_space

DROP_PATH = {"s0": 0.0, "s1": 0.0, "s2": 0.02, "l": 0.1}
STEPS_PER_EPOCH = 10


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Job]:
    """What `nas.retrain --archs` would train, with no other flag."""
    folder = tmp_path_factory.mktemp("published")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return jobs_of("efficientformerv2", 224, *DROP_PATH)


@pytest.fixture(scope="module")
def space() -> SearchSpace:
    return get_space("efficientformerv2", 224, 1000)


def jobs_of(space_name: str, image_size: int, *names: str) -> dict[str, Job]:
    """Of these networks of a space, in a new run on a folder of images."""
    run = Path("runs") / space_name
    space = make_run(run, image_size, [str(i) for i in range(1000)], space_name)
    write_json(run / "run.json", {**read_json(run / "run.json"), "data": {"data": "imagenet"}})
    add_supernet(run)
    write_json(Path("archs.json"), [{"name": n, "arch": space.to_json(space.named[n])} for n in names])
    _, _, found = configure(settings(Config, archs="archs.json", run=run.name))
    return {job.folder.name: job for job in found}


def images(count: int) -> Images:
    """Of one image, again and again."""
    labels = np.zeros(1, dtype=np.int64)
    source = Decoded((np.zeros((256, 256, 3), dtype=np.uint8),), labels, ("a", "b"), "")
    return Images(source, np.zeros(count, dtype=np.int64), np.zeros(count, dtype=np.int64), Skipped(strict=False))


def trainer_of(config: Config, folder: Path, model: nn.Module, num_classes: int = 1000) -> Trainer:
    train = images(STEPS_PER_EPOCH * config.batch_size)
    data: Any = type("Data", (), {"train": train, "search": train, "classes": ("",) * num_classes})
    return make_trainer(config, folder, 224, data, model)


class Tiny(nn.Module):
    """For what does not depend on the network."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 2, 7, 32), nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.conv(x).mean((2, 3)))


@pytest.fixture
def trainer(jobs: dict[str, Job], tmp_path: Path) -> Trainer:
    return trainer_of(jobs["l"].config, tmp_path, Tiny(), 2)


def test_all_networks_have_one_recipe(jobs: dict[str, Job]) -> None:
    assert len(jobs) == 4 and len({job.config for job in jobs.values()}) == 1


@pytest.mark.parametrize("name", DROP_PATH)
def test_drop_path(name: str, jobs: dict[str, Job], space: SearchSpace) -> None:
    """[0, 0, 0.02, 0.1], rising linearly from the first block to the last."""
    arch = space.published[name]
    with torch.device("meta"):
        model: Any = fresh(jobs[name].config, space, arch)
    blocks = [block for stage in model.stages for block in stage.blocks]
    expected = np.linspace(0, DROP_PATH[name], len(blocks))
    for block, rate in zip(blocks, expected, strict=True):
        layers = [m for m in (getattr(block, "drop_path1", None), block.drop_path2) if isinstance(m, DropPath)]
        assert all(layer.drop_prob == pytest.approx(rate, rel=1e-5) for layer in layers)
        assert bool(layers) == (rate > 0)


def test_optimizer_learning_rate_and_weight_decay(trainer: Trainer) -> None:
    optimizer, config = trainer.optimizer, trainer.config
    assert type(optimizer) is torch.optim.AdamW
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.0, 0.025}
    assert (trainer.epochs, trainer.total) == (300, 300 * STEPS_PER_EPOCH)
    peak, warmup = 1e-3 * config.batch_size / 1024, 5 * STEPS_PER_EPOCH

    def lr(step: int) -> float:
        trainer.optimization.begin_step(step)
        (found,) = {group["lr"] for group in optimizer.param_groups}
        return float(found)

    assert lr(0) == pytest.approx(peak / 100), "1e-5 at a batch of 1024, as released"
    assert lr(warmup // 2) == pytest.approx(peak * (0.01 + 0.99 / 2))
    for step in (warmup, 1000, 2999):
        cosine = (1 + math.cos(math.pi * step / trainer.total)) / 2
        assert lr(step) == pytest.approx(peak * (0.01 + 0.99 * cosine))


def learned(trainer: Trainer) -> Classification:
    assert isinstance(trainer.task, Classification)
    return trainer.task


def test_augmentation_of_images_is_that_of_the_released_code(trainer: Trainer) -> None:
    """RandAugment (9, 0.5); of the colour jitter of 0.4 nothing is left beside it, as in timm."""
    ours = learned(trainer).transform(0, 224).transforms
    released = create_transform(
        224, is_training=True, color_jitter=0.4, auto_augment="rand-m9-mstd0.5-inc1", interpolation="bicubic",
        re_prob=0.25, re_mode="pixel", re_count=1,
    ).transforms  # fmt: skip
    *same, _, _ = [type(part) for part in released if type(part).__name__ != "RandomErasing"]
    assert [type(part) for part in ours[:-1]] == same and ColorJitter not in same
    assert (ours[0].scale, ours[0].ratio, ours[1].p) == (released[0].scale, released[0].ratio, released[1].p)
    (augment,), (theirs,) = ([part for part in parts if isinstance(part, RandAugment)] for parts in (ours, released))
    assert [str(op) for op in augment.ops] == [str(op) for op in theirs.ops]
    assert augment.num_layers == theirs.num_layers == 2
    assert {(op.magnitude, op.magnitude_std) for op in augment.ops} == {(9, 0.5)}


def test_augmentation_of_batches(trainer: Trainer) -> None:
    task = learned(trainer)
    erase, mixup = task.erase, task.mixup
    assert erase is not None and mixup is not None
    assert (erase.probability, erase.rand_color, erase.per_pixel, erase.max_count) == (0.25, False, True, 1)
    assert (mixup.mixup_alpha, mixup.cutmix_alpha, mixup.mix_prob, mixup.switch_prob) == (0.8, 1.0, 1.0, 0.5)
    assert (mixup.label_smoothing, mixup.mode) == (0.1, "batch")
    assert isinstance(task.criterion, SoftTargetCrossEntropy)


def test_gradients_are_clipped_adaptively(
    jobs: dict[str, Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[tuple[float, str]] = []

    def clip(parameters: Any, value: float, mode: str) -> None:
        given.append((value, mode))
        dispatch_clip_grad(parameters, value, mode=mode)

    monkeypatch.setattr(loop, "dispatch_clip_grad", clip)
    trainer = trainer_of(replace(jobs["s0"].config, batch_size=2, amp="off"), tmp_path, Tiny(), 2)
    next(trainer.steps())
    assert given == [(0.01, "agc")]


def test_moving_average(trainer: Trainer) -> None:
    assert trainer.ema.decay == 0.99996
    assert trainer.ema.get_decay(10**7) == 0.99996
    assert trainer.ema.get_decay(100) < 0.97, "a short training is not the average of its beginning"


# ---- drop path of other networks


def rates(space: SearchSpace, config: Config) -> dict[str, float]:
    return {name: drop_path_rate(config, space, arch) for name, arch in space.named.items()}


def test_drop_path_lies_between_the_published_by_macs(jobs: dict[str, Job], space: SearchSpace) -> None:
    config, (low, high) = jobs["s0"].config, (macs(space, space.published[name]) for name in ("s2", "l"))
    assert rates(space, config) == {"smallest": 0.0, **DROP_PATH, "largest": 0.1}
    arch = space.from_json({**space.to_json(space.published["l"]), "width": [40, 80, 192, 288]})
    expected = 0.02 + 0.08 * (macs(space, arch) - low) / (high - low)
    assert 0.02 < drop_path_rate(config, space, arch) < 0.1
    assert drop_path_rate(config, space, arch) == pytest.approx(expected)
    assert drop_path_rate(replace(config, drop_path=0.3), space, arch) == 0.3


@pytest.mark.parametrize("image_size", [128, 256])
def test_drop_path_does_not_depend_on_the_image_size(image_size: int, jobs: dict[str, Job]) -> None:
    found = rates(get_space("efficientformerv2", image_size, 10), jobs["s0"].config)
    assert found == {"smallest": 0.0, **DROP_PATH, "largest": 0.1}


def test_other_recipes_drop_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(SPACES, "tiny", tiny_space)
    for name, image_size in (("mobileone", 224), ("tiny", 16)):
        config = jobs_of(name, image_size, "largest")["largest"].config
        assert config.drop_path == 0.0 and config.ema_decay < 0.9999


def test_efficientvits_recipe_has_half_the_rate_and_its_own_clipping() -> None:
    """Liu et al. (CVPR 2023), Section 4.1, and the defaults of the released code."""
    recipe = with_recipe(TrainConfig(), 224, "imagenet", 10, get_space("efficientvit").recipe)
    assert recipe.recipe == "adamw-half"
    assert recipe.lr * 2048 / 1024 == 1e-3
    assert (recipe.optimizer, recipe.epochs, recipe.weight_decay, recipe.ema_decay) == ("adamw", 300, 0.025, 0.99996)
    assert (recipe.clip_mode, recipe.clip_grad, recipe.drop_path) == ("agc", 0.02, 0.0)
    assert recipe.label_smoothing == 0.1 and recipe.augment in ("auto", "published")
