"""Datasets by path or name, as images by position.

Listing and reading are timm's. What is ours: images are as people see them (turned as the camera noted, 16 bits
scaled to 8, hidden files left out), small sets are decoded once, a corrupt image is named, and a digest tells whether
a dataset is the one it was.
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
import struct
import sys
import zlib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from tarfile import TarInfo
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from tqdm import tqdm

from nas.distributed import process
from search_spaces import UserError

MEMORY_BYTES = 2**30  # decode a set once if it fits
STREAM_BYTES = 8 * 2**30  # a stream has no positions, so it must fit
NAMED = ("torch", "hfds", "hfids", "tfds", "wds")  # prefixes of timm's dataset names

# What Pillow raises on bytes that are no image.
CORRUPT: tuple[type[Exception], ...] = (OSError, SyntaxError, ValueError, EOFError, IndexError, TypeError)
CORRUPT += (struct.error, zlib.error, Image.DecompressionBombError)


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
            tqdm.write(f"warning: skipped {name}: {reason}", file=sys.stderr)  # the primary's alone is seen


@dataclass(frozen=True)
class Files:
    """Images by position, read when asked for by timm or torchvision. The digest covers their names and labels."""

    dataset: Any
    rows: np.ndarray  # (n,) positions in the dataset
    labels: np.ndarray
    classes: tuple[str, ...]
    paths: tuple[str, ...] = ()  # within the folder or .tar

    def content(self, position: int) -> bytes | Image.Image:
        """The encoded image, or the decoded one where the dataset gives no bytes."""
        row = int(self.rows[position])
        reader = getattr(
            self.dataset, "reader", None
        )  # its dataset would silently read another image for a corrupt one
        if reader is None:
            return self.dataset[row][0]
        if hasattr(reader, "tar_state"):
            return _read_tar(reader.root, *reader.samples[row])
        with reader[row][0] as file:
            return file.read()

    def image(self, position: int) -> Image.Image:
        return decode(self.content(position))

    def name(self, position: int) -> str:
        if self.paths:
            return self.paths[position]
        samples = getattr(self.dataset, "samples", None)  # torchvision's
        return str(samples[position][0]) if samples else f"image {position}"

    def digest(self) -> str:
        names = "\n".join(self.paths).encode(errors="surrogateescape")
        return hashlib.sha256(names + self.labels.tobytes()).hexdigest()


@dataclass(frozen=True)
class Decoded:
    """Images held in memory. The digest covers what they were decoded from."""

    pixels: Sequence[np.ndarray]
    labels: np.ndarray
    classes: tuple[str, ...]
    content_digest: str

    def image(self, position: int) -> Image.Image:
        return Image.fromarray(self.pixels[position])

    def name(self, position: int) -> str:
        return f"image {position}"

    def digest(self) -> str:
        return self.content_digest


Source = Files | Decoded


def _read_tar(path: str, member: TarInfo, _: str | None, inner: TarInfo | None) -> bytes:
    """A file of a .tar, or of a .tar in it, opened anew: an open file cannot be shared with the loading processes."""
    with Path(path).open("rb") as file:
        file.seek(member.offset_data + (inner.offset_data if inner else 0))
        return file.read(member.size)


def decode(content: bytes | Image.Image) -> Image.Image:
    """RGB, upright."""
    try:
        image = content if isinstance(content, Image.Image) else Image.open(io.BytesIO(content))
    except UnidentifiedImageError:  # its message names an object in memory
        raise OSError("it is no image") from None
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16 bits, which Pillow would clip to 8
        image = Image.fromarray((np.asarray(image).clip(0, 65535) >> 8).astype(np.uint8))
    return (image.convert("RGBA") if "transparency" in image.info else image).convert("RGB")


def digits() -> Decoded:
    """scikit-learn's 1,797 handwritten digits of 8x8 pixels."""
    from sklearn.datasets import load_digits

    data = load_digits()
    grey = (data.images * (255 / 16)).astype(np.uint8)
    digest = hashlib.sha256(grey.tobytes()).hexdigest()
    return Decoded(tuple(np.repeat(grey[..., None], 3, axis=-1)), data.target, tuple(map(str, range(10))), digest)


