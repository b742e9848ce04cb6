"""Three disjoint splits of a user's images: train, search (carved from the training data) and test.

The splits are drawn once from a seed and recorded in the run with a digest of what they were drawn from: every later
command reads the same ones, or says that the data has changed.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from PIL import Image

from nas.data.classes import check_class_names, read_classes
from nas.data.drawing import Drawn, draw, draw_plainly, sizes
from nas.data.embedded import EMBEDDED
from nas.data.grouping import groups_of
from nas.data.listing import some, warn
from nas.data.named import is_named
from nas.data.places import NO_TEST, list_path, locate
from nas.data.sources import Skipped, Source, open_listing, open_named, tell_order
from search_spaces import UserError
from search_spaces.command import Flags, flag
from search_spaces.command.typed import Count


@dataclass(frozen=True)
class SplitConfig(Flags):
    """How images are read and splits drawn, whatever is on them; which `data` there may be says who inherits it."""

    data: str = flag("", "folder or .tar of images")
    test_fraction: float = flag(0.2, "part of the data held out for a test if there is none", above=0, below=1)
    split_seed: int = flag(0, "seed of the splits", minimum=0)
    group_by: str | None = flag(
        None,
        "regular expression on an image's path: images with equal groups, or equal matches if it has no groups, "
        "stay on one side of every split (several photographs of one object)",
    )
    allow_duplicates: bool = flag(False, "let copies of one image lie on two sides of a split")
    white_level: float | None = flag(
        None, "value of white in images of more than 8 bits (default: as the files say)", above=0
    )
    strict_images: bool = flag(False, "refuse a corrupt image instead of skipping it")


@dataclass(frozen=True)
class DataConfig(SplitConfig):
    data: str = flag(
        "digits",
        "image folder, .tar, a timm dataset name (torch/…, hfds/…, wds/…), or embedded images: digits or clutter",
    )
    data_dir: str | None = flag(None, "where the dataset of that name lies")
    train_split: str = flag("train", "split of a named dataset, or subfolder, to train on")
    test_split: str | None = flag(None, "split of a named dataset, or subfolder, to test on")
    test_data: str | None = flag(
        None, "folder or .tar to test on (default: test, val, … beside train, or else carved); none always carves"
    )
    search_fraction: float = flag(0.15, "part of the training data held out for the search", above=0, below=1)
    classes: str | None = flag(
        None, "file with the classes in the order of a network's outputs: one a line, or JSON (default: sorted)"
    )
    class_depth: int | None = flag(
        None, "of folders within folders, those that are classes: 1 the outermost, 2 those in them", minimum=1
    )

    def data_config(self) -> DataConfig:
        """These settings alone, of a command that has others too."""
        return DataConfig(**{f.name: getattr(self, f.name) for f in fields(DataConfig)})


@dataclass(frozen=True)
class Splits:
    """Sizes of the splits, the corrupt images left out, and a digest of everything the splits were drawn from."""

    train: Count
    search: Count
    test: Count
    skipped: tuple[str, ...]
    digest: str

    def to_train(self, all_data: bool) -> int:
        """Images to train on: of the training split, or of all but the test split."""
        return self.train + self.search if all_data else self.train


@dataclass(frozen=True)
class Normalization:
    """What is taken off images of 0 to 1, and what they are divided by then: R, G, B."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


USES = {"train": "to train on", "search": "to search with", "test": "to test on"}  # of the splits
IMAGENET = Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclass(frozen=True)
class Images:
    """One split: rows of a source, and their labels as indices of the run's classes."""

    source: Source
    indices: np.ndarray
    labels: np.ndarray
    skipped: Skipped
    normalization: Normalization = IMAGENET

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

    def all_but_test(self) -> Data:
        """The images of the search split are to be trained on, too, and none are left to search with."""
        train, search = self.train, self.search
        indices, labels = (
            np.concatenate(pair) for pair in ((train.indices, search.indices), (train.labels, search.labels))
        )
        none = replace(search, indices=search.indices[:0], labels=search.labels[:0])
        return replace(self, train=replace(train, indices=indices, labels=labels), search=none)

    def normalized(self, mean: tuple[float, ...], std: tuple[float, ...]) -> Data:
        """The same images, for networks that take them with this mean and deviation taken off."""
        to = Normalization(mean, std)
        train, search, test = (replace(i, normalization=to) for i in (self.train, self.search, self.test))
        return replace(self, train=train, search=search, test=test)


def load_data(config: DataConfig, classes: Sequence[str] | None = None) -> Data:
    """Reads the data and draws the splits; the same config and data give the same splits.

    Args:
        classes: in the order of the labels, instead of those in the file that the config names.

    Raises:
        UserError: no such path, no images, fewer than two classes, too few images for three splits.
    """
    _check(config)
    skipped = Skipped(config.strict_images)
    if classes is None and config.classes is not None:
        classes = read_classes(config.classes)
    source, test = _open(config, skipped)
    if test is not None and config.test_fraction != DataConfig.test_fraction:
        raise UserError(
            f"--test-fraction {config.test_fraction} has no meaning where test images have a place of their own; leave "
            f"it out, or give --test-data {NO_TEST} to draw them from {config.data}"
        )
    if len(source.classes) < 2:
        found = len(source.classes)
        raise UserError(f"{config.data} has {found} class; give the folder above at least 2 folders of images")
    check_class_names(source.classes, config.data)
    return _split(config, source, test, tuple(classes or source.classes), skipped)


