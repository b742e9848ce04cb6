"""Images in, three disjoint splits out: train, search (carved from the training data) and test.

Reading, decoding and augmentation are timm's. What is ours: the splits are drawn once from a seed and recorded;
every random draw of a sample is a function of (seed, epoch, index), so a run continues after a kill exactly where
it was, with any number of workers; small sets are decoded once; a corrupt image is named.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, create_dataset, create_transform
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset
from tqdm import tqdm

from search_spaces import UserError
from search_spaces.command import flag

MEAN, STD = IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
MEMORY_BYTES = 2**30  # decode a set once if it fits
STREAM_BYTES = 8 * 2**30  # a stream has no indices, so it must fit
MAX_SEARCH_IMAGES = 10_000


@dataclass(frozen=True)
class DataConfig:
    data: str = flag("digits", "image folder, .tar, a timm dataset name (torch/…, hfds/…, wds/…), or digits")
    data_dir: str | None = flag(None, "where the dataset of that name lies")
    train_split: str = flag("train", "split of a named dataset to train on")
    test_split: str | None = flag(None, "split of a named dataset to test on (default: carved from the training data)")
    test_data: str | None = flag(None, "folder or .tar of test images (default: test/ or val/ beside train/, or carved)")
    search_fraction: float = flag(0.15, "part of the training data held out for the search", above=0, below=1)
    test_fraction: float = flag(0.2, "part of the data held out for the test if there is no test split", above=0, below=1)
    strict_images: bool = flag(False, "refuse a corrupt image instead of skipping it")
    split_seed: int = flag(0, "seed of the splits", minimum=0)


@dataclass(frozen=True)
class Splits:
    """Sizes of the splits, and a digest of what they were drawn from: other data is noticed."""

    train: int
    search: int
    test: int
    skipped: tuple[str, ...]
    digest: str


class Images(Dataset[tuple[Image.Image, int]]):
    """Map-style images: index to (RGB image, label)."""

    def __init__(self, source: Any, indices: Sequence[int], strict: bool) -> None:
        self.source = source
        self.indices = np.asarray(indices, dtype=np.int64)
        self.strict = strict

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, position: int) -> tuple[Image.Image, int]:
        for attempt in range(min(len(self), 100)):
            index = int(self.indices[(position + attempt) % len(self)])
            try:
                return _read(self.source, index)
            except _CORRUPT as error:
                _corrupt(self.source, index, error, self.strict)
        raise UserError(f"100 images in a row cannot be read, the last is {_filename(self.source, index)}")


@dataclass(frozen=True)
class Data:
    """The three splits and what their labels mean."""

    train: Images
    search: Images
    test: Images
    classes: tuple[str, ...]
    splits: Splits


_CORRUPT = (OSError, SyntaxError, ValueError)  # what Pillow raises on bytes that are no image


def _read(source: Any, index: int) -> tuple[Image.Image, int]:
    if hasattr(source, "reader"):  # timm's own __getitem__ would put another image in a corrupt one's place, unnamed
        file, label = source.reader[index][:2]
        image = file if isinstance(file, Image.Image) else Image.open(file)
    else:
        image, label = source[index]
    return image.convert("RGB"), int(label)


def _filename(source: Any, index: int) -> str:
    return str(source.filename(index)) if hasattr(source, "filename") else f"image {index}"


def _corrupt(source: Any, index: int, error: Exception, strict: bool) -> str:
    name = _filename(source, index)
    if strict:
        raise UserError(f"{name} cannot be read ({error}); mend or remove it, or leave out --strict-images")
    tqdm.write(f"warning: skipped {name}: {error}")
    return name


# ---- sources


class _Memory:
    """Decoded images, kept as arrays."""

    def __init__(self, images: Sequence[np.ndarray], labels: Sequence[int]) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return Image.fromarray(self.images[index]), self.labels[index]


def _digits() -> _Memory:
    from sklearn.datasets import load_digits

    digits = load_digits()
    grey = (digits.images * (255 / 16)).astype(np.uint8)
    return _Memory(np.repeat(grey[..., None], 3, axis=-1), [int(t) for t in digits.target])


def _open(name: str, root: str | None, split: str) -> Any:
    """timm's dataset, its errors as one line."""
    is_path = "/" not in name or Path(name).exists() or name.startswith((".", "/", "~"))
    path = Path(name).expanduser()
    if is_path and not path.exists():
        raise UserError(f"no such path: {name}; give an image folder, a .tar, or a name such as torch/cifar10")
    if is_path and path.is_file() and path.suffix != ".tar":
        raise UserError(f"{name} is a file, but no .tar; give an image folder or a .tar with a folder for each class")
    if not is_path and root is not None and not Path(root).exists():
        raise UserError(f"--data-dir {root} does not exist; name the folder that holds {name}")
    try:
        if is_path:
            return create_dataset("", root=str(path), split=split)
        return create_dataset(name, root=root, split=split)
    except ImportError as error:
        raise UserError(f"{name} needs a package: {error}; pip install 'mobile-nas[streams]'") from None
    except (RuntimeError, AssertionError, OSError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"cannot read {name}: {reason}; it needs images in one folder for each class") from None


