"""nas.instances from images to a page, on a few small pictures; and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from nas import instances
from nas.dense.job import configure
from nas.dense.kind import load_trained
from nas.instance_segmentation.config import Config
from nas.instance_segmentation.export import InstanceFiles
from nas.instance_segmentation.kind import Instances
from search_spaces import UserError
from search_spaces.command import parse
from search_spaces.dense.maskrcnn import Sizes
from tests.contracts.objects import ObjectsContract, edited
from tests.nas.scenes.folders import coco_of, outlined_coco


class TestInstances(ObjectsContract):
    stage = "instances"
    main = instances.main
    flags = (
        *("--data", "images", "--backbone", "efficientformerv2-nano:smallest", "--image-size", "32", "--run", "r"),
        *("--epochs", "2", "--batch-size", "4", "--augment", "hflip", "--amp", "off", "--lr", "0.1"),
        *("--head-width", "8", "--proposals", "20", "--samples", "8", "--detections", "5"),
    )
    files = InstanceFiles
    outputs = ("boxes", "scores", "masks")
    subject = "masks and boxes"
    page = ("Masks on test images", "mask AP")
    pictures = 10

    @classmethod
    def coco(cls) -> dict[str, Any]:
        return outlined_coco(24, per_image=2)

    @classmethod
    def figures(cls, found: dict[str, Any]) -> list[dict[str, Any]]:
        return [found, found["boxes"]]

    def test_the_network_has_the_sizes_of_its_run(self, here: Path) -> None:
        network, _ = load_trained(Instances(Sizes(8, 20, 8, 5)), here)
        found = network.predict(torch.randn(1, 3, 32, 32))  # type: ignore[operator]
        assert len(found[0]["boxes"]) <= 5 and network.training is False
        with pytest.raises(UserError, match=r"model.safetensors"):
            load_trained(Instances(), here)

    def test_parts_of_a_batch_and_images_without_objects(self, here: Path) -> None:
        edited(lambda coco: coco.update(annotations=[one for one in coco["annotations"] if one["image_id"] % 4]))
        instances.main([*self.flags, "--run", "new", "--accumulation-steps", "2"])
        assert Path("runs/new/instances/result.json").exists()

    def test_changed_masks_are_not_gone_on_with(self, here: Path) -> None:
        edited(lambda coco: coco["annotations"][3].update(segmentation=[[1, 1, 9, 1, 9, 9]]))
        with pytest.raises(UserError, match=r"^images is not as it was when runs/r/instances was begun"):
            instances.main(["--resume"])

    @pytest.mark.parametrize(
        ("flags", "message"),
        [
            (("--head-width", "4"), r"^--head-width is 4; give a number at least 8"),
            (("--samples", "0"), r"^--samples is 0; give a number at least 4"),
            (("--augment", "ssd"), r"--augment"),
            (("--formats", "coreml"), r"--formats"),
            (("--schedule", "linear"), r"--schedule"),
        ],
    )
    def test_what_cannot_be_is_refused(self, flags: tuple[str, ...], message: str, here: Path) -> None:
        self.refuses(flags, message)

    def test_boxes_alone_are_refused(self, here: Path) -> None:
        Path("images/annotations.json").write_text(json.dumps(coco_of(24, per_image=2)))
        self.refuses((), r"^no object of images/annotations.json has a mask .*by nas.detect$")


def test_recipes_are_of_the_images() -> None:
    kind = Instances()
    published, embedded = (configure(kind, parse(Config, flags, "", "")) for flags in (["--data", "x"], []))
    assert (published.epochs, published.image_size, published.schedule) == (12, 800, "steps")
    assert published.lr * published.batch_size / 1024 == pytest.approx(2e-4) and published.weight_decay == 0.05
    assert published.sizes == Sizes() and embedded.sizes.width < 256 and embedded.image_size < 320
