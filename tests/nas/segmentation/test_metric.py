from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import accuracy_score, confusion_matrix, jaccard_score
from torch import Tensor, nn

from nas.data.batches import normalize
from nas.scenes import MasksConfig, load_masks
from nas.scenes.batches import eval_scenes
from nas.segmentation import metric
from nas.segmentation.metric import PixelConfusion, class_map, confusion
from tests.nas.scenes.folders import HEIGHT, WIDTH, write_masks

CLASSES = 5


def random_maps(seed: int, held: int = CLASSES) -> tuple[Tensor, Tensor]:
    """Of several images: predicted classes, and masks, a fifth of which is ignored; `held` of the classes occur."""
    rng = torch.Generator().manual_seed(seed)
    predicted, mask = (torch.randint(0, held, (3, 20, 30), generator=rng) for _ in range(2))
    mask[torch.rand(mask.shape, generator=rng) < 0.2] = 255
    return predicted, mask.to(torch.uint8)


def added(*maps: tuple[Tensor, Tensor]) -> PixelConfusion:
    found = PixelConfusion(CLASSES)
    for predicted, mask in maps:
        for one in zip(predicted, mask, strict=True):
            found.add(*one)
    return found


@pytest.mark.parametrize("held", [CLASSES, 3])
def test_figures_are_those_of_scikit_learn(held: int) -> None:
    """Whose macro mean over the labels that occur is torchmetrics' too."""
    maps = [random_maps(seed, held) for seed in range(4)]
    predicted, mask = (torch.cat(part).flatten().numpy() for part in zip(*maps, strict=True))
    known = mask != 255
    truth, guess, labels = mask[known], predicted[known], range(held)
    found = added(*maps)
    assert np.array_equal(found.counts, confusion_matrix(truth, guess, labels=range(CLASSES)))
    assert found.iou[:held] == pytest.approx(jaccard_score(truth, guess, labels=labels, average=None))
    assert found.iou[held:] == [None] * (CLASSES - held)
    assert found.miou == pytest.approx(jaccard_score(truth, guess, labels=labels, average="macro"))
    assert found.pixel_accuracy == pytest.approx(accuracy_score(truth, guess))


def test_a_class_that_is_only_predicted_counts() -> None:
    found = PixelConfusion(2)
    found.add(torch.tensor([[0, 1]]), torch.tensor([[0, 0]], dtype=torch.uint8))
    assert found.iou == [0.5, 0.0] and found.miou == 0.25


def test_nothing_that_counts() -> None:
    found = PixelConfusion(2)
    found.add(torch.zeros(2, 2, dtype=torch.int64), torch.full((2, 2), 255, dtype=torch.uint8))
    assert (found.iou, found.miou, found.pixel_accuracy) == ([None, None], 0.0, 0.0)


@pytest.mark.parametrize("size", [(9, 11), (40, 23)])
def test_a_class_map_is_that_of_all_logits_resized(size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    logits = torch.randn(7, 16, 16, generator=torch.Generator().manual_seed(0))
    whole = F.interpolate(logits[None], size, mode="bilinear", align_corners=False)[0].argmax(dim=0)
    assert torch.equal(class_map(logits, size), whole)
    monkeypatch.setattr(metric, "MAX_NUMBERS", 2 * size[0] * size[1])
    assert torch.equal(class_map(logits, size), whole)


class _Bright(nn.Module):
    """Says class 1 where an image is bright, else 0, of three."""

    def forward(self, images: Tensor) -> Tensor:
        bright = images.mean(dim=1)
        return torch.stack([-bright, bright, torch.full_like(bright, -9)], dim=1)


def test_maps_are_compared_at_the_size_of_the_masks(tmp_path: Path) -> None:
    scenes = load_masks(MasksConfig(data=str(write_masks(tmp_path / "photos", 20)))).test
    found = confusion(_Bright(), scenes, 32, torch.device("cpu"))
    by_hand = PixelConfusion(3)
    for i in range(len(scenes)):
        ((images, _),) = eval_scenes(scenes.at(scenes.indices[i : i + 1]), 32, 1)
        logits = _Bright()(normalize(images, torch.device("cpu")))
        large = F.interpolate(logits, (HEIGHT, WIDTH), mode="bilinear", align_corners=False)
        by_hand.add(large[0].argmax(dim=0), torch.from_numpy(scenes.mask(i)))
    assert found.counts.sum() == len(scenes) * HEIGHT * WIDTH
    assert np.array_equal(found.counts, by_hand.counts) and np.count_nonzero(found.counts) > 3
