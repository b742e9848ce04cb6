"""nas.detect from images to a page, on a few small pictures; and what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from nas import detect
from nas.dense.job import configure, train
from nas.detection.config import Config
from nas.detection.export import DetectorFiles
from nas.detection.kind import Detection
from search_spaces import UserError
from search_spaces.command import parse
from search_spaces.command.files import read_json
from tests.contracts.objects import ObjectsContract, edited
from tests.nas.scenes.folders import coco_of

FLAGS = (
    *("--data", "images", "--backbone", "mobileone-nano:smallest", "--image-size", "32", "--run", "r"),
    *("--epochs", "2", "--batch-size", "4", "--augment", "hflip", "--amp", "off"),
)


class TestDetect(ObjectsContract):
    stage = "detect"
    main = detect.main
    flags = FLAGS
    files = DetectorFiles
    outputs = ("boxes", "scores")
    subject = "boxes"
    page = ("<script>", "Precision and recall")
    pictures = 5

    @classmethod
    def coco(cls) -> dict[str, Any]:
        return coco_of(24, per_image=2)

    def test_a_part_of_a_batch_is_a_batch(self, here: Path) -> None:
        """What two processes with a part each, or one with both, have of a step."""
        config = configure(Detection(), parse(Config, [*FLAGS, "--run", "new", "--accumulation-steps", "2"], "", ""))
        train(Detection(), config)
        assert Path("runs/new/detect/result.json").exists()

    def test_changed_annotations_are_not_gone_on_with(self, here: Path) -> None:
        edited(lambda coco: coco["annotations"][3].update(bbox=[1, 1, 9, 9]))
        with pytest.raises(
            UserError, match=r"^images is not as it was when runs/r/detect was begun: it has other images, or"
        ):
            detect.main(["--resume"])

    def test_moved_images_are_gone_on_with(self, here: Path) -> None:
        Path("images").rename("photos")
        with pytest.raises(UserError, match=r"images"):
            detect.main(["--resume"])
        detect.main(["--resume", "--data", "photos"])
        assert read_json(here / "config.json")["data"] == "photos"

    @pytest.mark.parametrize(
        ("flags", "message"),
        [
            (("--image-size", "33"), r"33"),
            (("--image-size", "8"), r"^--image-size is 8; give a number at least 32"),
            (("--backbone", "resnet"), r"resnet"),
            (("--backbone", "mobileone-nano:huge"), r"huge"),
            (("--backbone", "mobileone-nano:smallest", "--init", "nowhere.safetensors"), r"nowhere"),
            (("--data", "nowhere"), r"nowhere"),
            (("--clip-grad", "0", "--clip-mode", "agc"), r"^--clip-mode is for --clip-grad above 0; leave it out$"),
        ],
    )
    def test_what_cannot_be_is_refused(self, flags: tuple[str, ...], message: str, here: Path) -> None:
        self.refuses(flags, message)

    def test_splits_without_objects_are_refused(self, here: Path) -> None:
        edited(lambda coco: coco.update(annotations=coco["annotations"][:1]))
        self.refuses((), r"^images: none of the \d+ images of the \w+ split has an object")

    def test_too_few_images_are_refused(self, here: Path) -> None:
        edited(lambda coco: coco.update(images=coco["images"][:2], annotations=coco["annotations"][:4]))
        self.refuses((), r"^images has 2 images, too few for a train, a search and a test split")


def test_recipes_are_of_the_images() -> None:
    kind = Detection()
    published, embedded = (configure(kind, parse(Config, flags, "", "")) for flags in (["--data", "x"], []))
    assert (published.epochs, published.image_size, published.augment) == (200, 320, "ssd")
    assert published.lr * 128 / 1024 == pytest.approx(9e-4) and published.weight_decay == 0.01
    assert embedded.image_size < 320 and embedded.epochs < 100
    assert configure(kind, parse(Config, ["--image-size", "64", "--epochs", "3"], "", "")).image_size == 64
