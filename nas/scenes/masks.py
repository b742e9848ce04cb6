"""Masks of a set of images: the index of each pixel, and what it means."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from PIL import Image

from nas.data.duplicates import hashed, in_threads
from nas.data.listing import Listing, some
from nas.data.pixels import CORRUPT, why_unreadable
from nas.data.sources import Files, Skipped, files
from nas.scenes.formats.coco import Size
from search_spaces import UserError

IGNORED = 255  # no class: the pixel does not count
_MODES = ("1", "L", "P", "I;16", "I")  # of Pillow, which hold a number a pixel


class Masks(Protocol):
    """Masks by row, as indices that a table makes classes of.

    `found` (rows, 256) bool says which indices each mask may hold, `digest` what they were read from.
    """

    @property
    def found(self) -> np.ndarray: ...

    @property
    def digest(self) -> str: ...

    def of(self, row: int) -> np.ndarray:
        """(H, W) uint8; raises CORRUPT."""


@dataclass(frozen=True)
class Drawn:
    """Masks held in memory."""

    masks: Sequence[np.ndarray]

    @cached_property
    def found(self) -> np.ndarray:
        return np.stack([indices_in(mask) for mask in self.masks])

    @property
    def digest(self) -> str:
        return hashlib.sha256(b"".join(mask.tobytes() for mask in self.masks)).hexdigest()

    def of(self, row: int) -> np.ndarray:
        return self.masks[row]


@dataclass(frozen=True)
class MaskFiles:
    """Masks of a folder or .tar, read when asked for.

    Args:
        positions: (rows,) of each among the files.
    """

    files: Files
    positions: np.ndarray
    found: np.ndarray
    digest: str

    def of(self, row: int) -> np.ndarray:
        position = int(self.positions[row])
        return decode_mask(self.files.content(position), self.files.name(position))


def indices_in(mask: np.ndarray) -> np.ndarray:
    """(256,) bool, which a (H, W) uint8 mask holds."""
    return np.bincount(mask.ravel(), minlength=256) > 0


def decode_mask(content: bytes, name: str) -> np.ndarray:
    """(H, W) uint8: the numbers that an image file holds, of one with a palette its indices.

    Raises:
        CORRUPT: no image.
        UserError: an image of colours, of a format that changes numbers, or with numbers below 0 or above 255.
    """
    with Image.open(io.BytesIO(content)) as image:
        if image.mode not in _MODES or image.format in ("JPEG", "WEBP", "JPEG2000"):
            raise UserError(
                f"the mask {name} is {image.format} of mode {image.mode}; give PNG with an index a pixel (mode L or P)"
            )
        indices = np.asarray(image)
    if indices.dtype != bool and (indices.min(initial=0) < 0 or indices.max(initial=0) > IGNORED):
        raise UserError(
            f"the mask {name} holds indices from {indices.min()} to {indices.max()}; give indices from 0 to {IGNORED}"
        )
    return indices.astype(np.uint8)


@dataclass(frozen=True)
class Meaning:
    """Classes of indices: a (256,) uint8 table with the class of each, 255 where a pixel does not count."""

    classes: tuple[str, ...]
    table: np.ndarray


def meaning(found: np.ndarray, names: Sequence[str] | None, ignore: int, where: str) -> Meaning:
    """
    Args:
        found: (rows, 256) bool, the indices that masks hold.
        names: of the indices from 0 on; None names each that occurs by its number.
        ignore: the index whose pixels do not count; -1 for none.

    Raises:
        UserError: indices beyond the names.
    """
    held = np.flatnonzero(found.any(axis=0))
    if names is None:
        names, known = [str(i) for i in range(IGNORED + 1)], held
    else:
        known = np.arange(len(names))
        if len(unknown := np.setdiff1d(held, [*known, ignore])):
            raise UserError(
                f"{where} has masks with indices that --classes does not name: {some([str(i) for i in unknown])} "
                f"(it names 0 to {len(names) - 1}); name them, or give --ignore-index where one does not count"
            )
    known = known[known != ignore][:IGNORED]
    table = np.full(IGNORED + 1, IGNORED, dtype=np.uint8)
    table[known] = np.arange(len(known))
    return Meaning(tuple(names[i] for i in known), table)


# ---- folders of masks


def pair(images: Listing, masks: Listing) -> dict[str, str]:
    """The mask's path of each image, by their paths without endings; what has no other half is left out.

    Raises:
        UserError: no pair; two masks of one name.
    """
    by_stem: dict[str, str] = {}
    for path in masks.images:
        if (other := by_stem.setdefault(_stem(path), path)) != path:
            raise UserError(f"{masks.name} has two masks of one name, {some([other, path])}; remove one")
    images.leave_out([path for path in images.images if _stem(path) not in by_stem], "without a mask")
    if not images.images:
        raise UserError(
            f"no image of {images.name} has a mask in {masks.name}; give masks of the same names, 1.png for 1.jpg"
        )
    stems = {_stem(path) for path in images.images}
    masks.leave_out([path for path in masks.images if _stem(path) not in stems], "without an image")
    masks.tell()
    return {path: by_stem[_stem(path)] for path in images.images}


def _stem(path: str) -> str:
    return path.rpartition(".")[0]


@dataclass(frozen=True)
class Looked:
    """A look at each mask of a folder: its size, the indices that it holds and a hash, by its path."""

    source: Files
    sizes: Mapping[str, Size]
    found: Mapping[str, np.ndarray]
    hashes: Mapping[str, bytes]

    def of(self, paths: Sequence[str]) -> MaskFiles:
        """The masks of these paths, by row."""
        places = {path: position for position, path in enumerate(self.source.paths)}
        digest = hashlib.sha256(b"".join(self.hashes[path] for path in paths)).hexdigest()
        positions = np.array([places[path] for path in paths], dtype=np.int64)
        return MaskFiles(self.source, positions, np.stack([self.found[path] for path in paths]), digest)


def look(masks: Listing, skipped: Skipped) -> Looked:
    """Reads each mask once; corrupt ones are skipped, and told.

    Raises:
        UserError: what is no mask; a corrupt one, if none may be skipped.
    """
    source = files(masks, np.zeros(len(masks.images), dtype=np.int64), ("",), None)

    def read(position: int) -> tuple[Size, np.ndarray, bytes] | str:
        try:
            content = source.content(position)
            mask = decode_mask(content, source.name(position))
        except CORRUPT as error:
            return why_unreadable(error)
        return (mask.shape[1], mask.shape[0]), indices_in(mask), hashed(content)

    seen = dict(zip(source.paths, in_threads(read, len(source.paths)), strict=True))
    for path, reason in seen.items():
        if isinstance(reason, str):
            skipped.add(path, reason)
    known = {path: one for path, one in seen.items() if not isinstance(one, str)}
    sizes, found, hashes = ({path: one[i] for path, one in known.items()} for i in range(3))
    return Looked(source, sizes, found, hashes)  # type: ignore[arg-type]
