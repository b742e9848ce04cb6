"""AP is pycocotools', on whatever boxes; what it means, and what is taken for what, by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nas.detection import metric
from nas.detection.metric import Seen, average_precisions, figures, located, of_all_processes, seen
from tests.nas.detection.peer import pycocotools

NAMES = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")


def thing(box: tuple[float, ...], label: int, crowd: int = 0) -> dict[str, Any]:
    return {"bbox": list(box), "category_id": label, "area": box[2] * box[3], "iscrowd": crowd}


def box(box: tuple[float, ...], label: int, score: float) -> dict[str, Any]:
    return {"bbox": list(box), "category_id": label, "score": score, "area": box[2] * box[3]}


def image(objects: list[dict[str, Any]], found: list[dict[str, Any]]) -> Seen:
    return {"size": [200, 200], "objects": objects, "found": found}


A, B, C = (10, 10, 20, 20), (60, 60, 50, 50), (20, 120, 40, 30)


def random_images(seed: int, count: int = 12, classes: int = 4) -> list[Seen]:
    """Objects of all sizes, of which some are crowds, and boxes near them or anywhere; class 3 has none."""
    rng = np.random.default_rng(seed)
    images = []
    for _ in range(count):
        sides = np.exp(rng.uniform(np.log(8), np.log(150), (rng.integers(0, 7), 2)))
        places = rng.uniform(0, 200 - sides)
        labels = rng.integers(0, classes - 1, len(sides))
        objects = [
            thing((*p, *s), int(label), int(rng.random() < 0.15))
            for p, s, label in zip(places.tolist(), sides.tolist(), labels, strict=True)
        ]
        found = [
            box(
                tuple((np.array(one["bbox"]) + rng.normal(0, 0.1, 4) * max(one["bbox"][2:])).clip(1).tolist()),
                one["category_id"] if rng.random() < 0.8 else int(rng.integers(classes)),
                round(float(rng.random()), 2),  # many are equal
            )
            for one in objects
            for _ in range(rng.integers(0, 4))
        ]
        found += [box((*rng.uniform(0, 150, 2), 40, 30), int(rng.integers(classes)), 0.5) for _ in range(3)]
        images.append(image(objects, found))
    return images


@pytest.mark.parametrize("seed", range(3))
def test_figures_are_those_of_pycocotools(seed: int, tmp_path: Path) -> None:
    images = random_images(seed)
    found, expected = figures(images, 4), pycocotools(images, 4, tmp_path)
    assert [found[name] for name in NAMES] == pytest.approx(expected.stats[:6].tolist(), abs=1e-12)  # type: ignore[literal-required]
    assert 0 < found["ap"] < found["ap50"] < 1 and found["recall"] == pytest.approx(expected.stats[8], abs=1e-12)
    precision = expected.eval["precision"][..., 0, 2]
    for i, one in enumerate(found["per_class"][:3]):
        assert one["ap"] == pytest.approx(precision[:, :, i].mean(), abs=1e-12)
        assert one["precision"] == pytest.approx(precision[0, :, i].tolist(), abs=1e-12)
    assert found["per_class"][3] == {"objects": 0, "ap": None, "ap50": None, "precision": None}


def test_perfect_boxes() -> None:
    images = [image([thing(A, 0), thing(B, 1)], [box(A, 0, 0.9), box(B, 1, 0.8)]), image([], [])]
    found = figures(images, 2)
    assert found["ap"] == found["ap75"] == found["recall"] == found["f1"] == pytest.approx(1)
    assert found["ap_small"] == found["ap_medium"] == pytest.approx(1) and found["ap_large"] is None
    assert found["score"] == 0.8 and found["confusion"] == [[1, 0, 0], [0, 1, 0], [0, 0, 0]]
    assert (found["num_images"], found["num_objects"]) == (2, 2)


def test_nothing_found() -> None:
    found = figures([image([thing(A, 0)], [])], 1)
    assert (found["ap"], found["f1"], found["confusion"]) == (0, 0, [[0, 1], [0, 0]])


def test_a_shifted_box_counts_up_to_its_overlap() -> None:
    """An IoU of 0.6 is enough for three of the ten."""
    found = figures([image([thing((0, 0, 100, 100), 0)], [box((0, 0, 60, 100), 0, 0.9)])], 1)
    assert found["ap"] == pytest.approx(0.3) and found["ap50"] == pytest.approx(1) and found["ap75"] == 0


def test_what_is_found_in_a_crowd_does_not_count() -> None:
    crowd = thing((100, 100, 100, 100), 0, crowd=1)
    found = figures([image([thing(A, 0), crowd], [box(A, 0, 0.5), box((110, 110, 20, 20), 0, 0.9)])], 1)
    assert found["ap"] == pytest.approx(1) and found["num_objects"] == 1 and found["confusion"] == [[1, 0], [0, 0]]


def test_confusion_is_of_place_before_class() -> None:
    """A box of another class takes the object; a second one on it, and one beside, are on none; one object is left."""
    boxes = [box(A, 1, 0.9), box(A, 0, 0.8), box((150, 10, 30, 30), 1, 0.7), box(C, 1, 0.6), box(C, 1, 0.05)]
    images = [image([thing(A, 0), thing(B, 0), thing(C, 1)], boxes)]
    where = located(images, 2)
    assert where.objects.tolist() == [0, 2, 2, 1, 2] and where.classes.tolist() == [1, 0, 1, 1, 1]
    assert figures(images, 2)["score"] == 0.6
    assert figures(images, 2)["confusion"] == [[0, 1, 1], [0, 1, 0], [1, 1, 0]]


def test_boxes_are_in_pixels_of_the_image_as_it_was() -> None:
    target: Any = {
        "boxes": torch.tensor([[16.0, 8.0, 32.0, 24.0]]),
        "labels": torch.tensor([1]),
        "iscrowd": torch.tensor([False]),
        "area": torch.tensor([77.0]),
        "size": torch.tensor([32, 128]),  # height, width
    }
    found = {
        "boxes": torch.tensor([[0.0, 0.0, 64.0, 32.0]]),
        "scores": torch.tensor([0.5]),
        "labels": torch.tensor([0]),
    }
    one = seen(target, found, 64)
    assert one["objects"] == [{"bbox": [32, 4, 32, 8], "category_id": 1, "area": 77, "iscrowd": 0}]
    assert one["found"] == [{"bbox": [0, 0, 128, 16], "category_id": 0, "score": 0.5, "area": 128 * 16}]


def test_images_of_all_processes_are_in_the_order_of_the_split(monkeypatch: pytest.MonkeyPatch) -> None:
    images = random_images(0, count=5)
    shares = [json.dumps(images[i::2]) for i in range(2)]
    monkeypatch.setattr(metric.process, "world_size", lambda: 2)
    monkeypatch.setattr(metric.collectives, "gather", lambda _: shares)
    assert of_all_processes(images[::2]) == images


def test_ap_alone_is_that_of_the_figures() -> None:
    """Also of parts of the images, as if there were no others, and of one without objects."""
    images = [*random_images(3), image([], [box(A, 0, 0.9)])]
    parts = [range(13), range(0, 13, 2), [12]]
    found = average_precisions(images, 4, parts)
    assert found[0] == pytest.approx(figures(images, 4)["ap"], abs=1e-12)
    assert found[1] == pytest.approx(figures(images[::2], 4)["ap"], abs=1e-12)
    assert found[2] == 0.0
