from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from nas.data import Images
from nas.data.batches import normalize
from nas.networks.inherit import calibration_batches, calibration_default, calibration_images, default_calibration
from search_spaces import UserError
from supernet import Supernet
from tests.nas.tiny import random_images, tiny_space
from tests.nas.unreadable import unreadable

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("count", "available", "sizes"),
    [(0, 600, []), (10, 600, [10]), (10, 7, [7]), (256, 600, [256]), (257, 600, [256]), (999, 600, [256, 256])],
)
def test_batches_weigh_alike(count: int, available: int, sizes: list[int]) -> None:
    assert [len(batch) for batch in calibration_batches(random_images(available, 8), 8, count, CPU)] == sizes


def test_batches_are_what_networks_are_evaluated_on() -> None:
    images = random_images(9, 8)
    (batch,) = calibration_batches(images, 8, 3, CPU)
    pixels = np.stack([np.asarray(images.image(i)) for i in (0, 4, 8)])
    assert torch.equal(batch, normalize(torch.from_numpy(pixels).permute(0, 3, 1, 2), CPU))


def test_a_corrupt_image_is_left_out() -> None:
    images = random_images(9, 8)
    broken = unreadable(images, 9, range(5, 6))
    (found,), (whole,) = (calibration_batches(each, 8, 9, CPU) for each in (broken, images))
    assert torch.equal(found, whole[[0, 1, 2, 3, 4, 6, 7, 8]])


@pytest.mark.parametrize(("pixels", "count", "batch"), [(64, 2048, 256), (224, 512, 64), (512, 256, 16)])
def test_larger_images_are_fewer(pixels: int, count: int, batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """So the activations of a block, of all images, are of about as many pixels as those of 2048 images of 128 px."""
    assert calibration_default(pixels) == count
    seen: list[int] = []

    def read(images: Images, image_size: int, batch_size: int, num_workers: int) -> Iterator[tuple[Tensor, Tensor]]:
        seen.append(batch_size)
        yield torch.zeros(2, 3, 8, 8, dtype=torch.uint8), torch.zeros(2)

    monkeypatch.setattr("nas.networks.inherit.eval_batches", read)
    calibration_batches(random_images(300, 8), pixels, 300, CPU)
    assert seen == [batch]


@pytest.mark.parametrize(
    ("count", "available", "sizes"),
    [(1, 600, [1]), (257, 600, [256, 1]), (500, 600, [256, 244]), (999, 600, [256, 256, 88])],
)
def test_ranges_are_of_exactly_so_many_images(count: int, available: int, sizes: list[int]) -> None:
    found = calibration_images(random_images(available, 8), 8, count, exact=True)
    assert [len(batch) for batch in found] == sizes


def test_one_image_has_no_variance() -> None:
    with pytest.raises(UserError, match="--calibration-images is 1, which has no variance; give at least 2"):
        calibration_batches(random_images(9, 8), 8, 1, CPU)


def test_shared_norms_alone_need_calibration() -> None:
    assert default_calibration(Supernet(tiny_space(), norm="width")) == 0
    assert default_calibration(Supernet(tiny_space(), norm="shared")) == 2048
