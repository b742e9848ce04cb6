"""Which images are trained on and which are tested on."""

from __future__ import annotations

from pathlib import Path

import pytest

from search_spaces import UserError
from tests.nas.data.test_listing import add
from tests.nas.data.test_splits import load, make_tar
from tests.nas.tiny import make_images


@pytest.fixture(params=["folder", "tar"])
def place(request: pytest.FixtureRequest, tmp_path: Path):
    """Makes what lies in `tmp_path / "x"` a data set of that kind."""
    return lambda: tmp_path / "x" if request.param == "folder" else make_tar(tmp_path / "x", tmp_path / "x.tar", "x")


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("Train", "Testing"),
        ("training", "valid"),
        ("train", "dev"),
        ("training_set", "test_set"),
        ("seg_train", "seg_test"),
        ("train2017", "val2017"),
    ],
)
def test_splits_have_many_names(tmp_path, place, train, test) -> None:
    make_images(tmp_path / "x" / train, per_class=10)
    make_images(tmp_path / "x" / test, per_class=2, seed=1)
    data = load(place())
    assert (len(data.train) + len(data.search), len(data.test)) == (30, 6)


def test_splits_within_folders_of_their_name(tmp_path, place, capsys) -> None:
    make_images(tmp_path / "x/seg_train/seg_train", per_class=10)
    make_images(tmp_path / "x/seg_test/seg_test", per_class=2, seed=1)
    add(tmp_path / "x/seg_pred/seg_pred", "0.png", "1.png")
    assert len(load(place()).test) == 6
    assert "not read beside it: seg_pred" in capsys.readouterr().err


def test_a_flat_test_folder_is_left_out_with_a_word(tmp_path, place, capsys) -> None:
    make_images(tmp_path / "x/train", per_class=10)
    add(tmp_path / "x/test", "0.png", "1.png")
    data = load(place())
    assert (len(data.train) + len(data.search), len(data.test)) == (24, 6), "carved"
    assert "not read beside it: test (test has no class folders)" in capsys.readouterr().err
    make_images(tmp_path / "x/val", per_class=3, seed=1)
    assert len(load(place()).test) == 9, "val, which is labelled"
    with pytest.raises(UserError, match="test has 2 images without a folder"):
        load(place(), test_split="test")


def test_of_two_test_folders_one_is_named(tmp_path, place, capsys) -> None:
    for seed, name in enumerate(("train", "val", "test")):
        make_images(tmp_path / "x" / name, per_class=10 - 3 * seed, seed=seed)
    assert len(load(place()).test) == 12
    assert "not read beside it: val; --test-split names the one to test on" in capsys.readouterr().err
    assert len(load(place(), test_split="val").test) == 21
    make_images(tmp_path / "x/test2", per_class=3, seed=9)
    assert len(load(place()).test) == 12, "the exact name"
    (tmp_path / "x/test").rename(tmp_path / "x/test1")
    with pytest.raises(UserError, match="lie test1, test2 to test on; choose one by --test-split"):
        load(place())


def test_none_carves_whatever_lies_beside(tmp_path, place) -> None:
    make_images(tmp_path / "x/train", per_class=10)
    make_images(tmp_path / "x/test", per_class=2, seed=1)
    data = load(place(), test_data="none")
    assert (len(data.train), len(data.search), len(data.test)) == (20, 4, 6)
    assert len(load("digits", test_data="none").test) == 359


def test_a_class_may_be_called_train(tmp_path, place) -> None:
    make_images(tmp_path / "x", per_class=10, classes=("bus", "car", "train"))
    assert load(place()).classes == ("bus", "car", "train")


def test_splits_without_class_folders_are_no_classes(tmp_path, place) -> None:
    add(tmp_path / "x", "train/0.png", "train/1.png", "test/2.png", "test/3.png")
    with pytest.raises(UserError, match="train has 2 images without a folder"):
        load(place())


