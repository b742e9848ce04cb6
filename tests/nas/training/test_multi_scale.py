"""Steps on images of several sizes (`--multi-scale`)."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from torch import nn

from nas.data import Images
from nas.training.recipe import TrainConfig
from nas.training.trainer import Trainer
from search_spaces import UserError
from tests.nas.training.test_progressive import check_resuming, recorder
from tests.nas.training.test_trainer import images, task_of

__all__ = ["images"]  # a fixture

IMAGENET = TrainConfig(multi_scale=True, batch_size=128)
SMALL = TrainConfig(
    multi_scale=True, epochs=2, batch_size=8, lr=0.1, warmup_epochs=0.0, augment="light", amp="off",
    checkpoint_seconds=0,
)  # fmt: skip


def test_sizes_are_the_papers_and_steps_have_alike_many_pixels() -> None:
    """MobileViT, Section 4.1: 160 to 320 px around 256, each equally often."""
    steps = IMAGENET.steps(0, 1_281_167, 256)
    counts = Counter(step.size for step in steps)
    assert sorted(counts) == [160, 192, 256, 288, 320]
    assert max(counts.values()) - min(counts.values()) <= 1
    pixels = [step.size**2 * step.number for step in steps]
    assert max(step.number for step in steps) == 4 * 128 and max(pixels) / min(pixels) < 1.06
    assert sum(step.number for step in steps) <= 1_281_167


def test_epochs_differ_in_order_alone() -> None:
    first, second = (IMAGENET.steps(epoch, 20_000, 256) for epoch in (0, 1))
    assert first != second and sorted(first) == sorted(second)
    assert IMAGENET.steps(0, 20_000, 256) == first != replace(IMAGENET, seed=1).steps(0, 20_000, 256)
    assert IMAGENET.steps_per_epoch(20_000) == len(first)


def test_what_is_left_of_an_epoch_is_used() -> None:
    """1,000 images are fewer than the 1,344 of all sizes once: the largest are taken first."""
    steps = IMAGENET.steps(0, 1000, 256)
    assert sorted(step.size for step in steps) == [192, 256, 288, 320]


def test_a_batch_without_eighths_is_refused(tmp_path: Path, images: Images) -> None:
    with pytest.raises(UserError, match=r"--batch-size 4 has no eighths, which --multi-scale makes batches of; give 8"):
        replace(SMALL, batch_size=4).steps(0, 16, 32)
    odd = replace(SMALL, batch_size=12)
    with pytest.raises(UserError, match=r"--batch-size 12 .*adds eighths of a batch; give a multiple of 8,"):
        Trainer(nn.Linear(1, 1), task_of(images, odd, 32), odd, tmp_path, None, None)  # type: ignore[arg-type]


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path: Path, images: Images) -> None:
    seen: list[tuple[int, int]] = []
    make = recorder(images, SMALL, seen)
    whole = make(tmp_path / "whole")
    whole.fit("")
    assert set(seen) == {(8, 40), (10, 32)}  # 5/4 and 9/8 of 32 px, in multiples of 8
    check_resuming(make, tmp_path / "r", 2, whole)
