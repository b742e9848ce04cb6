"""Small folders of scenes: noise with a bright rectangle a picture, in each form that is read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 40, 30
NAMES = ("cat", "dog")


def picture(i: int, size: tuple[int, int] = (WIDTH, HEIGHT)) -> Image.Image:
    noise = np.random.default_rng(i).integers(0, 200, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(noise)


def box_of(i: int) -> list[float]:
    """Left, top, width, height."""
    return [i % 10, i % 7, 12 + i % 5, 10 + i % 3]


def coco_of(count: int, per_image: int = 1) -> dict[str, Any]:
    """COCO's form of `count` images 0.png, 1.png, … with boxes of cats on even ones, of dogs on others."""
    return {
        "images": [{"id": i, "file_name": f"{i}.png", "width": WIDTH, "height": HEIGHT} for i in range(count)],
        "annotations": [
            {"id": 10 * i + j, "image_id": i, "category_id": 5 + i % 2, "bbox": box_of(i + j)}
            for i in range(count)
            for j in range(per_image)
        ],
        "categories": [{"id": 5 + i, "name": name} for i, name in enumerate(NAMES)],
    }


def outlined_coco(count: int, per_image: int) -> dict[str, Any]:
    """The boxes of `coco_of`, with what is in the upper left of each."""
    coco = coco_of(count, per_image)
    for one in coco["annotations"]:
        left, top, width, height = one["bbox"]
        one["segmentation"] = [[left, top, left + width, top, left, top + height]]
    return coco


def write_pictures(folder: Path, count: int, first: int = 0) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        picture(first + i).save(folder / f"{i}.png")
    return folder


def write_coco(folder: Path, coco: dict[str, Any], name: str = "annotations.json") -> Path:
    """The annotations beside their images; returns the folder."""
    write_pictures(folder, len(coco["images"]))
    (folder / name).write_text(json.dumps(coco))
    return folder


def write_masks(folder: Path, count: int, indices: tuple[int, ...] = (0, 1, 2)) -> Path:
    """images/ and masks/, each mask with a rectangle of one of the indices after the first; returns the folder."""
    write_pictures(folder / "images", count)
    (folder / "masks").mkdir(parents=True)
    for i in range(count):
        mask = np.full((HEIGHT, WIDTH), indices[0], dtype=np.uint8)
        left, top, width, height = (int(n) for n in box_of(i))
        mask[top : top + height, left : left + width] = indices[1 + i % (len(indices) - 1)]
        Image.fromarray(mask).save(folder / "masks" / f"{i}.png")
    return folder


def write_labels(folder: Path, part: str, count: int, outlined: bool = False, first: int = 0) -> Path:
    """YOLO's images/<part> and labels/<part>, with the boxes of `coco_of`, or with outlines in them; returns `folder`.

    The last image has no text.
    """
    write_pictures(folder / "images" / part, count, first)
    (folder / "labels" / part).mkdir(parents=True)
    for i in range(count - 1):
        left, top, width, height = box_of(i)
        numbers = [(left + width / 2) / WIDTH, (top + height / 2) / HEIGHT, width / WIDTH, height / HEIGHT]
        if outlined:
            corners = [(left, top), (left + width, top), (left, top + height)]
            numbers = [fraction for x, y in corners for fraction in (x / WIDTH, y / HEIGHT)]
        text = " ".join(str(number) for number in [i % 2, *numbers])
        (folder / "labels" / part / f"{i}.txt").write_text(f"{text}\n\n")
    return folder
