"""Masks of objects: from COCO's polygons, run lengths and crowds, through augmentation, at each image's own size."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from faster_coco_eval import mask as coco_masks
from PIL import Image

from nas.data import sources
from nas.data.batches import StepImages
from nas.data.sources import Skipped
from nas.scenes import BoxesConfig, InstanceScenes, embedded, load_boxes, load_instances, run_lengths
from nas.scenes.batches import eval_scenes, train_scenes
from nas.scenes.embedded import drawn_instances
from nas.scenes.reading import Place, read_instances
from nas.scenes.run_lengths import packed, unpacked
from nas.scenes.transforms import box_train_transform
from nas.scenes.writing import write_scenes
from search_spaces import UserError
from tests.nas.scenes.folders import HEIGHT, WIDTH, coco_of, write_coco

SIZE = 32


def inside(left: int, top: int, right: int, bottom: int) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    mask[top:bottom, left:right] = 1
    return mask


def one(segmentation: Any, bbox: list[float] | None = None, crowd: int = 0, **more: Any) -> dict[str, Any]:
    box = {} if bbox is None else {"bbox": bbox}
    return {"image_id": 0, "category_id": 5, "segmentation": segmentation, "iscrowd": crowd, **box, **more}


def polygon(left: float, top: float, right: float, bottom: float) -> list[list[float]]:
    return [[left, top, right, top, right, bottom, left, bottom]]


def read(folder: Path, *objects: dict[str, Any], count: int = 2) -> InstanceScenes:
    coco = coco_of(count)
    coco["annotations"] = list(objects)
    return read_instances(Place(str(write_coco(folder, coco))), Skipped(strict=False))


def test_polygons_run_lengths_and_crowds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    counts = coco_masks.encode(np.asfortranarray(inside(12, 0, 16, 4)))["counts"].decode()
    scenes = read(
        tmp_path,
        one([*polygon(2, 2, 8, 8), *polygon(20, 2, 22, 4)], [2, 2, 20, 6], area=40.0),  # in two parts
        one({"size": [HEIGHT, WIDTH], "counts": counts}),
        one({"size": [HEIGHT, WIDTH], "counts": [20 * HEIGHT, 5, WIDTH * HEIGHT - 20 * HEIGHT - 5]}, crowd=1),
        one(None, [30, 10, 4, 5]),
        one([[1, 1, 3, 3, 5, 5]], [1, 1, 4, 4]),  # a line has no inside
        one(polygon(3, 3, 9, 9), [100, 3, 6, 6]),  # its box is beside the image
        one([]),
    )
    target = scenes.target(0)
    masks = unpacked(target["masks"], (HEIGHT, WIDTH))
    parts = inside(2, 2, 8, 8) | inside(20, 2, 22, 4)
    expected = [parts, inside(12, 0, 16, 4), inside(20, 0, 21, 5), inside(30, 10, 34, 15), inside(1, 1, 5, 5)]
    assert np.array_equal(masks, expected)
    assert target["iscrowd"].tolist() == [False, False, True, True, True]
    assert target["boxes"].tolist()[:3] == [[2, 2, 22, 8], [12, 0, 16, 4], [20, 0, 21, 5]]
    assert target["area"].tolist()[:3] == [40, 16, 5]  # as given, or the mask's
    assert scenes.target(1)["masks"] == [] and len(scenes.target(1)["boxes"]) == 0
    told = capsys.readouterr().err
    assert "3 objects have no mask, so their boxes are crowds" in told and "3 boxes are crowds" in told


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ([[1, 2, 3, 4, 5, 6, 7]], r"has an object on 0.png whose segmentation is no list of polygons"),
        ({"size": [HEIGHT, 9], "counts": [1]}, r"is of \[30, 9\] pixels \(height, width\)"),
        (
            None,
            r"^no object of .* has a mask \(a segmentation, .*; give annotations that have, or train on boxes alone",
        ),
    ],
)
def test_bad_masks_are_refused_in_one_line(tmp_path: Path, segmentation: Any, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        read(tmp_path, one(segmentation, [1, 1, 5, 5]))
    assert "\n" not in str(caught.value)


def test_the_digest_is_of_the_masks_too(tmp_path: Path) -> None:
    box: list[float] = [2, 2, 6, 6]
    first = read(tmp_path, one(polygon(2, 2, 8, 8), box, area=9.0))
    assert first.digest == read(tmp_path, one(polygon(2, 2, 8, 8), box, area=9.0)).digest
    assert first.digest != read(tmp_path, one(polygon(2, 2, 8, 7), box, area=9.0)).digest


def test_embedded_scenes_are_those_that_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "NUM_TRAIN", 24)
    monkeypatch.setattr(embedded, "NUM_TEST", 5)
    embedded.scenes.cache_clear()
    drawn = drawn_instances(True, Skipped(strict=True))
    scenes = embedded.scenes(True)
    write_scenes(tmp_path, scenes)
    found = read_instances(Place(str(tmp_path)), Skipped(strict=True))
    assert list(found.masks) == list(drawn.masks) and found.boxes.digest() == drawn.boxes.digest()
    assert load_instances(BoxesConfig()).splits.digest != load_boxes(BoxesConfig()).splits.digest
    for i, scene in enumerate(scenes):
        masks = unpacked(drawn.target(i)["masks"], scene.objects.shape)
        assert np.array_equal((masks * np.arange(1, 1 + len(masks))[:, None, None]).sum(axis=0), scene.objects)
    embedded.scenes.cache_clear()


# ---- batches


@pytest.fixture
def scenes(tmp_path: Path) -> InstanceScenes:
    """Images that are black but for white objects: two rectangles, and a triangle in the half of its box."""
    coco = coco_of(20)
    coco["annotations"] = [
        {"image_id": i, "category_id": 5 + j % 2, "bbox": bbox, "segmentation": given, "iscrowd": int(j == 3)}
        for i in range(20)
        if i % 7
        for j, (given, bbox) in enumerate(SHAPES)
    ]
    folder = write_coco(tmp_path / "images", coco)
    white = sum(unpacked([_packed(given)], (HEIGHT, WIDTH))[0] for given, _ in SHAPES)
    for i in range(20):
        noise = np.random.default_rng(i).integers(0, 9, (HEIGHT, WIDTH), dtype=np.uint8)  # no copies
        pixels = noise + (240 * np.asarray(white)).astype(np.uint8) * (i % 7 > 0)
        Image.fromarray(pixels).convert("RGB").save(folder / f"{i}.png")
    return load_instances(BoxesConfig(data=str(folder))).train


SHAPES: list[tuple[Any, list[float]]] = [
    (polygon(2, 2, 12, 12), [2, 2, 10, 10]),
    (polygon(20, 2, 26, 14), [20, 2, 6, 12]),
    ([[4, 16, 18, 16, 4, 28]], [4, 16, 14, 12]),
    (polygon(30, 16, 38, 28), [30, 16, 8, 12]),
]


def _packed(given: list[list[float]]) -> Any:
    return coco_masks.merge(coco_masks.frPyObjects(given, HEIGHT, WIDTH))


def train(scenes: InstanceScenes, augment: Any, start: int = 0, num_workers: int = 0) -> list[Any]:
    steps = [StepImages(SIZE, 4)] * (len(scenes) // 4)
    transform = box_train_transform(SIZE, augment)
    return list(
        train_scenes(
            scenes,
            lambda *_: transform,
            steps=lambda _: steps,
            epochs=2,
            seed=0,
            start=start,
            num_workers=num_workers,
        )
    )


@pytest.mark.parametrize("augment", ["hflip", "light", "none"])
def test_masks_stay_on_what_they_are_of(scenes: InstanceScenes, augment: str) -> None:
    empty = 0
    for images, targets in train(scenes, augment):
        assert images.dtype == torch.uint8 and images.shape == (4, 3, SIZE, SIZE)
        for image, target in zip(images, targets, strict=True):
            boxes, labels, masks = target["boxes"], target["labels"], target["masks"]
            assert masks.dtype == torch.uint8 and masks.shape == (len(boxes), SIZE, SIZE) and len(labels) == len(boxes)
            assert len(boxes) <= 3 and masks.bool().flatten(1).any(dim=1).all()  # a crowd is not trained on
            white = image.float().mean(dim=0) > 127
            on = masks.bool().any(dim=0)
            assert (white[on].float().mean() > 0.8) if len(boxes) else not white.any()
            for (left, top, right, bottom), mask in zip(boxes.tolist(), masks, strict=True):
                rows, columns = mask.nonzero(as_tuple=True)
                assert left - 1 <= columns.min() and columns.max() <= right + 1
                assert top - 1 <= rows.min() and rows.max() <= bottom + 1
            empty += not len(boxes)
    assert empty


def test_masks_of_photos_are_shrunk_one_at_a_time(scenes: InstanceScenes, monkeypatch: pytest.MonkeyPatch) -> None:
    """To twice the side of the batch: all of a photo's at its own size fill the memory."""
    decoded, given = list[int](), list[Any]()

    def decode(runs: list[Any]) -> Any:
        decoded.append(len(runs))
        return coco_masks.decode(runs)

    monkeypatch.setattr(run_lengths, "coco_masks", lambda: SimpleNamespace(decode=decode))
    transform = box_train_transform(8, "none")

    def spied(image: Any, on_it: Any) -> Any:
        given.append((image, on_it))
        return transform(image, on_it)

    steps = [StepImages(8, 4)] * 2
    options: dict[str, Any] = {"epochs": 1, "seed": 0, "start": 0, "num_workers": 0}
    list(train_scenes(scenes, lambda *_: spied, steps=lambda _: steps, **options))
    assert set(decoded) == {1}
    for image, on_it in given:
        boxes, masks = on_it["boxes"], on_it["masks"]
        assert image.size == (16, 12) and masks.shape == (len(boxes), 12, 16) and len(boxes) in (0, 3)
        white = torch.from_numpy(np.array(image))[..., 0] > 127
        assert (white == masks.bool().any(dim=0)).float().mean() > 0.9
        for (left, top, right, bottom), mask in zip(boxes.tolist(), masks, strict=True):
            rows, columns = mask.nonzero(as_tuple=True)
            assert (
                left - 1 <= columns.min() and columns.max() <= right and top - 1 <= rows.min() and rows.max() <= bottom
            )


