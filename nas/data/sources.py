"""Images by position, with their labels: of a folder or .tar, of a named data set, or decoded and held in memory.

A source gives each image's name, a digest of all (whether the data is what it was), and what tells copies of an image.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from tqdm import tqdm

from nas.data.classes import class_name, in_order, shown
from nas.data.classified import classify
from nas.data.duplicates import TAIL_BYTES, Candidate, Marks, Sketch, hashed, in_threads, marks, sketch
from nas.data.listing import Listing, Span, read_span, some, warn
from nas.data.named import Item, Named, create, numbered, stream, with_labels
from nas.data.pixels import CORRUPT, Header, UnknownWhiteError, decode, decode_with_peak, read_header, why_unreadable
from nas.distributed import process
from search_spaces import UserError

MEMORY_BYTES = 2**30  # decode a set once if it fits
STREAM_BYTES = 8 * 2**30  # a stream has no positions, so it must fit
MIN_PEAK = 0.5  # of white, which the brightest of several images of more than 8 bits reaches


class Skipped:
    """Corrupt images: each is warned about once, or refused."""

    def __init__(self, strict: bool) -> None:
        self.strict = strict
        self.names: dict[str, None] = {}

    def add(self, name: str, reason: str) -> None:
        if self.strict:
            raise UserError(f"{name} cannot be read ({reason}); mend or remove it, or leave out --strict-images")
        if name not in self.names:
            self.names[name] = None
            warn(f"skipped {name}: {reason}")


@dataclass(frozen=True)
class Files:
    """Images of a folder or .tar, read when asked for. The digest covers their names and labels.

    Args:
        root: the folder that the paths start from, or the .tar.
        spans: the place of each in the .tar; None in a folder.
    """

    root: Path
    paths: tuple[str, ...]
    spans: tuple[Span | None, ...]
    labels: np.ndarray
    classes: tuple[str, ...]
    white_level: float | None = None

    def content(self, position: int) -> bytes:
        span = self.spans[position]
        if span is None:
            return (self.root / self.paths[position]).read_bytes()
        return read_span(self.root, span)

    def image(self, position: int) -> Image.Image:
        return decode(self.content(position), self.white_level)

    def header(self, position: int) -> Header:
        """The image's size and orientation; raises CORRUPT."""
        span = self.spans[position]
        return read_header(self.root / self.paths[position] if span is None else self.content(position))

    def name(self, position: int) -> str:
        return shown(self.paths[position])

    def digest(self) -> str:
        names = "\n".join(self.paths).encode(errors="surrogatepass")
        return hashlib.sha256(names + self.labels.tobytes()).hexdigest()

    def candidates(self) -> list[Candidate]:
        sketches = in_threads(self._sketch, len(self.paths))
        return [Candidate(found, partial(self._hash, i)) for i, found in enumerate(sketches)]

    def _sketch(self, position: int) -> Sketch | None:
        try:
            return self._tail(position)
        except OSError as error:
            why_unreadable(error)  # an image of its own; it is named when it is to be seen
            return None

    def _tail(self, position: int) -> Sketch:
        if span := self.spans[position]:
            start, count = span
            tail = min(count, TAIL_BYTES)
            return sketch(count, read_span(self.root, (start + count - tail, tail)))
        with (self.root / self.paths[position]).open("rb") as file:
            count = file.seek(0, os.SEEK_END)
            file.seek(max(0, count - TAIL_BYTES))
            return sketch(count, file.read(TAIL_BYTES))

    def _hash(self, position: int) -> bytes | None:
        try:
            return hashed(self.content(position))
        except OSError as error:
            why_unreadable(error)
            return None


