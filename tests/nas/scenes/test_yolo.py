from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nas.data.sources import Skipped
from nas.scenes import BoxesConfig, MasksConfig, load_boxes, load_instances, load_masks
from nas.scenes.formats.yolo import labels_of
from nas.scenes.reading import Place, read_boxes
from search_spaces import UserError
from tests.nas.scenes.folders import HEIGHT, WIDTH, box_of, coco_of, picture, write_coco, write_labels, write_pictures

NAMES = "names: [cat, dog]\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """As Ultralytics describes it; the path is of another machine."""
    write_labels(write_labels(tmp_path / "set", "train", 20), "val", 6, first=100)
    (tmp_path / "set/data.yaml").write_text(f"path: /content/set\ntrain: images/train\nval: images/val\ntest:\n{NAMES}")
    return tmp_path / "set"


def test_a_folder_with_its_yaml(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = load_boxes(BoxesConfig(data=str(folder)))
    assert data.classes == ("cat", "dog")
    assert len(data.train) + len(data.search) == 20 and len(data.test) == 6
    for i in range(5):
        target = data.test.target(i)
        left, top, width, height = box_of(i)
        assert np.allclose(target["boxes"], [[left, top, left + width, top + height]], atol=1e-4)
        assert target["labels"].tolist() == [i % 2]
    assert len(data.test.target(5)["boxes"]) == 0
    assert "1 images have no box" in capsys.readouterr().err


def test_as_roboflow_writes_it(tmp_path: Path) -> None:
    for first, part in enumerate(("train", "valid", "test")):
        write_labels(tmp_path / part, "", 10, first=100 * first)
    names = "names:\n  0: cat\n  1: dog\n"
    (tmp_path / "data.yaml").write_text(
        f"train: ../train/images\nval: ../valid/images\ntest: ../test/images\nnc: 2\n{names}"
    )
    data = load_boxes(BoxesConfig(data=str(tmp_path)))
    assert len(data.train) + len(data.search) == 10 and len(data.test) == 10
    assert np.array_equal(np.asarray(data.test.image(0)), np.asarray(Image.open(tmp_path / "test/images/0.png")))
    one = load_boxes(BoxesConfig(data=str(tmp_path / "train"), annotations=str(tmp_path / "data.yaml")))
    assert len(one.train) + len(one.search) + len(one.test) == 10


def test_one_folder_for_all_parts_is_carved(folder: Path) -> None:
    (folder / "data.yaml").write_text(f"train: images/train\nval: images/train\n{NAMES}")
    data = load_boxes(BoxesConfig(data=str(folder)))
    assert len(data.test) == 4 and len(data.train) + len(data.search) == 16
    (folder / "data.yaml").write_text(NAMES)
    data = load_boxes(BoxesConfig(data=str(folder), allow_duplicates=True))
    assert len(data.train) + len(data.search) + len(data.test) == 26


def test_outlines_are_masks(tmp_path: Path) -> None:
    write_labels(tmp_path, "train", 20, outlined=True)
    (tmp_path / "data.yaml").write_text(f"train: images/train\n{NAMES}")
    instances = load_instances(BoxesConfig(data=str(tmp_path)))
    target = instances.train.target(0)
    left, top, width, height = box_of(int(instances.train.name(0).removesuffix(".png")))
    assert np.allclose(target["boxes"], [[left, top, left + width, top + height]], atol=1e-4)
    masks = load_masks(MasksConfig(data=str(tmp_path)))
    assert masks.classes == ("background", "cat", "dog")
    number = int(masks.train.name(0).removesuffix(".png"))
    left, top, width, height = (int(value) for value in box_of(number))
    mask = masks.train.mask(0)
    assert mask[top + 1, left + 1] == 1 + number % 2 and mask[top + height - 1, left + width - 1] == 0


@pytest.mark.parametrize(("orientation", "stored"), [(6, Image.Transpose.ROTATE_90), (3, Image.Transpose.ROTATE_180)])
def test_labels_are_of_upright_images(
    tmp_path: Path, orientation: int, stored: Image.Transpose, capsys: pytest.CaptureFixture[str]
) -> None:
    """As Ultralytics has it: a photo that lies in its file is labelled as it is seen."""
    write_labels(tmp_path, "train", 12)
    (tmp_path / "data.yaml").write_text(f"train: images/train\n{NAMES}")
    for i in range(12):
        path = tmp_path / f"images/train/{i}.png"
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.open(path).transpose(stored).save(path, exif=exif)
    data = load_boxes(BoxesConfig(data=str(tmp_path)))
    assert data.train.image(0).size == (WIDTH, HEIGHT)
    left, top, width, height = box_of(number := int(data.train.name(0).removesuffix(".png")))
    assert np.allclose(data.train.target(0)["boxes"], [[left, top, left + width, top + height]], atol=1e-4), number
    assert np.array_equal(np.asarray(data.train.image(0)), np.asarray(picture(number)))
    assert "EXIF" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0 0.5 0.5 0.2", r"0.txt, line 1 has 3 numbers after the class; give 4 of a box, or 2 for each corner"),
        ("0 20 15 4 4", r"0.txt, line 1 has numbers that are not from 0 to 1; give fractions"),
        ("0 nan 0.5 0.2 0.2", r"numbers that are not from 0 to 1"),
        ("7 0.5 0.5 0.2 0.2", r"0.txt, line 1: data.yaml names no class 7; add its name, or remove the line"),
        ("cat 0.5 0.5 0.2 0.2", r"line 1: 'cat 0.5 0.5 0.2 0.2' is no label; give a class and its box"),
    ],
)
def test_labels_that_are_none(folder: Path, line: str, message: str) -> None:
    (folder / "labels/train/0.txt").write_text(line)
    with pytest.raises(UserError, match=message):
        load_boxes(BoxesConfig(data=str(folder)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("names: [cat\n", r"data.yaml is no YAML"),
        ("names:\ntrain: images/train\n", r"data.yaml has no names of classes; give `names: \[cat, dog\]`"),
        (f"train: lists/train.txt\n{NAMES}", r"train: lists/train.txt is no folder here; give one"),
    ],
)
def test_a_yaml_that_says_nothing(folder: Path, text: str, message: str) -> None:
    (folder / "data.yaml").write_text(text)
    with pytest.raises(UserError, match=message):
        load_boxes(BoxesConfig(data=str(folder)))


def test_images_without_labels_are_refused(tmp_path: Path) -> None:
    write_pictures(tmp_path / "photos", 12)
    (tmp_path / "photos/data.yaml").write_text(NAMES)
    with pytest.raises(UserError, match=r"no image has labels, such as .*photos/0.txt; they lie in labels/ beside"):
        load_boxes(BoxesConfig(data=str(tmp_path / "photos")))


def test_where_labels_lie() -> None:
    beside = Path("set/images/train/1.txt")
    assert [*labels_of(Path("set/images/train/1.jpg"))] == [Path("set/labels/train/1.txt"), beside]
    assert next(labels_of(Path("images/set/images/1.jpg"))) == Path("images/set/labels/1.txt")
    assert [*labels_of(Path("set/photos/images.jpg"))] == [Path("set/photos/images.txt")]


def test_labels_beside_images_in_a_folder_of_images(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "images/mine", 12)
    (folder / "data.yaml").write_text(NAMES)
    (folder / "3.txt").write_text("1 0.5 0.5 0.2 0.2\n")
    data = read_boxes(Place(str(folder), str(folder / "data.yaml")), Skipped(strict=False))
    assert [len(data.target(i)["boxes"]) for i in range(12)] == [int(data.name(i) == "3.png") for i in range(12)]


@pytest.mark.parametrize("points", [".4 .4 2 .6 .6 2", ".4 .4 .6 .6", ".4 .4 2"])
def test_key_points_are_no_outlines(tmp_path: Path, points: str) -> None:
    folder = write_pictures(tmp_path / "mine", 1)
    (folder / "data.yaml").write_text(f"{NAMES}kpt_shape: [2, 3]\n")
    (folder / "0.txt").write_text(f"1 .5 .5 .5 .2 {points}\n")
    data = read_boxes(Place(str(folder), str(folder / "data.yaml")), Skipped(strict=False))
    assert np.allclose(data.target(0)["boxes"], [[WIDTH * 0.25, HEIGHT * 0.4, WIDTH * 0.75, HEIGHT * 0.6]])


@pytest.mark.parametrize("text", ["filenames: [a, b]", "tool:\n  names: [a]", "- names: [a]", "tool: names: {"])
def test_a_yaml_of_something_else_is_not_read(tmp_path: Path, text: str) -> None:
    write_coco(tmp_path, coco_of(20))
    (tmp_path / "tool.yaml").write_text(text)
    (tmp_path / "folder.yaml").mkdir()
    assert load_boxes(BoxesConfig(data=str(tmp_path))).classes == ("cat", "dog")