def open_source(name: str, root: str | None, split: str, skipped: Skipped) -> Source:
    """The images of a path or of a named dataset's split, decoded if they fit in memory.

    Raises:
        UserError: no such path or split, no images, labels that are no class.
    """
    from torch.utils.data import IterableDataset

    dataset = _create(name, root, split)
    if isinstance(dataset, IterableDataset):
        return _decode_all(_stream(dataset, skipped), None, skipped)
    source = _files(name, dataset)
    return _decode_all(_contents(source), source, skipped) if _fits(source, name) else source


def is_named(name: str) -> bool:
    return name.partition("/")[0].lower() in NAMED and not Path(name).exists()


def _create(name: str, root: str | None, split: str) -> Any:
    """timm's dataset, its errors as one line."""
    if not is_named(name):
        path = Path(name).expanduser()
        if not path.exists():
            raise UserError(f"no such path: {name}; give an image folder, a .tar, or a name such as torch/cifar10")
        if path.is_file() and path.suffix != ".tar":
            raise UserError(f"{name} is no .tar; give an image folder or a .tar with a folder for each class")
        options = {"cache_tarinfo": False} if path.is_file() else {}  # an index cached beside the .tar may be stale
        return _created(name, "give a folder or .tar with a folder of images for each class", "", str(path), **options)
    if root is None and not name.lower().startswith("hf"):
        raise UserError(f"{name} needs --data-dir, the folder that holds it")
    if root is not None and not Path(root).exists():
        raise UserError(f"--data-dir {root} does not exist; name the folder that holds {name}")
    return _created(name, f"see --data-dir and --train-split (now {split}); download it first", name, root, split=split)


def _created(shown: str, remedy: str, name: str, root: str | None, **options: Any) -> Any:
    from timm.data import create_dataset
    from timm.data.readers.img_extensions import add_img_extensions

    add_img_extensions((".bmp", ".tif", ".tiff", ".webp"))  # timm itself lists .png, .jpg and .jpeg
    try:
        return create_dataset(name, root=root, search_split=False, **options)
    except ImportError as error:
        raise UserError(f"{shown} needs a package ({error}); pip install 'mobile-nas[streams]'") from None
    except Exception as error:  # whatever four libraries raise on files that are not what they should be
        reason = (str(error).splitlines() or [""])[0] or type(error).__name__
        raise UserError(f"cannot read {shown}: {reason}; {remedy}") from None


def _files(name: str, dataset: Any) -> Files:
    reader = getattr(dataset, "reader", dataset)
    labels = _labels(name, dataset)
    mapping = getattr(reader, "class_to_idx", None) or getattr(reader, "class_name_to_idx", None)
    classes = tuple(sorted(mapping, key=mapping.get)) if mapping else _numbered(labels)
    if labels.min(initial=0) < 0 or labels.max(initial=0) >= len(classes):
        raise UserError(f"{name} has images without a class; give a split that is labelled")
    if reader is dataset or not hasattr(reader, "samples"):
        return Files(dataset, np.arange(len(labels)), labels, classes)
    paths = reader.filenames()
    rows = np.array([i for i, path in enumerate(paths) if not _hidden(path)], dtype=np.int64)
    used, labels = np.unique(labels[rows], return_inverse=True)
    visible = tuple(paths[i] for i in rows)
    if (root := Path(name).expanduser()).is_dir() and process.is_primary():
        _warn_ignored(root, set(paths))
    _check_folders(name, visible)
    return Files(dataset, rows, labels, tuple(classes[i] for i in used), visible)


def _numbered(labels: np.ndarray) -> tuple[str, ...]:
    return tuple(map(str, range(labels.max(initial=-1) + 1)))


def _labels(name: str, dataset: Any) -> np.ndarray:
    """(n,) labels, without decoding an image where the dataset knows them."""
    reader = getattr(dataset, "reader", dataset)
    if hasattr(reader, "iter_targets"):
        labels = list(reader.iter_targets())
    elif hasattr(reader, "targets"):
        labels = reader.targets
    elif hasattr(reader, "samples"):
        labels = [label for _, label in reader.samples]
    else:
        labels = [dataset[i][1] for i in range(len(dataset))]
    array = np.asarray(labels)
    if array.ndim != 1 or (len(array) and array.dtype.kind not in "iu"):
        raise UserError(f"{name} has labels such as {labels[0]!r}; give a dataset with one whole number for each image")
    return array.astype(np.int64)


def _hidden(path: str) -> bool:
    return any(part.startswith(".") for part in PurePosixPath(path).parts)