@dataclass(frozen=True)
class Decoded:
    """Images held in memory. The digest covers what they were decoded from.

    Args:
        paths: as the source named them; empty for what has no names.
    """

    pixels: Sequence[np.ndarray]
    labels: np.ndarray
    classes: tuple[str, ...]
    content_digest: str
    paths: tuple[str, ...] = ()
    marks: tuple[Marks, ...] = ()

    def image(self, position: int) -> Image.Image:
        return Image.fromarray(self.pixels[position])

    def name(self, position: int) -> str:
        return shown(self.paths[position]) if self.paths else f"image {position}"

    def digest(self) -> str:
        return self.content_digest

    def candidates(self) -> list[Candidate]:
        return [found.candidate() for found in self.marks]


Source = Files | Named | Decoded


def open_listing(listing: Listing, class_depth: int | None, white_level: float | None, skipped: Skipped) -> Source:
    """The images of a folder or .tar, decoded if they fit in memory; what is left out is told.

    Raises:
        UserError: no images, or none that can be read; folders that may or may not be classes.
    """
    names = classify(listing, class_depth)
    listing.tell()
    classes = in_order(names.values())
    _tell_alike(listing.name, classes)
    index = {name: i for i, name in enumerate(classes)}
    labels = np.array([index[name] for name in names.values()], dtype=np.int64)
    return held(files(listing, labels, classes, white_level), listing.name, skipped)


def files(listing: Listing, labels: np.ndarray, classes: tuple[str, ...], white_level: float | None) -> Files:
    """The images of a folder or .tar, with a label each."""
    root = listing.root / listing.inside if listing.root.is_dir() else listing.root
    return Files(root, tuple(listing.images), tuple(listing.images.values()), labels, classes, white_level)


def _tell_alike(name: str, classes: Sequence[str]) -> None:
    """Says which classes differ only in capitals or spaces: one, misspelt?"""
    seen: dict[str, str] = {}
    for found in classes:
        if (other := seen.setdefault(" ".join(found.casefold().split()), found)) != found:
            warn(f"{name}: {other!r} and {found!r} are two classes; rename a folder if they are one")


def tell_order(listing: Listing, classes: tuple[str, ...]) -> None:
    """Says where decomposed names of folders have another order, in which other programs number the classes."""
    spelled = {class_name(part): part for folder in listing.folders for part in folder.split("/")}
    theirs = tuple(sorted(classes, key=lambda name: spelled.get(name, name)))
    if theirs != classes:
        first = next(name for name, ours in zip(theirs, classes, strict=True) if name != ours)
        warn(
            f"{listing.name}: folders have decomposed names, as macOS writes them, by which torchvision's ImageFolder "
            f"has {shown(first)} as class number {theirs.index(first)}, here {classes.index(first)}; give --classes "
            "with the order of a checkpoint that was trained so"
        )


def open_named(name: str, root: str | None, split: str, white_level: float | None, skipped: Skipped) -> Source:
    """The images of a named data set's split, decoded if they fit in memory.

    Raises:
        UserError: no such data set or split, no images, labels that are no class.
    """
    from torch.utils.data import IterableDataset

    dataset = create(name, root, split)
    if isinstance(dataset, IterableDataset):
        return _decode_all(stream(dataset, skipped.add), None, name, white_level, skipped)
    return held(with_labels(name, dataset, white_level), name, skipped)


# ---- decoding


def held(source: Files | Named, name: str, skipped: Skipped) -> Source:
    """Decoded in memory, if it fits, without the corrupt images, which are told.

    Raises:
        UserError: none of the images tried can be read; images of more than 8 bits that are all dark.
    """
    if not _fits(source, name):
        return source
    return _decode_all(_contents(source), source, name, source.white_level, skipped)


def _contents(source: Files | Named) -> Iterator[Item]:
    for position, label in enumerate(source.labels):
        try:
            yield source.content(position), int(label)
        except CORRUPT as error:
            yield error, int(label)


