"""Three disjoint splits of a user's images: train, search (carved from the training data) and test.

The splits are drawn once from a seed and recorded in the run with a digest of what they were drawn from: every later
command reads the same ones, or says that the data has changed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
from PIL import Image

from nas.data.sources import Skipped, Source, digits, is_named, open_source
from search_spaces import UserError
from search_spaces.command import Flags, flag

MAX_SEARCH_IMAGES = 10_000


@dataclass(frozen=True)
class DataConfig(Flags):
    data: str = flag("digits", "image folder, .tar, a timm dataset name (torch/…, hfds/…, wds/…), or digits")
    data_dir: str | None = flag(None, "where the dataset of that name lies")
    train_split: str = flag("train", "split of a named dataset, or subfolder, to train on")
    test_split: str | None = flag(None, "split of a named dataset, or subfolder, to test on")
    test_data: str | None = flag(None, "folder or .tar to test on (default: test or val beside train, or else carved)")
    search_fraction: float = flag(0.15, "part of the training data held out for the search", above=0, below=1)
    test_fraction: float = flag(0.2, "part of the data held out for a test if there is none", above=0, below=1)
    strict_images: bool = flag(False, "refuse a corrupt image instead of skipping it")
    split_seed: int = flag(0, "seed of the splits", minimum=0)

    def data_config(self) -> DataConfig:
        """These settings alone, of a command that has others too."""
        return DataConfig(**{f.name: getattr(self, f.name) for f in fields(DataConfig)})


@dataclass(frozen=True)
class Splits:
    """Sizes of the splits, the corrupt images left out, and a digest of everything the splits were drawn from."""

    train: int
    search: int
    test: int
    skipped: tuple[str, ...]
    digest: str


@dataclass(frozen=True)
class Images:
    """One split: rows of a source, and their labels as indices of the run's classes."""

    source: Source
    indices: np.ndarray
    labels: np.ndarray
    skipped: Skipped

    def __len__(self) -> int:
        return len(self.indices)

    def spread(self, count: int) -> Images:
        """`count` of the images, or all if there are fewer, evenly spaced: a folder's order is that of its classes."""
        chosen = np.linspace(0, len(self) - 1, min(count, len(self))).round().astype(np.int64)
        return replace(self, indices=self.indices[chosen], labels=self.labels[chosen])

    def image(self, position: int) -> Image.Image:
        return self.source.image(int(self.indices[position]))

    def name(self, position: int) -> str:
        return self.source.name(int(self.indices[position]))


@dataclass(frozen=True)
class Data:
    """The three splits and what their labels mean."""

    train: Images
    search: Images
    test: Images
    classes: tuple[str, ...]
    splits: Splits


def load_data(config: DataConfig) -> Data:
    """Reads the data and draws the splits; the same config and data give the same splits.

    Raises:
        UserError: no such path, no images, fewer than two classes, too few images for three splits.
    """
    skipped = Skipped(config.strict_images)
    if config.data == "digits":
        return _split(config, digits(), None, skipped)
    train, test = _locate(config)
    source = open_source(*train, skipped)
    if len(source.classes) < 2:
        found = len(source.classes)
        raise UserError(f"{config.data} has {found} class; give the folder above at least 2 folders of images")
    return _split(config, source, open_source(*test, skipped) if test else None, skipped)


Place = tuple[str, str | None, str]  # name or path, data_dir, split: as open_source takes them


def _locate(config: DataConfig) -> tuple[Place, Place | None]:
    """Where the training data is, and the test data if it has a place of its own."""
    train: Place = (config.data, config.data_dir, config.train_split)
    test: Place | None = None
    if is_named(config.data):
        test = (config.data, config.data_dir, config.test_split) if config.test_split else None
    else:
        path = _train_path(Path(config.data).expanduser(), config.train_split)
        beside = _beside(path, config.test_split)
        train, test = (str(path), None, ""), (str(beside), None, "") if beside else None
    if config.test_data is not None:
        if config.test_split is not None:
            raise UserError("--test-data and --test-split name two test splits; give one of them")
        test = (config.test_data, None, "")
    if test and (Path(test[0]).resolve(), test[2]) == (Path(train[0]).resolve(), train[2]):
        raise UserError(f"{test[2] or test[0]} is both the training and the test data; test on other images")
    return train, test


def _train_path(path: Path, split: str) -> Path:
    folder = path / split
    if folder.is_dir():
        return folder
    if split != "train":
        raise UserError(f"--train-split {split}: there is no folder {folder}")
    return path


def _beside(train: Path, test_split: str | None) -> Path | None:
    """The test data beside train/ or train.tar, `test_split` or one of the usual names."""
    if test_split is not None:
        path = train.with_name(test_split + train.suffix)
        if not path.exists():
            raise UserError(f"--test-split {test_split}: there is no {path}")
        return path
    if train.stem != "train":
        return None
    usual = (train.with_name(name + train.suffix) for name in ("test", "val", "validation"))
    return next((path for path in usual if path.exists()), None)


def _split(config: DataConfig, source: Source, test: Source | None, skipped: Skipped) -> Data:
    count = len(source.labels)
    order = np.random.default_rng(config.split_seed).permutation(count)
    num_test = 0 if test else round(count * config.test_fraction)
    num_search = min(round((count - num_test) * config.search_fraction), MAX_SEARCH_IMAGES)
    carved, search, train = np.split(order, [num_test, num_test + num_search])
    sizes = (len(train), len(search), len(test.labels) if test else num_test)
    if min(sizes) < 1:
        raise UserError(f"{config.data} has {count} images, too few for a train, a search and a test split")
    sha = hashlib.sha256(repr((source.classes, sizes, source.digest(), test and test.digest())).encode())
    sha.update(order.astype("<i8").tobytes())

    def part(indices: np.ndarray) -> Images:
        return Images(source, indices, source.labels[indices], skipped)

    return Data(
        train=part(train),
        search=part(np.sort(search)),
        test=_whole(test, source.classes, config, skipped) if test else part(np.sort(carved)),
        classes=source.classes,
        splits=Splits(*sizes, skipped=tuple(skipped.names), digest=sha.hexdigest()[:16]),
    )


def _whole(test: Source, classes: Sequence[str], config: DataConfig, skipped: Skipped) -> Images:
    """The test data, its labels translated by the names of its classes."""
    if unknown := [name for name in test.classes if name not in classes]:
        raise UserError(
            f"the test images of {config.test_data or config.data} have a class that the training images lack "
            f"({', '.join(unknown[:5])}); give others by --test-data"
        )
    index = np.array([classes.index(name) for name in test.classes])
    return Images(test, np.arange(len(test.labels)), index[test.labels], skipped)