def _in_memory(source: Any, strict: bool) -> tuple[Any, list[str]]:
    """The source decoded, and the corrupt images left out of it; unchanged if it is too large to hold."""
    streamed = isinstance(source, IterableDataset)
    if not streamed:
        size = next((np.asarray(_try(source, i)).nbytes for i in range(min(len(source), 50)) if _try(source, i)), None)
        if size is None:
            raise UserError(f"none of the first images can be read, such as {_filename(source, 0)}")
        if size * len(source) > MEMORY_BYTES:
            return source, []
    images, labels, skipped, used = [], [], [], 0
    total = None if streamed else len(source)
    with tqdm(total=total, desc="reading images", unit="img", leave=False) as bar:
        for item in _items(source):
            bar.update()
            if isinstance(item, _Bad):
                skipped.append(_corrupt(source, item.index, item.error, strict))
                continue
            images.append(np.asarray(item[0]))
            labels.append(item[1])
            used += images[-1].nbytes
            if used > STREAM_BYTES:
                raise UserError(
                    f"a stream of over {STREAM_BYTES >> 30} GiB of pixels cannot be split; give it as a folder, .tar or hfds/"
                )
    return _Memory(images, labels), skipped


@dataclass(frozen=True)
class _Bad:
    index: int
    error: Exception


def _items(source: Any) -> Iterator[tuple[Image.Image, int] | _Bad]:
    if isinstance(source, IterableDataset):
        yield from ((image.convert("RGB"), int(label)) for image, label in source)
        return
    for index in range(len(source)):
        try:
            yield _read(source, index)
        except _CORRUPT as error:
            yield _Bad(index, error)


def _try(source: Any, index: int) -> Image.Image | None:
    try:
        return _read(source, index)[0]
    except _CORRUPT:
        return None


def _class_names(source: Any) -> tuple[str, ...] | None:
    """Names in the order of labels, if the source knows them."""
    reader = getattr(source, "reader", None)
    mapping = getattr(reader, "class_to_idx", None) or getattr(source, "class_to_idx", None)
    if mapping:
        return tuple(sorted(mapping, key=lambda name: int(mapping[name])))
    features = getattr(getattr(reader, "dataset", None), "features", None) or {}
    names = getattr(features.get("label"), "names", None)
    return tuple(names) if names else None


# ---- splits


def load_data(config: DataConfig) -> Data:
    """Reads the data and draws the splits; the same config and data give the same splits.

    Raises:
        UserError: no such path, no images, fewer than two classes, too few images for three splits.
    """
    if config.data == "digits":
        source, names = _digits(), tuple(map(str, range(10)))
        skipped: list[str] = []
        test_source = None
    else:
        raw = _open(config.data, config.data_dir, config.train_split)
        names = _class_names(raw) or ()
        raw_test = _open_test(config)
        if raw_test is not None and names and (_class_names(raw_test) or names) != names:
            raise UserError(f"the test images have other classes than {config.data}; give both the same class folders")
        source, skipped = _in_memory(raw, config.strict_images)
        test_source, more = (None, []) if raw_test is None else _in_memory(raw_test, config.strict_images)
        skipped = [*skipped, *more]
    if not names:
        labels = source.labels if isinstance(source, _Memory) else [source[i][1] for i in range(len(source))]
        names = tuple(str(i) for i in range(max(labels, default=0) + 1))
    if len(names) < 2:
        raise UserError(f"{config.data} has {len(names)} class ({', '.join(names)}); a classifier needs at least 2")
    return _split(config, source, test_source, names, skipped)


def _open_test(config: DataConfig) -> Any | None:
    if config.test_data is not None:
        return _open(config.test_data, None, "test")
    if config.test_split is not None:
        return _open(config.data, config.data_dir, config.test_split)
    folder = Path(config.data).expanduser()
    beside = [folder / n for n in ("test", "val", "validation")] if (folder / "train").is_dir() else []
    found = next((path for path in beside if path.is_dir()), None)
    return _open(str(found), None, "test") if found else None


