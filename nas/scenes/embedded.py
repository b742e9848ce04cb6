"""Scenes drawn from scikit-learn's handwritten digits: plates with digits on a textured ground, with boxes and masks.

A plate's class is its digit; plates with other digits, with scrambled ones or with none are no objects. What one plate
hides of another is no part of its mask, nor of its box. Test scenes are of digits that no training scene has.
"""

from __future__ import annotations

import hashlib
from functools import cache
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from nas.data.embedded import written
from nas.data.sources import Decoded, Skipped
from nas.data.splits import IMAGENET
from nas.scenes.boxes import Boxes
from nas.scenes.masks import IGNORED, Drawn
from nas.scenes.pictures import Pictures
from nas.scenes.polygons import BACKGROUND
from nas.scenes.run_lengths import RunLengths, packed
from nas.scenes.views import BoxScenes, InstanceScenes, MaskScenes

EMBEDDED = "scenes"  # the name that --data gives
CLASSES = tuple("012345")
NUM_TRAIN, NUM_TEST = 800, 300  # scenes
TEST_DIGITS = 500  # of 1,797, the last
SIDE = 128  # of a scene, in pixels
SIDES = (28, 96)  # of a plate
MIN_VISIBLE = 0.5  # of a plate, whatever hides it
MOST_DEGREES = 15  # that a plate is turned
ATTEMPTS = 8  # at a place for a plate


class Scene(NamedTuple):
    """
    Args:
        pixels: (128, 128, 3) uint8.
        objects: (128, 128) uint8, which object each pixel shows, from 1; 0 is none.
        labels: of the objects.
    """

    pixels: np.ndarray
    objects: np.ndarray
    labels: tuple[int, ...]

    @property
    def mask(self) -> np.ndarray:
        """(128, 128) uint8: 0 is background, 1 the first class."""
        return np.array([0, *(label + 1 for label in self.labels)], dtype=np.uint8)[self.objects]

    def box(self, number: int) -> tuple[int, int, int, int]:
        """Left, top, right, bottom of what is seen of an object, in pixels."""
        rows, columns = np.nonzero(self.objects == number)
        return int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1

    @property
    def outlines(self) -> list[RunLengths]:
        """What is seen of each object."""
        numbers = np.arange(1, len(self.labels) + 1)
        return packed(self.objects == numbers[:, None, None])


@cache
def scenes(test: bool) -> tuple[Scene, ...]:
    """Those to train on, or to test on; the same on every machine."""
    grey, digits = written()
    part = slice(-TEST_DIGITS, None) if test else slice(-TEST_DIGITS)
    count = NUM_TEST if test else NUM_TRAIN
    return tuple(draw_scene(np.random.default_rng((test, i)), grey[part], digits[part]) for i in range(count))


def drawn_boxes(test: bool, skipped: Skipped) -> BoxScenes:
    """The scenes with their boxes; areas are those of the masks."""
    found = scenes(test)
    numbers = [(one, number) for one in found for number in range(1, len(one.labels) + 1)]
    boxes = Boxes(
        starts=np.cumsum([0, *(len(one.labels) for one in found)]),
        boxes=np.array([one.box(number) for one, number in numbers], dtype=np.float32),
        labels=np.array([one.labels[number - 1] for one, number in numbers], dtype=np.int64),
        iscrowd=np.zeros(len(numbers), dtype=bool),
        area=np.array([(one.objects == number).sum() for one, number in numbers], dtype=np.float32),
    )
    return BoxScenes(_pictures(found), np.arange(len(found)), CLASSES, skipped, IMAGENET, boxes)


def drawn_instances(test: bool, skipped: Skipped) -> InstanceScenes:
    """The scenes with their boxes, and what is seen in each."""
    boxes = drawn_boxes(test, skipped)
    masks = [mask for one in scenes(test) for mask in one.outlines]
    return InstanceScenes(**vars(boxes), masks=masks)


def drawn_masks(test: bool, skipped: Skipped) -> MaskScenes:
    """The scenes with a class for each pixel, the first that of the ground and of what is no object."""
    found = scenes(test)
    classes = (BACKGROUND, *CLASSES)
    table = np.full(IGNORED + 1, IGNORED, dtype=np.uint8)
    table[: len(classes)] = np.arange(len(classes))
    masks = Drawn([one.mask for one in found])
    return MaskScenes(_pictures(found), np.arange(len(found)), classes, skipped, IMAGENET, masks, table)


def _pictures(found: tuple[Scene, ...]) -> Pictures:
    paths = tuple(f"{i:04}.png" for i in range(len(found)))
    digest = hashlib.sha256(b"".join(one.pixels.tobytes() for one in found)).hexdigest()
    source = Decoded([one.pixels for one in found], np.zeros(len(found), dtype=np.int64), ("",), digest, paths)
    return Pictures(source, {})


# ---- drawing


class _Plate(NamedTuple):
    """An RGBA image, and its class; None of what is no object."""

    image: Image.Image
    label: int | None


def draw_scene(rng: np.random.Generator, grey: np.ndarray, digits: np.ndarray) -> Scene:
    """
    Args:
        grey: (N, 8, 8) uint8 strokes; `digits` (N,) says which they are.
    """
    image = _textured(rng, SIDE, rng.integers(40, 200, 3), spread=60, stripes=35)
    objects = np.zeros((SIDE, SIDE), dtype=np.uint8)
    areas: list[int] = []
    labels: list[int] = []
    kinds = [True] * int(rng.integers(2, 7)) + [False] * int(rng.integers(2, 5))
    for is_object in rng.permutation(kinds):
        plate = _plate(rng, grey, digits, bool(is_object))
        if (place := _place(rng, plate, objects, areas)) is None:
            continue
        image.paste(plate.image, place, plate.image)
        window, hides = _hides(plate, place)
        objects[window][hides] = 0
        if plate.label is not None:
            labels.append(plate.label)
            areas.append(int(hides.sum()))
            objects[window][hides] = len(labels)
    noise = rng.standard_normal((SIDE, SIDE, 3), dtype=np.float32) * rng.uniform(2, 8)
    noisy = np.asarray(image) + noise
    return Scene(noisy.clip(0, 255).astype(np.uint8), objects, tuple(labels))


