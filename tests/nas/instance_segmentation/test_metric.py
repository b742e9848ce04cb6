"""AP of masks and of boxes is pycocotools', on whatever is found; masks are compared in an image's own pixels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchvision.models.detection import roi_heads
from torchvision.models.detection.roi_heads import paste_masks_in_image
from torchvision.ops import clip_boxes_to_image

from nas.detection.metric import By, Seen, located
from nas.instance_segmentation.kind import Instances
from nas.instance_segmentation.metric import figures, outlined, seen
from nas.scenes.run_lengths import packed, unpacked
from tests.nas.detection.peer import pycocotools

SIDE = 120
NAMES = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")


def ellipse(left: float, top: float, width: float, height: float) -> np.ndarray:
    rows, columns = np.mgrid[:SIDE, :SIDE] + 0.5
    found: np.ndarray = ((columns - left) / width - 0.5) ** 2 + ((rows - top) / height - 0.5) ** 2 <= 0.25
    return found


def shape(bbox: list[float], label: int, **more: Any) -> dict[str, Any]:
    mask = ellipse(*bbox)
    return {
        "bbox": bbox,
        "category_id": label,
        "area": float(mask.sum()),
        "segmentation": packed(mask[None])[0],
        **more,
    }


def random_images(seed: int, count: int = 10, classes: int = 3) -> list[Seen]:
    """Ellipses of all sizes, of which some are crowds, others near them or anywhere; class 2 has no object."""
    rng = np.random.default_rng(seed)
    images: list[Seen] = []
    for _ in range(count):
        sides = np.exp(rng.uniform(np.log(12), np.log(110), (rng.integers(0, 6), 2)))
        objects = [
            shape([*p, *s], int(rng.integers(classes - 1)), iscrowd=int(rng.random() < 0.15))
            for p, s in zip(rng.uniform(0, SIDE - sides).tolist(), sides.tolist(), strict=True)
        ]
        found = []
        for one in objects:
            for _ in range(rng.integers(0, 4)):
                near = np.array(one["bbox"]) + rng.normal(0, 0.08, 4) * max(one["bbox"][2:])
                label = one["category_id"] if rng.random() < 0.8 else int(rng.integers(classes))
                other = shape(near.clip(2).tolist(), label, score=round(float(rng.random()), 2))
                found.append({**other, "area": other["bbox"][2] * other["bbox"][3]})
        images.append({"size": [SIDE, SIDE], "objects": objects, "found": found})
    return images


@pytest.mark.parametrize("seed", range(3))
def test_figures_are_those_of_pycocotools(seed: int, tmp_path: Path) -> None:
    images = random_images(seed)
    found = figures(images, 3)
    by: By
    for of, by in ((found, "segm"), (found["boxes"], "bbox")):
        expected = pycocotools(images, 3, tmp_path, by)
        values = dict(of)
        reached = [-1 if values[name] is None else values[name] for name in NAMES]
        assert reached == pytest.approx(expected.stats[:6].tolist(), abs=1e-12)
        assert of["recall"] == pytest.approx(expected.stats[8], abs=1e-12)
        precision = expected.eval["precision"][..., 0, 2]
        for i, one in enumerate(of["per_class"][:2]):
            assert one["ap"] == pytest.approx(precision[:, :, i].mean(), abs=1e-12)
    assert 0 < found["ap"] < found["ap50"] < 1 and found["ap"] != found["boxes"]["ap"]


def test_what_overlaps_is_the_mask() -> None:
    """Two halves of one box have no pixel in common."""
    left, right = (np.zeros((SIDE, SIDE), dtype=np.uint8) for _ in range(2))
    left[10:50, 10:30], right[10:50, 30:50] = 1, 1
    box = {"bbox": [10, 10, 40, 40], "category_id": 0, "area": 800.0}
    there = {**box, "segmentation": packed(left[None])[0], "iscrowd": 0}
    found = {**box, "segmentation": packed(right[None])[0], "score": 0.9}
    images: list[Seen] = [{"size": [SIDE, SIDE], "objects": [there], "found": [found]}]
    of = figures(images, 1)
    assert (of["ap"], of["confusion"]) == (0, [[0, 1], [1, 0]])
    assert of["boxes"]["ap"] == pytest.approx(1) and of["boxes"]["confusion"] == [[1, 0], [0, 0]]
    assert located(images, 1, "segm").objects.tolist() == [1] and located(images, 1).objects.tolist() == [0]


def test_masks_are_in_pixels_of_the_image_as_it_was() -> None:
    """A mask that is full in the left half of its box, on an image of 32 x 128 pixels that was seen as 64 x 64."""
    mask = torch.zeros(1, 28, 28)
    mask[:, :, :14] = 1
    target: Any = {
        "boxes": torch.tensor([[16.0, 8.0, 32.0, 24.0]]),
        "labels": torch.tensor([1]),
        "iscrowd": torch.tensor([False]),
        "area": torch.tensor([77.0]),
        "size": torch.tensor([32, 128]),
        "masks": packed(np.ones((1, 32, 128))),
    }
    found = {
        "boxes": torch.tensor([[0.0, 0.0, 32.0, 64.0]]),
        "scores": torch.tensor([0.5]),
        "labels": torch.tensor([0]),
        "masks": mask,
    }
    one = seen(target, found, 64)
    assert one["objects"][0]["segmentation"] == target["masks"][0]
    pixels = unpacked([one["found"][0]["segmentation"]], (32, 128))[0]
    assert pixels[2:-2, 2:30].all() and not pixels[:, 34:].any()  # the border of a mask fades
    assert outlined(mask[:0], torch.zeros(0, 4), (32, 128)) == []


def test_outlines_are_torchvisions_and_take_their_time_by_the_box(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of boxes in the middle, over the edges, of the whole image and without a pixel; no array is the whole image's."""
    size = (40, 60)
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(200, 2, 2, generator=generator) * torch.tensor([80.0, 60.0]) - 10
    some = corners.sort(dim=1).values.flatten(1)
    edges = torch.tensor(
        [[0.0, 0, 60, 40], [60, 40, 60, 40], [0, 0, 0, 0], [0, 0, 60, 1], [20, 10, 20, 30], [-3, -2, 20, 9]]
    )
    boxes = torch.cat([edges, clip_boxes_to_image(some, size)])
    masks = torch.rand(len(boxes), 28, 28, generator=generator)
    masks[::3] = 1  # columns that go on in the next
    whole = [paste_masks_in_image(masks[i : i + 1, None], boxes[i : i + 1], size)[0, 0] for i in range(len(boxes))]
    expected = packed((torch.stack(whole) > 0.5).numpy())
    assert outlined(masks, boxes, size) == expected and len({one["counts"] for one in expected}) > 100
    pasted = list[int]()
    paste = roi_heads.paste_mask_in_image
    monkeypatch.setattr(roi_heads, "paste_mask_in_image", lambda *a: pasted.append(a[2] * a[3]) or paste(*a))  # type: ignore[func-returns-value]
    outlined(masks[:1], torch.tensor([[1000.0, 1000, 1100, 1100]]), (3000, 4000))
    assert pasted[0] < 150**2


def test_parts_of_the_images_have_the_ap_of_figures() -> None:
    images = random_images(5)
    whole, part = Instances().of_parts(images, 3, [range(len(images)), range(0, len(images), 2)])
    assert whole == pytest.approx(figures(images, 3)["ap"], abs=1e-12)
    assert part == pytest.approx(figures(images[::2], 3)["ap"], abs=1e-12)
