"""Copies and groups never lie on two sides of a split."""

from __future__ import annotations

import re
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nas.data import Data, Images, sources
from nas.data.duplicates import Candidate, content_keys, grouped
from tests.nas.data.test_listing import picture
from tests.nas.data.test_splits import load, make_tar
from tests.nas.tiny import make_images


@pytest.fixture(params=[True, False], ids=["in memory", "too large for memory"])
def held(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    if not request.param:
        monkeypatch.setattr(sources, "MEMORY_BYTES", 0)
    return bool(request.param)


def names(images: Images) -> set[str]:
    return {images.name(i) for i in range(len(images))}


def splits(data: Data) -> tuple[set[str], set[str], set[str]]:
    return names(data.train), names(data.search), names(data.test)


@pytest.mark.parametrize("kind", ["folder", "tar"])
def test_copies_are_on_one_side_and_told(tmp_path: Path, held: bool, kind: str, capsys) -> None:
    folder = make_images(tmp_path / "x", per_class=10)
    for i in range(10):
        for copy in range(3):
            shutil.copy(folder / f"red/{i}.png", folder / f"red/{i}-copy{copy}.png")
    place = folder if kind == "folder" else make_tar(folder, tmp_path / "x.tar")
    for seed in range(3):
        for part in splits(load(place, split_seed=seed, search_fraction=0.3)):
            reds = {name.split("-")[0].removesuffix(".png") for name in part if name.startswith("red")}
            assert len({name for name in part if name.startswith("red")}) == 4 * len(reds)
    assert (
        "30 of 60 images are copies of others (red/0-copy1.png of red/0-copy0.png); copies stay"
        in capsys.readouterr().err
    )
    parts = splits(load(place, allow_duplicates=True))
    assert "copies" not in capsys.readouterr().err
    assert sum(map(len, parts)) == 60


def test_other_encodings_of_the_same_pixels_are_copies(tmp_path: Path, capsys) -> None:
    folder = make_images(tmp_path / "x", per_class=10)
    for i in range(10):
        Image.open(folder / f"red/{i}.png").save(folder / f"red/{i}.bmp")
    for part in splits(load(folder, search_fraction=0.3)):
        stems = [name.partition(".")[0] for name in part if name.startswith("red")]
        assert len(stems) == 2 * len(set(stems))
    assert "10 of 40 images are copies" in capsys.readouterr().err


def test_training_images_that_are_test_images_are_left_out(tmp_path: Path, held: bool, capsys) -> None:
    train, test = make_images(tmp_path / "train"), make_images(tmp_path / "test", per_class=4, seed=1)
    shutil.copy(test / "red/0.png", train / "red/again.png")
    shutil.copy(test / "red/1.png", train / "blue/wrong.png")
    data = load(tmp_path)
    assert len(data.test) == 12 and len(data.train) + len(data.search) == 60
    assert not {"red/again.png", "blue/wrong.png"} & (splits(data)[0] | splits(data)[1])
    assert "left out 2 training images that are copies of test images" in capsys.readouterr().err
    data = load(tmp_path, allow_duplicates=True)
    assert len(data.train) + len(data.search) == 62


def test_a_test_set_in_memory_is_compared_with_training_images_that_are_not(
    tmp_path: Path, monkeypatch, capsys
) -> None:
    make_images(tmp_path / "train")
    make_images(tmp_path / "test", per_class=4)  # of the same seed, so 12 copies
    monkeypatch.setattr(sources, "MEMORY_BYTES", 20 * 3 * 16 * 16)
    data = load(tmp_path)
    assert isinstance(data.train.source, sources.Files) and isinstance(data.test.source, sources.Decoded)
    assert len(data.train) + len(data.search) == 60 - 4
    assert "left out" in capsys.readouterr().err


def test_one_image_in_two_classes_is_told(tmp_path: Path, held: bool, capsys) -> None:
    folder = make_images(tmp_path / "x")
    shutil.copy(folder / "blue/3.png", folder / "red/b.png")
    load(folder)
    assert "1 of them lie in another class, such as red/b.png" in capsys.readouterr().err


def test_equal_ends_are_not_equal_files(tmp_path: Path, held: bool, capsys) -> None:
    """Uncompressed images with a black border agree in size and last bytes."""
    for name in ("a", "b"):
        for i in range(10):
            pixels = np.zeros((64, 64, 3), np.uint8)
            pixels[-1] = (i, ord(name), 99)  # a .bmp begins with the lowest row
            picture(tmp_path / name / f"{i}.bmp")
            Image.fromarray(pixels).save(tmp_path / name / f"{i}.bmp")
    load(tmp_path)
    assert "copies" not in capsys.readouterr().err


def test_groups_of_an_expression_are_on_one_side(tmp_path: Path, held: bool, capsys) -> None:
    for label, name in enumerate("ab"):
        for thing in range(12):
            for view in range(3):
                picture(tmp_path / name / f"thing{thing}_{view}.png", 1000 * label + 10 * thing + view)
    data = load(tmp_path, group_by=r"^(\w)/thing(\d+)_")
    things = [{re.sub(r"_\d.png", "", name) for name in part} for part in splits(data)]
    assert not things[0] & things[1] and not things[0] & things[2] and not things[1] & things[2]
    assert {len(part) % 3 for part in splits(data)} == {0}
    assert (len(data.train), len(data.search), len(data.test)) == (48, 9, 15)
    load(tmp_path, group_by=r"thing(1\d)_")
    assert "--group-by does not match 60 paths (a/thing0_0.png, a/thing0_1.png, …)" in capsys.readouterr().err


def test_groups_of_training_and_test_images_are_told(tmp_path: Path, capsys) -> None:
    for place, folder in enumerate(("train/a", "train/b", "test/a", "test/b")):
        for thing in range(10):
            picture(tmp_path / folder / f"{thing}.png", 10 * place + thing)
    load(tmp_path, group_by=r"\w/\d+", allow_duplicates=True)
    assert "20 groups of --group-by are among the training and the test images" in capsys.readouterr().err


def test_keys_join_groups_through_others() -> None:
    assert grouped([["a"], [], ["a", "b"], ["c"], ["b"]]).tolist() == [0, 1, 0, 2, 0]
    assert grouped([]).tolist() == []


def test_content_is_read_only_where_sketches_agree() -> None:
    asked = []

    def content(i: int) -> bytes:
        asked.append(i)
        return b"x"

    candidates = [Candidate((5, end), partial(content, i)) for i, end in enumerate((b"p", b"q", b"p"))]
    keys = content_keys(candidates)
    assert asked == [0, 2] and keys[0] == keys[2] != keys[1] == []
