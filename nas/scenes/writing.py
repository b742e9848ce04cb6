"""The embedded scenes as folders, as a user's own are read: images, COCO's annotations, and masks with a palette."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from nas.scenes.embedded import CLASSES, SIDE, Scene

PALETTE = [0, 0, 0, 230, 75, 60, 60, 180, 75, 255, 225, 25, 0, 130, 200, 245, 130, 48, 145, 30, 180]  # RGB of indices


def write_scenes(folder: Path, found: Sequence[Scene]) -> None:
    """Writes images/, annotations.json (boxes, and masks as run lengths) and masks/ (PNG with a palette)."""
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for i, scene in enumerate(found):
        Image.fromarray(scene.pixels).save(folder / "images" / f"{i:04}.png")
        mask = Image.fromarray(scene.mask, mode="P")
        mask.putpalette(PALETTE)
        mask.save(folder / "masks" / f"{i:04}.png")
    (folder / "annotations.json").write_text(json.dumps(coco(found)))


def coco(found: Sequence[Scene]) -> dict[str, Any]:
    """The scenes' objects in COCO's form; files are those of `write_scenes`."""
    return {
        "images": [
            {"id": i, "file_name": f"images/{i:04}.png", "width": SIDE, "height": SIDE} for i in range(len(found))
        ],
        "annotations": [
            {"id": number, **one}
            for number, one in enumerate(
                (_object(i, scene, n) for i, scene in enumerate(found) for n in range(1, len(scene.labels) + 1)), 1
            )
        ],
        "categories": [{"id": i, "name": name} for i, name in enumerate(CLASSES, 1)],
    }


def _object(image: int, scene: Scene, number: int) -> dict[str, Any]:
    left, top, right, bottom = scene.box(number)
    return {
        "image_id": image,
        "category_id": scene.labels[number - 1] + 1,
        "bbox": [left, top, right - left, bottom - top],
        "area": int((scene.objects == number).sum()),
        "iscrowd": 0,
        "segmentation": scene.outlines[number - 1],
    }
