from __future__ import annotations

from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from nas.data.splits import IMAGENET
from nas.evaluation.accuracy import accuracy, right_answers, warn_near_chance


class Brightness(nn.Module):
    """Class 1 for images that are brighter than the mean of all photos, else class 0."""

    def forward(self, images: Tensor) -> Tensor:
        return torch.stack([torch.zeros(len(images)), images.mean(dim=(1, 2, 3))], dim=1)


class Photos:
    normalization = IMAGENET

    def __len__(self) -> int:
        return 6


class Never(nn.Module):
    """Always class 2."""

    def forward(self, images: Tensor) -> Tensor:
        return torch.eye(3)[2].expand(len(images), 3)


def test_corrupt_images_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    def batches(*_: Any) -> Any:
        images = torch.tensor([255, 0, 255], dtype=torch.uint8).view(3, 1, 1, 1).expand(3, 3, 4, 4)
        for labels in ([1, 0, -1], [0, 0, -1]):
            yield images, torch.tensor(labels)

    monkeypatch.setattr("nas.evaluation.accuracy.eval_batches", batches)
    data, cpu = cast(Any, Photos()), torch.device("cpu")
    assert accuracy(Brightness(), data, 4, cpu) == 3 / 4
    answers = right_answers([Brightness(), Never()], data, 4, cpu)
    assert answers.tolist() == [[True, True, False, True], [False] * 4]


def test_no_images_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nas.evaluation.accuracy.eval_batches", lambda *_: iter(()))
    assert accuracy(Brightness(), cast(Any, None), 4, torch.device("cpu")) == 0.0


@pytest.mark.parametrize(
    ("found", "num_classes", "warned"),
    [(0.0, 2, True), (0.5, 2, True), (0.9, 2, False), (0.1, 10, True), (0.3, 10, False), (0.004, 1000, True)],
)
def test_what_classes_in_another_order_do_is_warned_of(
    found: float, num_classes: int, warned: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    warn_near_chance("net", found, 400, num_classes, "give --classes FILE")
    assert ("warning: net is right for" in (said := capsys.readouterr().err)) is warned
    assert ("give --classes FILE" in said) is warned
