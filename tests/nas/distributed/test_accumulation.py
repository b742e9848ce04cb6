from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nas.data import Images
from nas.data.batches import normalize, seed_all
from nas.distributed.accumulation import Parts
from search_spaces import UserError
from tests.nas.training.test_trainer import CONFIG, CPU, images, make, replace, small_model

__all__ = ["images"]  # a fixture


def test_gradients_and_statistics_are_means_over_the_parts(tmp_path: Path, images: Images) -> None:
    """By hand: each part through the network as it was, by itself."""
    trainer = make(tmp_path, images, replace(CONFIG, accumulation_steps=2, clip_grad=0.0, weight_decay=0.0))
    pixels, labels = torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8), torch.tensor([0, 1, 2, 0])
    gradients: list[dict[str, Tensor]] = []
    statistics: list[dict[str, Tensor]] = []
    for x, y in zip(pixels.chunk(2), labels.chunk(2), strict=True):
        model = small_model().to(memory_format=torch.channels_last)
        trainer.task.criterion(model(normalize(x, CPU)), y).backward()
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
        statistics.append(dict(model.named_buffers()))

    stepped: dict[str, Tensor] = {}
    step = trainer.optimizer.step

    def record(*_: Any) -> None:
        stepped.update({n: p.grad.clone() for n, p in trainer.model.named_parameters() if p.grad is not None})
        step()

    trainer.optimizer.step = record
    trainer._one(pixels, labels)
    for name, gradient in stepped.items():
        torch.testing.assert_close(gradient, (gradients[0][name] + gradients[1][name]) / 2)
    for name, buffer in trainer.model.named_buffers():
        if buffer.is_floating_point():
            torch.testing.assert_close(buffer, (statistics[0][name] + statistics[1][name]) / 2)
        else:
            assert buffer == 1


def test_one_part_draws_what_a_step_drew_before_there_were_parts() -> None:
    drawn = []
    for parts in ((3, 5), (3, 5, 0), (3, 5, 1)):
        seed_all(*parts)
        drawn.append(torch.rand(3))
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])


def test_all_parts_decide_as_the_first() -> None:
    parts = Parts(nn.Linear(1, 1), 6, 3, multiple=1)
    for _ in range(2):
        decided = []
        for number, x, _ in parts.each(torch.arange(6), torch.arange(6)):
            first = float(x[0])  # another image in each part
            decided.append((number, parts.decide(lambda f=first: f), parts.decide(lambda f=first: f + 10)))  # type: ignore[misc]
        assert decided == [(0, 0.0, 10.0), (1, 0.0, 10.0), (2, 0.0, 10.0)]
    assert parts.decide(lambda: 7.0) == 7.0, "outside of a step everyone is alone"


def test_every_part_has_its_images(tmp_path: Path, images: Images) -> None:
    found: list[tuple[int, list[int]]] = []
    parts = Parts(nn.Linear(1, 1), 6, 2, multiple=1)
    for number, x, y in parts.each(torch.arange(6), torch.arange(6) + 1):
        assert torch.equal(x + 1, y)
        found.append((number, x.tolist()))
    assert found == [(0, [0, 1, 2]), (1, [3, 4, 5])]


@pytest.mark.parametrize(
    ("batch_size", "accumulation_steps", "augment", "message"),
    [
        (10, 3, "none", "--batch-size 10 does not make 3 equal parts .*: 1 × 3.*; give a multiple"),
        (4, 4, "none", "give a multiple of 4, such as 8"),
        (10, 4, "none", "give a multiple of 4, such as 8"),
        (6, 2, "published", "does not make 2 equal parts .*mixup pairs images; give a multiple of 4, such as 4"),
    ],
)
def test_a_batch_that_cannot_be_split(
    tmp_path: Path, images: Images, batch_size: int, accumulation_steps: int, augment: Any, message: str
) -> None:
    config = replace(CONFIG, batch_size=batch_size, accumulation_steps=accumulation_steps, augment=augment)
    with pytest.raises(UserError, match=message):
        make(tmp_path, images, config)
