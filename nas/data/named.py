"""Data sets by a name that timm knows: torchvision's, Hugging Face's, TensorFlow's, and web datasets."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from nas.data.pixels import decode
from search_spaces import UserError
from search_spaces.command import reason

PREFIXES = ("torch", "hfds", "hfids", "tfds", "wds")

Item = tuple[bytes | Image.Image | Exception, int]  # an image's content, or why it has none, and its label


def is_named(name: str) -> bool:
    return name.partition("/")[0].lower() in PREFIXES and not Path(name).exists()


@dataclass(frozen=True)
class Named:
    """Images by position, read when asked for. The digest covers their labels."""

    dataset: Any
    labels: np.ndarray
    classes: tuple[str, ...]
    white_level: float | None = None

    def content(self, position: int) -> bytes | Image.Image:
        """The encoded image, or the decoded one where the data set gives no bytes."""
        reader = getattr(
            self.dataset, "reader", None
        )  # its dataset would silently read another image for a corrupt one
        if reader is None:
            return self.dataset[position][0]
        with reader[position][0] as file:
            return file.read()

    def image(self, position: int) -> Image.Image:
        return decode(self.content(position), self.white_level)

    def name(self, position: int) -> str:
        samples = getattr(self.dataset, "samples", None)  # torchvision's
        return str(samples[position][0]) if samples else f"image {position}"

    def digest(self) -> str:
        return hashlib.sha256(self.labels.tobytes()).hexdigest()


def create(name: str, root: str | None, split: str) -> Any:
    """timm's data set, its errors as one line."""
    from timm.data import create_dataset

    if root is None and not name.lower().startswith("hf"):
        raise UserError(f"{name} needs --data-dir, the folder that holds it")
    if root is not None and not Path(root).exists():
        raise UserError(f"--data-dir {root} does not exist; name the folder that holds {name}")
    place = root if root is None else str(Path(root).resolve())  # absolute: webdataset runs what begins with "pipe:"
    try:
        return create_dataset(name, root=place, search_split=False, split=split)
    except ImportError as error:
        raise UserError(f"{name} needs a package ({error}); pip install datasets webdataset") from None
    except Exception as error:  # whatever four libraries raise on files that are not what they should be
        remedy = f"see --data-dir and --train-split (now {split}); download it first"
        raise UserError(f"cannot read {name}: {reason(error)}; {remedy}") from None


def with_labels(name: str, dataset: Any, white_level: float | None) -> Named:
    """
    Raises:
        UserError: labels that are no class.
    """
    labels = _labels(name, dataset)
    reader = getattr(dataset, "reader", dataset)
    mapping = getattr(reader, "class_to_idx", None) or getattr(reader, "class_name_to_idx", None)
    classes = tuple(sorted(mapping, key=mapping.get)) if mapping else numbered(labels)
    if labels.min(initial=0) < 0 or labels.max(initial=0) >= len(classes):
        raise UserError(f"{name} has images without a class; give a split that is labelled")
    return Named(dataset, labels, classes, white_level)


def numbered(labels: np.ndarray) -> tuple[str, ...]:
    return tuple(map(str, range(labels.max(initial=-1) + 1)))


def _labels(name: str, dataset: Any) -> np.ndarray:
    """(n,) labels, without decoding an image where the data set knows them."""
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


def stream(dataset: Any, skip: Callable[[str, str], None]) -> Iterator[Item]:
    """A stream is decoded by timm, which logs an image that it cannot read and goes on.

    Args:
        skip: is told the name of each such image and the reason.
    """
    position = 0

    class Corrupt(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            skip(f"an image after image {position} of the stream", record.getMessage())

    handler, logger = Corrupt(), logging.getLogger("timm.data")
    logger.addHandler(handler)
    try:
        for position, (image, label) in enumerate(dataset, start=1):  # noqa: B007
            yield image, int(label)
    finally:
        logger.removeHandler(handler)
