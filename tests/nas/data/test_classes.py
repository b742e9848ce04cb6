from __future__ import annotations

import os
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest
from torchvision.datasets import ImageFolder

from nas.data import DataConfig, load_data
from nas.data.classes import check_class_names, read_classes, shown
from search_spaces import UserError
from tests.nas.data.test_splits import load
from tests.nas.tiny import make_images

ROOT = Path(__file__).parents[3]


def test_the_order_is_torchvisions(tmp_path: Path) -> None:
    """Checkpoints of others have it: 1, 10, 11, 2, not as people count."""
    make_images(tmp_path, per_class=4, classes=tuple(map(str, range(1, 13))))
    assert list(load(tmp_path).classes) == ImageFolder(str(tmp_path)).classes == sorted(map(str, range(1, 13)))


def test_the_order_is_the_same_in_every_process(tmp_path: Path) -> None:
    """Also of names that a natural sort cannot tell apart."""
    make_images(tmp_path, per_class=4, classes=("a1", "a01", "A1", "a001"))
    code = f"from nas.data import *; d = load_data(DataConfig({str(tmp_path)!r})); print(*d.classes, d.splits.digest)"
    printed = set()
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": seed}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        printed.add(done.stdout)
    assert len(printed) == 1 and printed.pop().startswith("A1 a001 a01 a1 ")


def test_names_that_macos_decomposes_are_the_same_class(tmp_path: Path) -> None:
    decomposed = unicodedata.normalize("NFD", "café")
    make_images(tmp_path / "train", per_class=9, classes=(decomposed, "tea"))
    make_images(tmp_path / "test", per_class=3, classes=("café", "tea"), seed=1)
    assert load(tmp_path).classes == ("café", "tea")
    make_images(tmp_path / "two", per_class=3, classes=(decomposed, "café"))
    with pytest.raises(UserError, match="has two folders 'café'"):
        load(tmp_path / "two")


def test_classes_that_differ_in_capitals_or_spaces_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_images(tmp_path, per_class=4, classes=("Cat", "cat", "dog"))
    assert load(tmp_path).classes == ("Cat", "cat", "dog")
    assert "'Cat' and 'cat' are two classes" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        (b"caf\xe9", "is not UTF-8"),
        (b"a\nb", "holds a line break"),
        ("a\u2028b".encode(), "holds a line break"),
        (b"a\tb", "control character"),
        (b"  ", "is empty"),
    ],
)
def test_names_that_no_list_can_hold_are_refused(tmp_path: Path, name: bytes, problem: str) -> None:
    make_images(tmp_path, per_class=4, classes=("x", "y"))
    (tmp_path / "x").rename(tmp_path / os.fsdecode(name))
    with pytest.raises(UserError, match=f"{tmp_path} has a class .* {problem}") as caught:
        load(tmp_path)
    assert str(caught.value).isprintable()
    str(caught.value).encode()


@pytest.mark.parametrize(
    "text",
    [
        "b\na\nc\n",
        "\ufeffb\r\na\r\nc\r\n\r\n",
        '["b", "a", "c"]',
        '{"a": 1, "b": 0, "c": 2}',
        '{"0": "b", "2": "c", "1": "a"}',
    ],
)
def test_a_list_of_classes_is_read(tmp_path: Path, text: str) -> None:
    (tmp_path / "f").write_text(text, encoding="utf-8", newline="")
    assert read_classes(str(tmp_path / "f")) == ("b", "a", "c")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 0, "b": 2}', "is no list of classes"),
        ('{"a": true, "b": 0}', "is no list of classes"),
        ('{"a": [0]}', "is no list of classes"),
        ("[1, 2]", "is no list of classes"),
        ("[]", "is no list of classes"),
        ('["a"', "is no JSON"),
        ("a\nb\na", "has 'a' twice"),
        ("a\n\nb", "whose name is empty"),
        ("", "whose name is empty"),
    ],
)
def test_what_is_no_list_of_classes_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "f").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        read_classes(str(tmp_path / "f"))


def test_no_file_or_another_encoding_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"caf\xe9\nb")
    for file, message in (
        (tmp_path / "f", "is not UTF-8"),
        (tmp_path, "directory"),
        (tmp_path / "none", "No such file"),
    ):
        with pytest.raises(UserError, match=message):
            read_classes(str(file))


def test_labels_follow_the_list(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_images(tmp_path / "x")
    (tmp_path / "list").write_text("red\nviolet\nblue\ngreen\n")
    sorted_data, data = load(tmp_path / "x"), load(tmp_path / "x", classes=str(tmp_path / "list"))
    assert data.classes == ("red", "violet", "blue", "green")
    names = [[found.classes[label] for label in found.train.labels] for found in (sorted_data, data)]
    assert names[0] == names[1]
    assert sorted_data.splits.digest != data.splits.digest
    assert "1 of 4 classes have no image to train on: violet" in capsys.readouterr().err
    (tmp_path / "list").write_text("red\nblue\n")
    with pytest.raises(UserError, match=r"has classes that --classes lacks \(green\)"):
        load(tmp_path / "x", classes=str(tmp_path / "list"))


def test_names_are_checked_and_shown_on_one_line() -> None:
    check_class_names(["golden retriever", "café", "日本"], "x")
    assert shown("a\nb\udce9é") == "a\\nb\\udce9é"


def test_another_order_of_decomposed_names_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = unicodedata.normalize("NFD", "äpfel")
    make_images(tmp_path / "images", 10, (name, "birne", "zebra"))
    assert ImageFolder(tmp_path / "images").classes[0] == name
    assert load_data(DataConfig(data=str(tmp_path / "images"))).classes == ("birne", "zebra", "äpfel")
    assert "ImageFolder has äpfel as class number 0, here 2; give --classes" in capsys.readouterr().err
    (tmp_path / "c.txt").write_text("äpfel\nbirne\nzebra\n", encoding="utf-8")
    load_data(DataConfig(data=str(tmp_path / "images"), classes=str(tmp_path / "c.txt")))
    assert "ImageFolder" not in capsys.readouterr().err
