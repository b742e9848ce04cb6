from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nas.scenes import BoxesConfig, BoxScenes, MasksConfig, SceneData, load_boxes, load_masks
from nas.scenes.splits import rarest
from search_spaces import UserError
from tests.nas.scenes.folders import coco_of, write_coco, write_masks, write_pictures


def load(data: Path | str, **options: Any) -> SceneData[BoxScenes]:
    return load_boxes(BoxesConfig(data=str(data), **options))


def names(data: SceneData[BoxScenes]) -> list[set[str]]:
    return [{part.name(i) for i in range(len(part))} for part in (data.train, data.search, data.test)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_coco(tmp_path / "photos", coco_of(40))


def test_splits_are_disjoint_and_of_the_seed(folder: Path) -> None:
    data = load(folder)
    parts = names(data)
    assert [len(part) for part in parts] == [24, 8, 8] and len(set.union(*parts)) == 40
    assert (data.splits.train, data.splits.search, data.splits.test) == (24, 8, 8)
    again = load(folder)
    assert again.splits == data.splits and np.array_equal(again.train.indices, data.train.indices)
    other = load(folder, split_seed=1)
    assert names(other) != parts and other.splits.digest != data.splits.digest


def test_the_digest_is_of_the_boxes_too(folder: Path) -> None:
    before = load(folder).splits.digest
    coco = coco_of(40)
    coco["annotations"][0]["bbox"][0] += 1
    (folder / "annotations.json").write_text(json.dumps(coco))
    assert load(folder).splits.digest != before


def test_each_class_is_in_each_split_and_images_without_boxes_too(folder: Path) -> None:
    coco = coco_of(40)
    for one in coco["annotations"]:
        one["category_id"] = 5 if one["image_id"] % 10 else 6
    coco["annotations"] = [one for one in coco["annotations"] if one["image_id"] % 8 != 1]
    (folder / "annotations.json").write_text(json.dumps(coco))
    data = load(folder, test_fraction=0.3, search_fraction=0.3)
    for part in (data.train, data.search, data.test):
        assert part.present.any(axis=0).all() and not part.present.any(axis=1).all()


def test_the_rarest_class_of_an_image() -> None:
    present = np.array([[1, 1, 0], [1, 0, 0], [1, 0, 1], [1, 0, 1], [0, 0, 0]], dtype=bool)
    assert rarest(present).tolist() == [1, 0, 2, 2, 3]


def test_classes_that_a_split_lacks_are_told(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    coco = coco_of(40)
    coco["categories"].append({"id": 9, "name": "eel"})
    (folder / "annotations.json").write_text(json.dumps(coco))
    data = load(folder)
    assert data.classes == ("cat", "dog", "eel")
    assert "1 of 3 classes have no image to train on: eel" in capsys.readouterr().err


def test_copies_stay_on_one_side(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for i in range(1, 20):
        (folder / f"{i}.png").write_bytes((folder / "0.png").read_bytes())
    alike = {f"{i}.png" for i in range(20)}
    assert any(alike <= part for part in names(load(folder)))
    assert "19 of 40 images are copies of others" in capsys.readouterr().err


def test_test_images_of_their_own(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    coco = coco_of(10)
    coco["categories"] = [{"id": 1, "name": "dog"}, {"id": 2, "name": "cat"}]
    for one in coco["annotations"]:
        one["category_id"] = 2 if one["category_id"] == 5 else 1
    test = write_coco(tmp_path / "test", coco)
    write_pictures(test, 10, first=35)  # 5 of them are training images
    data = load(folder, test_data=str(test))
    assert len(data.test) == 10 and len(data.train) + len(data.search) == 35
    assert "left out 5 training images that are copies of test images" in capsys.readouterr().err
    assert [int(data.test.target(i)["labels"][0]) for i in range(3)] == [0, 1, 0]  # by name
    coco["categories"][0]["name"] = "hen"
    (test / "annotations.json").write_text(json.dumps(coco))
    with pytest.raises(UserError, match=r"test images of .*test have classes that are not known \(hen\)"):
        load(folder, test_data=str(test))


def roboflow(folder: Path) -> Path:
    """A folder for each part, with the annotations in it, and a category that groups the others."""
    for first, (part, count) in enumerate({"train": 20, "valid": 4, "test": 6}.items()):
        coco = coco_of(count)
        coco["categories"] = [{**one, "supercategory": "pets"} for one in coco["categories"]]
        coco["categories"].insert(0, {"id": 0, "name": "pets", "supercategory": "none"})
        write_coco(folder / part, coco, "_annotations.coco.json")
        write_pictures(folder / part, count, first=100 * first)
    return folder


def coco_2017(folder: Path) -> Path:
    """Lists of objects and of captions in a folder, images in others."""
    (folder / "annotations").mkdir(parents=True)
    for first, (part, count) in enumerate({"train2017": 20, "val2017": 6}.items()):
        write_pictures(folder / part, count, first=100 * first)
        (folder / f"annotations/instances_{part}.json").write_text(json.dumps(coco_of(count)))
        (folder / f"annotations/captions_{part}.json").write_text("{}")
    return folder


@pytest.mark.parametrize("write", [roboflow, coco_2017])
def test_the_parts_of_published_folders(
    tmp_path: Path, write: Callable[[Path], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write(tmp_path / "set")
    data = load(folder)
    assert len(data.test) == 6 and len(data.train) + len(data.search) == 20
    assert data.classes == ("cat", "dog")
    said = capsys.readouterr().err
    unread = f"{folder}/train: not read beside it: valid; --test-data names the one to test on"
    assert (unread in said) == (write is roboflow) and "not named in" not in said
    assert len(load(folder, test_data="none").test) == 4  # carved
    if write is roboflow:
        assert len(load(folder, test_data=str(folder / "valid")).test) == 4
        (folder / "training").mkdir()
        with pytest.raises(UserError, match=r"set has train, training to train on; choose one by --data"):
            load(folder)
        (folder / "training").rmdir()
        (folder / "test").rename(folder / "val")
        (folder / "val2").mkdir()
        (folder / "val").rename(folder / "val3")
        with pytest.raises(UserError, match=r"train lie val2, val3 to test on; choose one by --test-data"):
            load(folder)


def test_masks_in_folders_of_parts(tmp_path: Path) -> None:
    write_masks(tmp_path / "train", 20)
    write_masks(tmp_path / "val", 6)
    write_pictures(tmp_path / "val/images", 6, first=100)
    data = load_masks(MasksConfig(data=str(tmp_path)))
    assert len(data.test) == 6 and len(data.train) + len(data.search) == 20
    with pytest.raises(UserError, match=r"--test-annotations x has no meaning with --test-data none; leave it out"):
        load_masks(MasksConfig(data=str(tmp_path), test_data="none", test_annotations="x"))


@pytest.mark.parametrize(
    ("images", "masks", "train", "test"),
    [("images", "masks", "train", "val"), ("images", "annotations", "training", "validation")],
)
def test_parts_in_folders_of_images_and_of_masks(
    tmp_path: Path, images: str, masks: str, train: str, test: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for part, count in ((train, 20), (test, 6)):
        write_masks(tmp_path / part, count)
        for name, given in (("images", images), ("masks", masks)):
            (tmp_path / "set" / given).mkdir(parents=True, exist_ok=True)
            (tmp_path / part / name).rename(tmp_path / "set" / given / part)
    write_pictures(tmp_path / "set" / images / "unlabelled", 3)
    data = load_masks(MasksConfig(data=str(tmp_path / "set"), allow_duplicates=True))
    assert len(data.train) + len(data.search) == 20 and len(data.test) == 6
    assert "not read: unlabelled, without masks in" in capsys.readouterr().err
    carved = load_masks(MasksConfig(data=str(tmp_path / "set"), test_data="none"))
    assert len(carved.train) + len(carved.search) + len(carved.test) == 20


def test_a_category_that_has_objects_is_a_class_whatever_it_groups(folder: Path) -> None:
    coco = coco_of(40)
    coco["categories"][0]["supercategory"] = "dog"
    coco["categories"][1]["supercategory"] = "dog"
    (folder / "annotations.json").write_text(json.dumps(coco))
    assert load(folder).classes == ("cat", "dog")


def test_a_group_of_the_name_of_its_class(folder: Path) -> None:
    """As Roboflow writes a project that is named like its class."""
    coco = coco_of(40)
    coco["categories"][0]["supercategory"] = "cat"
    coco["categories"].insert(0, {"id": 0, "name": "cat", "supercategory": "none"})
    (folder / "annotations.json").write_text(json.dumps(coco))
    assert load(folder).classes == ("cat", "dog")


def test_two_lists_of_one_folder(folder: Path, tmp_path: Path) -> None:
    coco = coco_of(40)
    for name, kept in (("train", range(30)), ("test", range(30, 40))):
        images = [image for image in coco["images"] if image["id"] in kept]
        objects = [one for one in coco["annotations"] if one["image_id"] in kept]
        (tmp_path / f"{name}.json").write_text(json.dumps({**coco, "images": images, "annotations": objects}))
    given = {"annotations": str(tmp_path / "train.json"), "test_annotations": str(tmp_path / "test.json")}
    assert names(load(folder, **given))[2] == {f"{i}.png" for i in range(30, 40)}


def test_all_but_test_is_trained_on_in_the_end(folder: Path) -> None:
    data = load(folder).all_but_test()
    assert (len(data.train), len(data.search), len(data.test)) == (32, 0, 8)
    assert data.normalized((0.5,) * 3, (0.2,) * 3).train.normalization.mean == (0.5,) * 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"group_by": "("}, r"--group-by '\(' is no regular expression"),
        ({"test_data": "."}, r"is both the training and the test data"),
        ({"data": "scenes", "annotations": "x.json"}, r"--annotations x.json has no meaning with --data scenes"),
        ({"data": "scenes", "test_fraction": 0.1}, r"--test-fraction 0.1 has no meaning with --data scenes"),
        ({"data": "no-such-folder"}, r"no such path: no-such-folder"),
    ],
)
def test_flags_that_mean_nothing(
    folder: Path, options: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    with pytest.raises(UserError, match=message):
        load(**{"data": ".", **options})


def test_nothing_to_train_on_is_refused(folder: Path) -> None:
    (folder / "annotations.json").write_text(json.dumps({**coco_of(40), "annotations": []}))
    with pytest.raises(UserError, match=r"has no object on any image; give images with objects"):
        load(folder)


def test_too_few_images_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has 2 images, too few for a train, a search and a test split"):
        load(write_coco(tmp_path, coco_of(2)))


def test_splits_of_masks(tmp_path: Path) -> None:
    write_masks(tmp_path / "a", 30)
    (tmp_path / "names.txt").write_text("ground\ncat\ndog\n")
    data = load_masks(MasksConfig(data=str(tmp_path / "a"), classes=str(tmp_path / "names.txt")))
    assert data.classes == ("ground", "cat", "dog") and len(data.test) == 6
    turned = data.test.with_classes(("dog", "cat", "ground"), "", "")
    assert np.array_equal(turned.mask(0), 2 - data.test.mask(0))
    with pytest.raises(UserError, match=r"has masks of one class beside the ignored index 0"):
        load_masks(MasksConfig(data=str(write_masks(tmp_path / "b", 30, (0, 1))), ignore_index=0))
    with pytest.raises(UserError, match=r"--test-masks x has no meaning without --test-data"):
        load_masks(MasksConfig(data=str(tmp_path / "a"), test_masks="x"))