def _warn_ignored(root: Path, images: Collection[str]) -> None:
    """Says what of a folder is no image by its extension, and which folders have none: a class of HEIC files, say.

    Args:
        images: paths from the root.
    """
    from timm.data.readers.img_extensions import get_img_extensions

    others: Counter[str] = Counter()
    without = []
    for folder, folders, files in os.walk(root, followlinks=True):  # as timm does
        folders[:] = [name for name in folders if not name.startswith(".")]
        relative = Path(folder).relative_to(root).as_posix()
        visible = [file for file in files if not file.startswith(".")]
        ignored = [file for file in visible if (file if relative == "." else f"{relative}/{file}") not in images]
        others.update(PurePosixPath(file).suffix.lower() or "without extension" for file in ignored)
        if not folders and len(ignored) == len(visible):
            without.append(relative)
    if others or without:
        what = ", ".join(f"{count} {suffix}" for suffix, count in others.most_common(5))
        parts = [f"ignored files: {what}"] if others else []
        parts += [f"folders without images: {', '.join(sorted(without)[:5])}"] if without else []
        known = ", ".join(get_img_extensions())
        tqdm.write(f"warning: {root}: {'; '.join(parts)}; images end in {known}", file=sys.stderr)


def _check_folders(name: str, paths: Iterable[str]) -> None:
    """UserError if two folders have one name: timm would make them one class."""
    folders: dict[str, PurePosixPath] = {}
    for folder in sorted({PurePosixPath(path).parent for path in paths}):
        if (other := folders.setdefault(folder.name, folder)) != folder:
            raise UserError(
                f"{name} has two folders {folder.name!r}, {other} and {folder}; a class is named by the folder "
                "its images lie in: rename or move one, or give the folder above the classes"
            )


# ---- decoding

Item = tuple[bytes | Image.Image | Exception, int]  # an image's content, or why it has none, and its label


def _contents(source: Files) -> Iterator[Item]:
    for position, label in enumerate(source.labels):
        try:
            yield source.content(position), int(label)
        except CORRUPT as error:
            yield error, int(label)


def _stream(dataset: Any, skipped: Skipped) -> Iterator[Item]:
    """A stream is decoded by timm, which logs an image that it cannot read and goes on."""
    position = 0

    class Corrupt(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            skipped.add(f"an image after image {position} of the stream", record.getMessage())

    handler, logger = Corrupt(), logging.getLogger("timm.data")
    logger.addHandler(handler)
    try:
        for position, (image, label) in enumerate(dataset, start=1):  # noqa: B007
            yield image, int(label)
    finally:
        logger.removeHandler(handler)


def _fits(source: Files, name: str) -> bool:
    """Judged by a few images."""
    sizes = []
    for position in np.linspace(0, len(source.rows) - 1, min(len(source.rows), 16)).astype(int):
        try:
            sizes.append(np.asarray(source.image(position)).nbytes)
        except CORRUPT:
            continue
    if not sizes:
        raise UserError(f"none of the images tried in {name} can be read, such as {source.name(0)}")
    return float(np.mean(sizes)) * len(source.rows) <= MEMORY_BYTES


def _decode_all(items: Iterator[Item], source: Files | None, skipped: Skipped) -> Decoded:
    """Decodes everything; `source` is None for a stream."""
    pixels: list[np.ndarray] = []
    labels: list[int] = []
    used, sha = 0, hashlib.sha256()
    total = None if source is None else len(source.labels)
    hidden = not process.is_primary()
    bar = tqdm(items, total=total, desc="reading images", unit="img", leave=False, disable=hidden)
    for position, (content, label) in enumerate(bar):
        try:
            if isinstance(content, Exception):
                raise content
            pixels.append(np.asarray(decode(content)))
        except CORRUPT as error:
            skipped.add(f"image {position}" if source is None else source.name(position), str(error))
            continue
        labels.append(label)
        sha.update(content if isinstance(content, bytes) else content.tobytes())
        used += pixels[-1].nbytes
        if used > STREAM_BYTES:
            raise UserError(
                f"a stream of over {STREAM_BYTES >> 30} GiB of pixels cannot be split; give a folder, .tar or hfds/"
            )
    array = np.array(labels, dtype=np.int64)
    sha.update(array.tobytes())
    return Decoded(pixels, array, _numbered(array) if source is None else source.classes, sha.hexdigest())
