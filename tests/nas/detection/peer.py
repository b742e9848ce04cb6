"""pycocotools' figures of what is there and what was found."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path

from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from nas.detection.metric import By, Seen


def pycocotools(images: list[Seen], num_classes: int, folder: Path, by: By = "bbox") -> COCOeval:
    """Read out of files: what is found without boxes where masks count, as is usual."""
    objects = [(i, one) for i, found in enumerate(images) for one in found["objects"]]
    sizes = enumerate(image["size"] for image in images)
    truth = {
        "images": [{"id": i, "height": height, "width": width} for i, (height, width) in sizes],
        "annotations": [{**one, "id": n, "image_id": i} for n, (i, one) in enumerate(objects, 1)],
        "categories": [{"id": i, "name": str(i)} for i in range(num_classes)],
    }
    names = ("category_id", "score", "segmentation" if by == "segm" else "bbox")
    results = [
        {"image_id": i, **{name: one[name] for name in names}}
        for i, found in enumerate(images)
        for one in found["found"]
    ]
    (folder / "truth.json").write_text(json.dumps(truth))
    (folder / "results.json").write_text(json.dumps(results))
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(folder / "truth.json"))
        evaluation = COCOeval(coco, coco.loadRes(str(folder / "results.json")), by)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation
