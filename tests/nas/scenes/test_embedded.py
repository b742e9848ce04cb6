from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from nas.data.embedded import written
from nas.data.sources import Skipped
from nas.scenes import BoxesConfig, MasksConfig, embedded, load_boxes, load_masks
from nas.scenes.__main__ import main
from nas.scenes.embedded import CLASSES, MIN_VISIBLE, SIDE, SIDES, draw_scene, drawn_boxes, drawn_masks
from nas.scenes.reading import Place, read_boxes, read_masks
from search_spaces import UserError


@pytest.fixture(autouse=True)
def _few(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(embedded, "NUM_TRAIN", 24)
    monkeypatch.setattr(embedded, "NUM_TEST", 8)
    embedded.scenes.cache_clear()
    yield
    embedded.scenes.cache_clear()


def test_splits_of_the_embedded_scenes() -> None:
    boxes, masks = load_boxes(BoxesConfig()), load_masks(MasksConfig())
    assert boxes.classes == CLASSES and masks.classes == ("background", *CLASSES)
    for data in (boxes, masks):
        assert [len(part) for part in (data.train, data.search, data.test)] == [18, 6, 8]
        assert data.test.image(0).size == (SIDE, SIDE)
    assert boxes.splits.digest != masks.splits.digest


def test_a_scene_is_of_its_seed_and_its_boxes_are_those_of_its_masks() -> None:
    grey, digits = written()
    scene, again = (draw_scene(np.random.default_rng(7), grey, digits) for _ in range(2))
    assert np.array_equal(scene.pixels, again.pixels) and np.array_equal(scene.objects, again.objects)
    assert sorted(set(scene.objects.ravel().tolist()) - {0}) == list(range(1, len(scene.labels) + 1))
    for number, label in enumerate(scene.labels, start=1):
        left, top, right, bottom = scene.box(number)
        inside = scene.objects == number
        assert inside[top:bottom, left:right].sum() == inside.sum()
        assert inside[top].any() and inside[bottom - 1].any() and inside[:, left].any() and inside[:, right - 1].any()
        assert (scene.mask[inside] == label + 1).all()


def test_scenes_have_what_tells_networks_apart() -> None:
    """Every class, objects from small to large, some hidden in part, and none but a few pixels of it."""
    found = embedded.scenes(test=False)
    boxes = drawn_boxes(False, Skipped(False)).boxes
    assert set(boxes.labels.tolist()) == set(range(len(CLASSES)))
    sides = np.sqrt((boxes.boxes[:, 2:] - boxes.boxes[:, :2]).prod(axis=1))
    assert sides.min() < 26 and sides.max() > 60
    assert boxes.area.min() > MIN_VISIBLE * 0.2 * SIDES[0] ** 2
    assert 2 < np.mean([len(scene.labels) for scene in found]) < 7
    assert not {scene.pixels.tobytes() for scene in found} & {s.pixels.tobytes() for s in embedded.scenes(test=True)}


def test_written_and_read_they_are_the_same(tmp_path: Path) -> None:
    main(["--out", str(tmp_path / "scenes")])
    with pytest.raises(UserError, match=r"scenes exists; give another --out"):
        main(["--out", str(tmp_path / "scenes")])
    tmp_path = tmp_path / "scenes" / "test"
    place, skipped = Place(str(tmp_path)), Skipped(strict=True)
    boxes, drawn = read_boxes(place, skipped), drawn_boxes(True, skipped)
    assert boxes.boxes.digest() == drawn.boxes.digest() and boxes.classes == drawn.classes
    assert np.array_equal(np.asarray(boxes.image(3)), np.asarray(drawn.image(3)))
    names = ("background", *CLASSES)
    of_files = read_masks(place, 255, names, skipped)
    of_runs = read_masks(Place(str(tmp_path), str(tmp_path / "annotations.json")), 255, None, skipped)
    expected = drawn_masks(True, skipped)
    assert of_files.classes == of_runs.classes == expected.classes
    for i in range(len(expected)):
        assert np.array_equal(of_files.mask(i), expected.mask(i)) and np.array_equal(of_runs.mask(i), expected.mask(i))