def test_two_training_folders_want_a_choice(tmp_path, place) -> None:
    make_images(tmp_path / "x/train1", per_class=4)
    make_images(tmp_path / "x/train2", per_class=4, seed=1)
    with pytest.raises(UserError, match="has train1, train2 to train on; choose one by --train-split"):
        load(place())
    assert len(load(place(), train_split="train2", search_fraction=0.3).train) > 0


def test_a_training_folder_without_images_is_refused(tmp_path, place) -> None:
    """And the test images are not trained on instead."""
    make_images(tmp_path / "x/test", per_class=10)
    (tmp_path / "x/train/cat").mkdir(parents=True)
    (tmp_path / "x/train/cat/notes.txt").write_text("")
    with pytest.raises(UserError, match="train has no images"):
        load(place())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"data_dir": "x"}, "--data-dir x has no meaning"),
        ({"test_split": "a", "test_data": "b"}, "name two test splits"),
        ({"data": "digits", "test_data": "b"}, "--test-data b has no meaning"),
        ({"data": "digits", "group_by": "b"}, "--group-by b has no meaning"),
        ({"data": "digits", "class_depth": 1}, "--class-depth 1 has no meaning"),
        ({"group_by": "("}, "is no regular expression"),
        ({"group_by": "zebra"}, r"matches no path of .*, such as blue/0.png"),
        ({"test_data": "nowhere"}, "no such path: nowhere"),
    ],
)
def test_flags_that_cannot_act_are_refused(tmp_path, options, message) -> None:
    make_images(tmp_path / "x", per_class=4)
    with pytest.raises(UserError, match=message):
        load(**{"data": tmp_path / "x", **options})


# ---- TinyImageNet


@pytest.fixture
def tiny_imagenet(tmp_path):
    """As it is published: train/CLASS/images, val/images with a text of their classes, test/images without."""
    for name, seed in (("n01", 1), ("n02", 2)):
        make_images(tmp_path / "x/train" / name, per_class=10, classes=("images",), seed=seed)
        (tmp_path / f"x/train/{name}/{name}_boxes.txt").write_text("")
    add(tmp_path / "x/val/images", *(f"val_{i}.png" for i in range(6)))
    add(tmp_path / "x/test/images", "test_0.png", "test_1.png")
    lines = [f"val_{i}.png\tn0{1 + i % 2}\t0\t0\t9\t9\n" for i in range(6)]
    (tmp_path / "x/val/val_annotations.txt").write_text("".join(lines))
    return lines


def test_tiny_imagenet_is_tested_by_its_annotations(tmp_path, place, tiny_imagenet, capsys) -> None:
    data = load(place())
    assert data.classes == ("n01", "n02") and len(data.train) + len(data.search) == 20
    assert data.test.labels.tolist() == [0, 1, 0, 1, 0, 1]
    assert "not read beside it: test (test has no class folders)" in capsys.readouterr().err
    assert load(tmp_path / "x/train", test_data=str(tmp_path / "x/val")).test.labels.tolist() == [0, 1] * 3


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("val_0.png n01\n", r"val_annotations\.txt, line 7 has no class; give lines of a file's name, a tab"),
        ("val_0.png\tn02\n", r"gives val_0\.png two classes, n01 and n02; leave one line"),
        ("val_0.png\t\n", "line 7 has no class"),
    ],
)
def test_annotations_that_cannot_be_read(tmp_path, place, tiny_imagenet, line, message) -> None:
    (tmp_path / "x/val/val_annotations.txt").write_text("".join([*tiny_imagenet, line]))
    with pytest.raises(UserError, match=message):
        load(place())


def test_images_and_annotations_that_miss_each_other_are_named(tmp_path, place, tiny_imagenet, capsys) -> None:
    (tmp_path / "x/val/val_annotations.txt").write_text("".join([*tiny_imagenet[1:], "val_9.png\tn01\n"]))
    assert len(load(place()).test) == 5
    told = capsys.readouterr().err
    assert "left out 1 not named in val_annotations.txt (images/val_0.png)" in told
    assert "val_annotations.txt names 1 images that are not there: val_9.png" in told