def _fits(source: Files | Named, name: str) -> bool:
    """Judged by a few images, of which those of more than 8 bits are bright enough."""
    sizes, peaks = [], []
    for position in np.linspace(0, len(source.labels) - 1, min(len(source.labels), 16)).astype(int):
        try:
            image, peak = decode_with_peak(source.content(position), source.white_level)
        except UnknownWhiteError as error:
            raise UserError(f"{source.name(position)}: {error}") from None
        except CORRUPT as error:
            why_unreadable(error)
            continue
        sizes.append(3 * image.width * image.height)
        peaks.append(peak)
    if not sizes:
        tried = f", such as {source.name(0)}" if len(source.labels) else ""
        raise UserError(f"none of the images tried in {name} can be read{tried}; give another folder, .tar or data set")
    _check_peaks(peaks, name, source.white_level)
    return float(np.mean(sizes)) * len(source.labels) <= MEMORY_BYTES


def _check_peaks(peaks: Sequence[float | None], name: str, white_level: float | None) -> None:
    """UserError if images of more than 8 bits are all dark: their files do not say which value is white."""
    deep = [peak for peak in peaks if peak is not None]
    if white_level is None and deep and max(deep) < MIN_PEAK:
        raise UserError(
            f"{name} has images of more than 8 bits that reach {100 * max(deep):.2g} % of white at most, so they would "
            "be dark; give --white-level, their value of white: 1023 of 10 bits, 4095 of 12 (65535, 1 of floats, if "
            "they are that dark)"
        )


class _Image(NamedTuple):
    """A decoded one; `position` and `label` as its source has them."""

    position: int
    label: int
    pixels: np.ndarray
    peak: float | None
    marks: Marks


def _decode_all(
    items: Iterator[Item], source: Files | Named | None, name: str, white_level: float | None, skipped: Skipped
) -> Decoded:
    """Decodes everything; `source` is None for a stream."""
    sha, used, images = hashlib.sha256(), 0, []
    for image, stored in _decoded(items, source, white_level, skipped):
        images.append(image)
        sha.update(stored)
        used += image.pixels.nbytes
        if used > STREAM_BYTES:
            raise UserError(
                f"a stream of over {STREAM_BYTES >> 30} GiB of pixels cannot be split; give a folder, .tar or hfds/"
            )
    _check_peaks([image.peak for image in images], name, white_level)
    labels = np.array([image.label for image in images], dtype=np.int64)
    sha.update(labels.tobytes())
    classes = numbered(labels) if source is None else source.classes
    if isinstance(source, Files):
        labels, classes = _with_images(name, labels, classes)
    paths = tuple(source.paths[image.position] for image in images) if isinstance(source, Files) else ()
    return Decoded(
        [image.pixels for image in images], labels, classes, sha.hexdigest(), paths, tuple(i.marks for i in images)
    )


def _decoded(
    items: Iterator[Item], source: Files | Named | None, white_level: float | None, skipped: Skipped
) -> Iterator[tuple[_Image, bytes]]:
    """Each image that can be read, and the bytes that it was read from."""
    total = None if source is None else len(source.labels)
    hidden = not process.is_primary()
    bar = tqdm(items, total=total, desc="reading images", unit="img", leave=False, disable=hidden)
    for position, (content, label) in enumerate(bar):
        try:
            if isinstance(content, Exception):
                raise content
            image, peak = decode_with_peak(content, white_level)
        except CORRUPT as error:
            skipped.add(f"image {position}" if source is None else source.name(position), why_unreadable(error))
            continue
        pixels, encoded = np.asarray(image), content if isinstance(content, bytes) else None
        stored = content if isinstance(content, bytes) else content.tobytes()
        yield _Image(position, label, pixels, peak, marks(encoded, pixels)), stored


def _with_images(name: str, labels: np.ndarray, classes: tuple[str, ...]) -> tuple[np.ndarray, tuple[str, ...]]:
    """Without the classes of which nothing could be read, which are told."""
    used, numbers = np.unique(labels, return_inverse=True)
    if len(used) < len(classes):
        without = [c for i, c in enumerate(classes) if i not in set(used)]
        warn(f"{name}: left out classes of which no image can be read: {some(without)}")
    return numbers.astype(np.int64), tuple(classes[i] for i in used)