def _check(config: DataConfig) -> None:
    """UserError if a flag has nothing to act on, or no meaning."""
    named = is_named(config.data)
    idle: dict[str, Any] = {"--data-dir": config.data_dir} if not named else {}
    if named or config.data in EMBEDDED:
        idle |= {"--group-by": config.group_by, "--class-depth": config.class_depth}
    if config.data in EMBEDDED:
        test = None if config.test_data == NO_TEST else config.test_data
        idle |= {"--test-split": config.test_split, "--test-data": test, "--white-level": config.white_level}
        idle["--train-split"] = None if config.train_split == DataConfig.train_split else config.train_split
    for flag_name, value in idle.items():
        if value is not None:
            raise UserError(f"{flag_name} {value} has no meaning with --data {config.data}; leave it out")
    if config.data == "digits" and config.allow_duplicates:
        raise UserError("--allow-duplicates has no meaning with --data digits, whose copies stay; leave it out")
    if config.test_data is not None and config.test_split is not None:
        raise UserError("--test-data and --test-split name two test splits; give one of them")
    try:
        re.compile(config.group_by or "")
    except re.error as error:
        raise UserError(f"--group-by {config.group_by!r} is no regular expression: {error}") from None


def _open(config: DataConfig, skipped: Skipped) -> tuple[Source, Source | None]:
    """The training data, and the test data if it has a place of its own."""
    depth, white = config.class_depth, config.white_level
    if config.data in EMBEDDED:
        return EMBEDDED[config.data](), None
    if not is_named(config.data):
        train, test = locate(config.data, config.train_split, config.test_split, config.test_data)
        source = open_listing(train, depth, white, skipped)
        if config.classes is None:
            tell_order(train, source.classes)
        return source, open_listing(test, depth, white, skipped) if test else None
    if config.test_split == config.train_split:
        raise UserError(f"{config.test_split} is both the training and the test data; test on other images")
    source = open_named(config.data, config.data_dir, config.train_split, white, skipped)
    if config.test_split is not None:
        return source, open_named(config.data, config.data_dir, config.test_split, white, skipped)
    if config.test_data not in (None, NO_TEST):
        return source, open_listing(list_path(str(config.test_data)), depth, white, skipped)
    return source, None


# ---- drawing


def _split(config: DataConfig, source: Source, test: Source | None, classes: tuple[str, ...], skipped: Skipped) -> Data:
    labels = _translated(source, classes, f"{config.data} has", "--classes lacks")
    drawn = _draw(config, source, source.labels, test)

    def part(rows: np.ndarray) -> Images:
        return Images(source, rows, labels[rows], skipped)

    data = Data(
        train=part(drawn.train),
        search=part(np.sort(drawn.search)),
        test=_whole(test, classes, config, skipped) if test else part(np.sort(drawn.test)),
        classes=classes,
        splits=Splits(0, 0, 0, tuple(skipped.names), ""),
    )
    counts = (len(data.train), len(data.search), len(data.test))
    if min(counts) < 1:
        why = f" that --group-by {config.group_by!r} leaves" if config.group_by else ""
        raise UserError(f"{config.data} has {len(labels)} images{why}, too few for a train, a search and a test split")
    tell_missing({split: set(getattr(data, split).labels.tolist()) for split in USES}, classes, config.data)
    sha = hashlib.sha256(repr((classes, counts, source.digest(), test and test.digest())).encode())
    sha.update(np.concatenate([drawn.test, drawn.search, drawn.train]).astype("<i8").tobytes())
    return replace(data, splits=Splits(*counts, skipped=data.splits.skipped, digest=sha.hexdigest()[:16]))


def _draw(config: DataConfig, source: Source, labels: np.ndarray, test: Source | None) -> Drawn:
    test_fraction = 0.0 if test else config.test_fraction
    if config.data == "digits":
        return draw_plainly(len(labels), *sizes(len(labels), test_fraction, config.search_fraction), config.split_seed)
    groups, tested = groups_of(source, labels, test, config.group_by, config.allow_duplicates, config.data)
    rows = np.flatnonzero(~tested)
    wanted = sizes(len(rows), test_fraction, config.search_fraction)
    return Drawn(*(rows[part] for part in draw(labels[rows], groups[rows], *wanted, config.split_seed)))


def _whole(test: Source, classes: Sequence[str], config: DataConfig, skipped: Skipped) -> Images:
    """The test data, its labels translated by the names of its classes."""
    subject = f"the test images of {config.test_data or config.data} have"
    lacking = "the training images lack" if config.classes is None else "--classes lacks"
    labels = _translated(test, classes, subject, lacking)
    return Images(test, np.arange(len(labels)), labels, skipped)


def _translated(source: Source, classes: Sequence[str], subject: str, lacking: str) -> np.ndarray:
    """(n,) labels as numbers of these classes, by name.

    Raises:
        UserError: the source has others.
    """
    index = {name: i for i, name in enumerate(classes)}
    if unknown := [name for name in source.classes if name not in index]:
        raise UserError(
            f"{subject} classes that {lacking} ({some(unknown)}); known are {some(list(classes))}: "
            "give others by --test-data, --data or --classes"
        )
    return np.array([index[name] for name in source.classes], dtype=np.int64)[source.labels]


def tell_missing(found: Mapping[str, set[int]], classes: Sequence[str], name: str) -> None:
    """Classes that a split has no image of: what cannot be, where a class has one image or two.

    Args:
        found: the classes that each split has images of.
    """
    for split, use in USES.items():
        if missing := [one for i, one in enumerate(classes) if i not in found[split]]:
            warn(f"{name}: {len(missing)} of {len(classes)} classes have no image {use}: {some(missing)}")