def _split(config: DataConfig, source: Any, test_source: Any, names: tuple[str, ...], skipped: list[str]) -> Data:
    order = np.random.default_rng(config.split_seed).permutation(len(source))
    num_test = 0 if test_source is not None else round(len(order) * config.test_fraction)
    num_search = min(round((len(order) - num_test) * config.search_fraction), MAX_SEARCH_IMAGES)
    test, search, train = np.split(order, [num_test, num_test + num_search])
    sizes = (len(train), len(search), len(test) if test_source is None else len(test_source))
    if min(sizes) < 1:
        raise UserError(f"{config.data} has {len(source)} images, too few for a train, a search and a test split")
    digest = hashlib.sha256(repr((len(source), sizes, names, config.split_seed)).encode()).hexdigest()[:16]
    strict = config.strict_images
    return Data(
        train=Images(source, train, strict),
        search=Images(source, np.sort(search), strict),
        test=Images(source, np.sort(test), strict)
        if test_source is None
        else Images(test_source, range(len(test_source)), strict),
        classes=names,
        splits=Splits(*sizes, skipped=tuple(skipped), digest=digest),
    )


# ---- batches

Augment = Literal["light", "published", "none"]


def train_transform(image_size: int, augment: Augment, hflip: bool) -> Any:
    """timm's training transform, to uint8 (3, image_size, image_size).

    `published` is Table 1 of the supplement; `light` (crops of at least 60 % of the image) suits small images.
    """
    common: dict[str, Any] = {
        "is_training": True,
        "hflip": 0.5 if hflip else 0.0,
        "interpolation": "bicubic",
        "normalize": False,
    }
    if augment == "published":
        return create_transform(image_size, **common, color_jitter=0.4, auto_augment="rand-m9-mstd0.5-inc1")
    if augment == "light":
        return create_transform(image_size, **common, color_jitter=None, scale=(0.6, 1.0))
    return eval_transform(image_size)


def eval_transform(image_size: int) -> Any:
    """timm's evaluation transform, to uint8; small images keep their borders."""
    crop = 0.95 if image_size >= 128 else 1.0
    return create_transform(image_size, is_training=False, crop_pct=crop, interpolation="bicubic", normalize=False)


def normalize(images: Tensor, device: torch.device) -> Tensor:
    """uint8 (B, 3, H, W) to float32 with the ImageNet mean and deviation, channels last, on the device."""
    x = images.to(device, non_blocking=True).float()
    mean = torch.tensor(MEAN, device=device).view(1, 3, 1, 1) * 255
    std = torch.tensor(STD, device=device).view(1, 3, 1, 1) * 255
    return ((x - mean) / std).contiguous(memory_format=torch.channels_last)


class _Transformed(Dataset[tuple[Tensor, int]]):
    """Keys are (epoch, index); every draw of the transform comes from (seed, epoch, index) alone."""

    def __init__(self, images: Images, transform: Any, seed: int) -> None:
        self.images, self.transform, self.seed = images, transform, seed

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, int]:
        epoch, index = key
        seed_all(self.seed, epoch, index)
        image, label = self.images[index]
        return self.transform(image), label


def seed_all(*parts: int) -> None:
    """Seeds Python, NumPy and torch from integers, for libraries that draw from the global generators."""
    state = np.random.SeedSequence(parts).generate_state(1)[0]
    random.seed(int(state))
    np.random.seed(int(state))
    torch.manual_seed(int(state))


class _TrainBatches:
    """Batches of keys from step `start` to the end of the last epoch; incomplete batches are dropped."""

    def __init__(self, num_images: int, batch_size: int, epochs: int, seed: int, start: int) -> None:
        self.num_images, self.batch_size, self.epochs, self.seed, self.start = num_images, batch_size, epochs, seed, start
        self.per_epoch = num_images // batch_size

    def __len__(self) -> int:
        return self.per_epoch * self.epochs - self.start

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for epoch in range(self.start // self.per_epoch, self.epochs):
            order = np.random.default_rng((self.seed, epoch)).permutation(self.num_images)
            first = self.start - epoch * self.per_epoch if epoch == self.start // self.per_epoch else 0
            for b in range(first, self.per_epoch):
                yield [(epoch, int(i)) for i in order[b * self.batch_size : (b + 1) * self.batch_size]]


def train_batches(
    images: Images, transform: Any, *, batch_size: int, epochs: int, seed: int, start: int, workers: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """(uint8 images, labels) of every step from `start` on."""
    sampler = _TrainBatches(len(images), batch_size, epochs, seed, start)
    yield from DataLoader(
        _Transformed(images, transform, seed),
        batch_sampler=sampler,  # type: ignore[arg-type]
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
        persistent_workers=False,
    )


def eval_batches(images: Images, image_size: int, batch_size: int, workers: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
    """(uint8 images, labels) of the whole split in order."""
    keys = [[(0, i) for i in range(b, min(b + batch_size, len(images)))] for b in range(0, len(images), batch_size)]
    yield from DataLoader(
        _Transformed(images, eval_transform(image_size), 0),
        batch_sampler=keys,  # type: ignore[arg-type]
        num_workers=workers,
    )