def test_batches_are_of_seed_epoch_and_step(scenes: InstanceScenes) -> None:
    whole, rest = train(scenes, "light", num_workers=1), train(scenes, "light", start=2)
    for (images, targets), (others, given) in zip(whole[2:], rest, strict=True):
        assert torch.equal(images, others)
        assert all(torch.equal(a[name], b[name]) for a, b in zip(targets, given, strict=True) for name in a)


def test_evaluation_has_masks_at_their_own_size(scenes: InstanceScenes) -> None:
    batches = list(eval_scenes(scenes, SIZE, 5))
    targets = [target for _, found in batches for target in found]
    assert len(targets) == len(scenes) and batches[0][0].shape[1:] == (3, SIZE, SIZE)
    for i, target in enumerate(targets):
        assert target["masks"] == scenes.target(i)["masks"] and target["size"].tolist() == [HEIGHT, WIDTH]
    assert max(len(target["masks"]) for target in targets) == 4
    (_, (second, *_)), *_ = eval_scenes(scenes, SIZE, 1, share=(1, 2))
    assert second["masks"] == targets[1]["masks"]


def test_a_corrupt_image_is_a_crowd(tmp_path: Path, scenes: InstanceScenes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "MEMORY_BYTES", 0)
    scenes = load_instances(BoxesConfig(data=str(tmp_path / "images"))).train
    (tmp_path / "images" / scenes.name(0)).write_bytes(b"no image")
    (_, (target, other, *_)), *_ = eval_scenes(scenes, SIZE, 4)
    assert target["masks"] == packed(np.ones((2, SIZE, SIZE))) and target["iscrowd"].all()
    assert not other["iscrowd"].all()
    assert len(train(scenes, "hflip")) == 2 * (len(scenes) // 4)  # another is in its place
