"""Images that come with a package: scikit-learn's digits, as they are and as small scenes that are hard to read."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import numpy as np
from PIL import Image

from nas.data.sources import Decoded

SIDE = 64  # of a scene, in pixels
FRAGMENTS = 4  # of other digits, behind the one to be read
CLASSES = tuple(map(str, range(10)))


def digits() -> Decoded:
    """scikit-learn's 1,797 handwritten digits of 8x8 pixels."""
    grey, labels = written()
    return _decoded(tuple(np.repeat(grey[..., None], 3, axis=-1)), labels)


def clutter() -> Decoded:
    """Each of the digits once more, on 64x64 pixels: turned, coloured, of any size, among pieces of others.

    As hard as small photos are, so that networks of different sizes differ: see docs/images.md.
    """
    grey, labels = written()
    return _decoded(tuple(_scene(np.random.default_rng(i), grey, i) for i in range(len(grey))), labels)


EMBEDDED: dict[str, Callable[[], Decoded]] = {"digits": digits, "clutter": clutter}  # by the name that --data gives


def written() -> tuple[np.ndarray, np.ndarray]:
    """(N, 8, 8) uint8, and which digits they are."""
    from sklearn.datasets import load_digits

    data = load_digits()
    return (data.images * (255 / 16)).astype(np.uint8), data.target


def _decoded(pixels: tuple[np.ndarray, ...], labels: np.ndarray) -> Decoded:
    return Decoded(pixels, labels, CLASSES, hashlib.sha256(b"".join(image.tobytes() for image in pixels)).hexdigest())


def _scene(rng: np.random.Generator, grey: np.ndarray, which: int) -> np.ndarray:
    """(64, 64, 3) uint8: the digit over pieces of others, all in colours of their own, on a coloured cloud."""
    cloud = rng.integers(0, 110, (4, 4, 3), dtype=np.uint8)
    scene = Image.fromarray(cloud).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    for _ in range(FRAGMENTS):
        top, left = rng.integers(0, 5, 2)
        piece = grey[rng.integers(len(grey)), top : top + 4, left : left + 4]
        _paste(rng, scene, piece, int(rng.integers(12, 26)), 180, rng.integers(30, 170, 3))
    _paste(rng, scene, grey[which], int(rng.integers(34, 54)), 20, rng.integers(130, 256, 3))
    noisy = np.asarray(scene) + rng.normal(0, 8, (SIDE, SIDE, 3))
    return noisy.clip(0, 255).astype(np.uint8)


def _paste(
    rng: np.random.Generator, scene: Image.Image, strokes: np.ndarray, side: int, most_degrees: int, colour: np.ndarray
) -> None:
    """Paints strokes (bright pixels), turned and resized, somewhere into the scene."""
    mask = Image.fromarray(strokes).resize((side, side), Image.Resampling.BICUBIC)
    mask = mask.rotate(rng.uniform(-most_degrees, most_degrees), Image.Resampling.BICUBIC, expand=True)
    left, top = (int(n) for n in rng.integers(0, np.maximum(1, SIDE - np.array(mask.size))))
    scene.paste(Image.new("RGB", mask.size, tuple(colour.tolist())), (left, top), mask)