def _place(rng: np.random.Generator, plate: _Plate, objects: np.ndarray, areas: list[int]) -> tuple[int, int] | None:
    """Left and top, up to a quarter of the plate beside the scene, where enough of each object remains; or None."""
    quarter = np.array(plate.image.size) // 4
    seen = np.bincount(objects.ravel(), minlength=len(areas) + 1)[1:]
    for _ in range(ATTEMPTS):
        left, top = (int(n) for n in rng.integers(-quarter, SIDE - 3 * quarter))
        window, hides = _hides(plate, (left, top))
        hidden = np.bincount(objects[window][hides], minlength=len(areas) + 1)[1:]
        if (seen - hidden >= MIN_VISIBLE * np.array(areas)).all():
            return left, top
    return None


def _hides(plate: _Plate, place: tuple[int, int]) -> tuple[tuple[slice, slice], np.ndarray]:
    """The rows and columns of the scene that the plate's image covers, and (bool) which of these pixels it hides."""
    (left, top), (width, height) = place, plate.image.size
    window = slice(max(0, top), top + height), slice(max(0, left), left + width)
    opaque = np.asarray(plate.image.getchannel("A")) > 127
    return window, opaque[max(0, -top) : SIDE - top, max(0, -left) : SIDE - left]


def _plate(rng: np.random.Generator, grey: np.ndarray, digits: np.ndarray, is_object: bool) -> _Plate:
    side = round(float(np.exp(rng.uniform(*np.log(SIDES)))))
    colour, ink = rng.integers(0, 110, 3), rng.integers(150, 256, 3)
    image = _textured(rng, side, colour, spread=20, stripes=10)
    label, strokes = _strokes(rng, grey, digits, is_object)
    size = round(side * rng.uniform(0.65, 0.8))
    left, top = (int(n) for n in (side - size) * rng.uniform(0.4, 0.6, 2))
    mask = Image.fromarray(strokes).resize((size, size), Image.Resampling.BICUBIC)
    image.paste(Image.new("RGB", (size, size), tuple(ink.tolist())), (left, top), mask)
    image.putalpha(_outline(rng, side))
    turned = image.rotate(rng.uniform(-MOST_DEGREES, MOST_DEGREES), Image.Resampling.BILINEAR, expand=True)
    return _Plate(turned, label)


def _strokes(
    rng: np.random.Generator, grey: np.ndarray, digits: np.ndarray, is_object: bool
) -> tuple[int | None, np.ndarray]:
    """The class and (8, 8) uint8 strokes: of an object, or of another digit, of one in disorder, or none."""
    named = digits < len(CLASSES)
    if is_object:
        which = rng.choice(np.flatnonzero(named))
        return int(digits[which]), grey[which]
    kind = rng.integers(3)
    if kind == 0:
        return None, grey[rng.choice(np.flatnonzero(~named))]
    if kind == 1:
        quarters = grey[rng.choice(len(grey))].reshape(2, 4, 2, 4).transpose(0, 2, 1, 3).reshape(4, 4, 4)
        shifted = quarters[(np.arange(4) + rng.integers(1, 4)) % 4]
        return None, shifted.reshape(2, 2, 4, 4).transpose(0, 2, 1, 3).reshape(8, 8)
    return None, np.zeros((8, 8), dtype=np.uint8)


def _outline(rng: np.random.Generator, side: int) -> Image.Image:
    """A plate's shape (L): an ellipse, a rectangle with round corners or a polygon, smaller one way than the other."""
    fine = 2 * side  # drawn without smooth edges, then made smaller
    image = Image.new("L", (fine, fine))
    draw = ImageDraw.Draw(image)
    width, height = fine * rng.uniform(0.75, 1, 2)
    box = ((fine - width) / 2, (fine - height) / 2, (fine + width) / 2, (fine + height) / 2)
    kind = rng.integers(3)
    if kind == 0:
        draw.ellipse(box, fill=255)
    elif kind == 1:
        draw.rounded_rectangle(box, fine * rng.uniform(0.05, 0.25), fill=255)
    else:
        draw.regular_polygon((side, side, side), int(rng.integers(5, 8)), float(rng.uniform(0, 360)), fill=255)
    return image.resize((side, side), Image.Resampling.BOX)


def _textured(rng: np.random.Generator, side: int, colour: np.ndarray, spread: int, stripes: int) -> Image.Image:
    """RGB, `side` pixels each way: a cloud around the colour, with stripes of any direction over it."""
    cells = max(2, side // int(rng.integers(10, 33)))
    cloud = (colour + rng.integers(-spread, spread + 1, (cells, cells, 3))).clip(0, 255).astype(np.uint8)
    smooth = np.asarray(Image.fromarray(cloud).resize((side, side), Image.Resampling.BICUBIC))
    angle, period = rng.uniform(0, np.pi), rng.uniform(4, 24)
    way = np.arange(side, dtype=np.float32) * np.float32(2 * np.pi / period)
    waves = np.sin(way[:, None] * np.float32(np.sin(angle)) + way * np.float32(np.cos(angle)))
    striped = smooth + waves[..., None] * rng.uniform(0, stripes, 3).astype(np.float32)
    return Image.fromarray(striped.clip(0, 255).astype(np.uint8))
