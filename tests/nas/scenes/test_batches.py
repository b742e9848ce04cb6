from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nas.data import sources
from nas.data.batches import StepImages
from nas.scenes import BoxesConfig, BoxScenes, MaskScenes, MasksConfig, load_boxes, load_masks
from nas.scenes.batches import eval_scenes, train_scenes
from nas.scenes.transforms import as_boxes, box_train_transform, mask_train_transform
from search_spaces import UserError
from tests.nas.scenes.folders import HEIGHT, WIDTH, coco_of, picture, write_coco, write_masks

SIZE = 32


@pytest.fixture
def boxes(tmp_path: Path) -> BoxScenes:
    coco = coco_of(20, per_image=3)
    coco["annotations"][4]["iscrowd"] = 1
    coco["annotations"] = [one for one in coco["annotations"] if one["image_id"] % 7]
    return load_boxes(BoxesConfig(data=str(write_coco(tmp_path / "boxes", coco)))).train


@pytest.fixture
def masks(tmp_path: Path) -> MaskScenes:
    return load_masks(MasksConfig(data=str(write_masks(tmp_path / "masks", 20)))).train


def train(scenes: Any, augment: Any, start: int = 0, num_workers: int = 0, seed: int = 0) -> list[Any]:
    """Two epochs of batches of four."""
    options: dict[str, Any] = {"epochs": 2, "seed": seed, "start": start, "num_workers": num_workers}
    options["steps"] = lambda _: [StepImages(SIZE, 4)] * (len(scenes) // 4)
    if isinstance(scenes, MaskScenes):
        for_masks = mask_train_transform(SIZE, augment)
        return list(train_scenes(scenes, lambda *_: for_masks, **options))
    for_boxes = box_train_transform(SIZE, augment)
    return list(train_scenes(scenes, lambda *_: for_boxes, **options))


def equal(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    return len(a) == len(b) and all(equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("augment", ["ssd", "ssdlite", "light", "hflip", "none"])
def test_training_batches_of_boxes(boxes: BoxScenes, augment: str) -> None:
    batches = train(boxes, augment)
    assert len(batches) == 2 * (len(boxes) // 4)
    for images, targets in batches:
        assert images.dtype == torch.uint8 and images.shape == (4, 3, SIZE, SIZE) and type(images) is torch.Tensor
        for target in targets:
            found = target["boxes"]
            assert type(found) is torch.Tensor and found.dtype == torch.float32 and found.shape[1] == 4
            assert target["labels"].dtype == torch.int64 and len(target["labels"]) == len(found)
            assert (found >= 0).all() and (found <= SIZE).all() and (found[:, 2:] > found[:, :2]).all()
    assert any(not len(target["boxes"]) for _, targets in batches for target in targets)  # negatives are trained on


@pytest.mark.parametrize("augment", ["published", "light", "hflip", "none"])
def test_training_batches_of_masks(masks: MaskScenes, augment: str) -> None:
    for images, found in train(masks, augment):
        assert images.dtype == found.dtype == torch.uint8 and type(found) is torch.Tensor
        assert images.shape == (4, 3, SIZE, SIZE) and found.shape == (4, SIZE, SIZE)
        assert set(found.unique().tolist()) <= {0, 1, 2, 255}


@pytest.mark.parametrize("kind", ["boxes", "masks"])
def test_batches_are_of_seed_epoch_and_step(kind: str, request: pytest.FixtureRequest) -> None:
    scenes = request.getfixturevalue(kind)
    augment = "ssd" if kind == "boxes" else "published"
    whole = train(scenes, augment)
    assert equal(whole, train(scenes, augment, num_workers=2))
    assert equal(whole[3:], train(scenes, augment, start=3))
    half = len(whole) // 2
    assert not equal(whole[:half], whole[half:]) and not equal(whole, train(scenes, augment, seed=1))


def test_photos_are_shrunk_before_they_are_augmented(boxes: BoxScenes) -> None:
    """To four times the side of the batch, with their boxes: augmentation of a whole photo takes seconds."""
    given: list[Any] = []
    transform = box_train_transform(8, "none")

    def spied(image: Any, on_it: Any) -> Any:
        given.append((image.size, on_it["boxes"]))
        return transform(image, on_it)

    steps = [StepImages(8, 4)]
    options: dict[str, Any] = {"epochs": 1, "seed": 0, "start": 0, "num_workers": 0}
    list(train_scenes(boxes, lambda *_: spied, steps=lambda _: steps, **options))
    single = [torch.tensor(one["boxes"][~one["iscrowd"]]) for one in map(boxes.target, range(len(boxes)))]
    for size, found in given:
        assert size == (32, 24) == tuple(found.canvas_size)[::-1]
        assert any(equal(found.as_subclass(torch.Tensor), one * (32 / WIDTH)) for one in single)
    assert sum(len(found) for _, found in given)


@pytest.mark.parametrize("size", [(40, 1), (40, 3), (2, 30), (40, 4)])
def test_images_of_few_pixels_are_augmented(size: tuple[int, int]) -> None:
    transform = box_train_transform(SIZE, "ssdlite")
    for seed in range(20):
        torch.manual_seed(seed)
        given = {"boxes": as_boxes(np.array([[0, 0, *size]], dtype=np.float32), size), "labels": torch.tensor([0])}
        image, found = transform(picture(0, size), given)
        assert image.shape == (3, SIZE, SIZE) and len(found["boxes"]) == 1


def test_crowds_are_not_trained_on(boxes: BoxScenes) -> None:
    boxes.boxes.iscrowd[:] = True
    assert all(not len(target["boxes"]) for _, targets in train(boxes, "none") for target in targets)


def test_boxes_and_masks_stay_on_what_they_are_of(tmp_path: Path) -> None:
    """On images that are black but for a white box, the transformed box is where the white is, and so is the mask."""
    boxes = _white(tmp_path)
    for images, targets in train(boxes, "ssdlite"):
        for image, target in zip(images, targets, strict=True):
            white = (image.float().mean(dim=0) > 127).numpy()
            rows, columns = np.nonzero(white)
            (found,) = target["boxes"].numpy()
            assert np.allclose(found, [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1], atol=2)
    masks = load_masks(MasksConfig(data=str(tmp_path / "m"))).train
    for images, found in train(masks, "published"):
        white = images.float().mean(dim=1) > 127
        inside = found != 255  # beside the image is a colour of its own
        assert (white == (found == 1))[inside].float().mean() > 0.95


def _white(folder: Path) -> BoxScenes:
    """Twelve such images with boxes in b/ and masks in m/; returns the boxes to train on."""
    from PIL import Image

    coco = coco_of(12)
    for one in coco["annotations"]:
        one["bbox"] = [5, 6, 15, 12]
    write_coco(folder / "b", coco)
    write_masks(folder / "m", 12, (0, 1))
    for i in range(12):
        mask = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
        mask[6:18, 5:20] = 1
        Image.fromarray(mask).save(folder / "m" / "masks" / f"{i}.png")
        noise = np.random.default_rng(i).integers(0, 9, (HEIGHT, WIDTH), dtype=np.uint8)  # no copies
        for place in (folder / "b", folder / "m" / "images"):
            Image.fromarray(240 * mask + noise).convert("RGB").save(place / f"{i}.png")
    return load_boxes(BoxesConfig(data=str(folder / "b"))).train


def test_evaluation_batches_of_boxes(boxes: BoxScenes) -> None:
    batches = list(eval_scenes(boxes, SIZE, 5))
    targets = [target for _, found in batches for target in found]
    assert sum(len(images) for images, _ in batches) == len(boxes) == len(targets)
    scale = torch.tensor([SIZE / WIDTH, SIZE / HEIGHT] * 2)
    for i, target in enumerate(targets):
        given = boxes.target(i)
        assert torch.allclose(target["boxes"], torch.tensor(given["boxes"]) * scale)
        assert target["size"].tolist() == [HEIGHT, WIDTH]
        for name in ("labels", "iscrowd", "area"):
            assert np.array_equal(target[name].numpy(), given[name])
    shares = [list(eval_scenes(boxes, SIZE, 5, share=(i, 2))) for i in range(2)]
    assert equal([target for _, found in shares[1] for target in found], targets[1::2])


def test_evaluation_batches_of_masks(masks: MaskScenes) -> None:
    batches = list(eval_scenes(masks, SIZE, 5))
    assert all(images.shape == (len(found), 3, SIZE, SIZE) for images, found in batches)
    found = [mask for _, found in batches for mask in found]
    assert len(found) == len(masks)
    assert all(np.array_equal(mask.numpy(), masks.mask(i)) for i, mask in enumerate(found))
    assert equal(found[1::2], [m for _, some in eval_scenes(masks, SIZE, 5, share=(1, 2)) for m in some])


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_corrupt_image_counts_for_nothing(
    tmp_path: Path, num_workers: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sources, "MEMORY_BYTES", 0)
    scenes = load_boxes(BoxesConfig(data=str(write_coco(tmp_path / "b", coco_of(20))))).train
    masks = load_masks(MasksConfig(data=str(write_masks(tmp_path / "m", 20)))).train
    for folder, of in ((tmp_path / "b", scenes), (tmp_path / "m" / "images", masks)):
        (folder / of.name(0)).write_bytes(b"no image")
    (_, (target, *_)), *_ = eval_scenes(scenes, SIZE, 4, num_workers)
    assert target["iscrowd"].tolist() == [True, True] and target["boxes"].tolist() == [[0, 0, SIZE, SIZE]] * 2
    (_, found), *_ = eval_scenes(masks, SIZE, 4, num_workers)
    assert (found[0] == 255).all() and not (found[1] == 255).any()
    assert f"skipped {scenes.name(0)}: it is no image" in capsys.readouterr().err
    assert len(train(scenes, "hflip", num_workers=num_workers)) == 2 * (len(scenes) // 4)  # another is in its place
    for i in range(len(scenes)):
        (tmp_path / "b" / scenes.name(i)).write_bytes(b"no image")
    with pytest.raises(UserError, match=r"100 images in a row, or all, cannot be read; see the warnings"):
        train(scenes, "hflip", num_workers=num_workers)
