"""Three disjoint splits of images with boxes or masks, drawn as those of images with classes are (`nas.data.splits`).

An image's class, of which each split gets its share, is the rarest that is on it; images without any are one more.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, Generic, TypeVar

import numpy as np

from nas.data.classes import read_classes
from nas.data.drawing import Drawn, draw, sizes
from nas.data.grouping import groups_of
from nas.data.places import NO_TEST
from nas.data.sources import Skipped
from nas.data.splits import USES, Normalization, SplitConfig, Splits, tell_missing
from nas.scenes.embedded import EMBEDDED, drawn_boxes, drawn_instances, drawn_masks
from nas.scenes.published import parts, test_part
from nas.scenes.reading import Place, read_boxes, read_instances, read_masks
from nas.scenes.views import BoxScenes, InstanceScenes, MaskScenes, Scenes
from search_spaces import UserError
from search_spaces.command import flag

S = TypeVar("S", bound=Scenes)
Config = TypeVar("Config", bound="ScenesConfig")


@dataclass(frozen=True)
class ScenesConfig(SplitConfig):
    data: str = flag(EMBEDDED, f"folder or .tar of images, or embedded images: {EMBEDDED}")
    annotations: str | None = flag(
        None,
        "COCO's JSON or YOLO's data.yaml, which say what is on the images (default: what is there, or VOC's XML)",
    )
    test_data: str | None = flag(
        None, "folder or .tar to test on (default: test, val, … beside train, or else carved); none always carves"
    )
    test_annotations: str | None = flag(
        None, "the same of the images to test on, of --data if --test-data is not given"
    )
    search_fraction: float = flag(0.25, "part of the training data held out for the search", above=0, below=1)


@dataclass(frozen=True)
class BoxesConfig(ScenesConfig):
    """Flags of images with boxes, or with boxes and the mask of what is in each."""

    def data_config(self) -> BoxesConfig:
        """These settings alone, of a command that has others too."""
        return _part(BoxesConfig, self)


@dataclass(frozen=True)
class MasksConfig(ScenesConfig):
    """Flags of images with masks."""

    masks: str | None = flag(
        None, "folder of masks, PNG with an index a pixel (default: masks/ beside images/ in --data)"
    )
    test_masks: str | None = flag(None, "folder of the masks of --test-data (default: masks/ beside images/ there)")
    ignore_index: int = flag(255, "index of pixels that do not count; -1 for none", minimum=-1, maximum=255)
    classes: str | None = flag(
        None, "file with the names of the indices from 0: one a line, or JSON (default: numbers, those that occur)"
    )

    def data_config(self) -> MasksConfig:
        """These settings alone, of a command that has others too."""
        return _part(MasksConfig, self)


def _part(kind: type[Config], config: Config) -> Config:
    return kind(**{field.name: getattr(config, field.name) for field in fields(kind)})


@dataclass(frozen=True)
class SceneData(Generic[S]):
    """The three splits and what their labels mean."""

    train: S
    search: S
    test: S
    classes: tuple[str, ...]
    splits: Splits

    def all_but_test(self) -> SceneData[S]:
        """The images of the search split are to be trained on, too, and none are left to search with."""
        indices = np.concatenate([self.train.indices, self.search.indices])
        return replace(self, train=self.train.at(indices), search=self.search.at(indices[:0]))

    def normalized(self, mean: tuple[float, ...], std: tuple[float, ...]) -> SceneData[S]:
        """The same images, for networks that take them with this mean and deviation taken off."""
        to = Normalization(mean, std)
        train, search, test = (replace(s, normalization=to) for s in (self.train, self.search, self.test))
        return replace(self, train=train, search=search, test=test)


def load_boxes(config: BoxesConfig) -> SceneData[BoxScenes]:
    """Reads the data and draws the splits; the same config and data give the same splits.

    Raises:
        UserError: no such path, no annotations, no object, too few images for three splits.
    """
    return _load(config, read_boxes, drawn_boxes)


def load_instances(config: BoxesConfig) -> SceneData[InstanceScenes]:
    """As `load_boxes`, with the mask of each object.

    Raises:
        UserError: also if no object has a mask.
    """
    return _load(config, read_instances, drawn_instances)


def load_masks(config: MasksConfig) -> SceneData[MaskScenes]:
    """Reads the data and draws the splits; the same config and data give the same splits.

    Raises:
        UserError: no such path, no masks, fewer than two classes, too few images for three splits.
    """
    if config.data == EMBEDDED:
        _refuse(config, "--masks", config.masks)
        _refuse(config, "--classes", config.classes)
    if config.test_data is None:
        _refuse(config, "--test-masks", config.test_masks, "without --test-data")
    names = read_classes(config.classes) if config.classes else None

    def read(place: Place, skipped: Skipped) -> MaskScenes:
        return read_masks(place, config.ignore_index, names, skipped)

    data = _load(config, read, drawn_masks)
    if len(data.classes) < 2:
        raise UserError(
            f"{config.data} has masks of one class beside the ignored index {config.ignore_index}; give masks of two, "
            "or --ignore-index -1 if it is one of them"
        )
    return data


def _load(
    config: ScenesConfig,
    read: Callable[[Place, Skipped], S],
    drawn: Callable[[bool, Skipped], S],
) -> SceneData[S]:
    """
    Args:
        read: the scenes of a place.
        drawn: the embedded scenes, of the test if the argument is True.
    """
    _check(config)
    skipped = Skipped(config.strict_images)
    source, test = _open(config, read, drawn, skipped)
    if test is not None and config.data != EMBEDDED and config.test_fraction != ScenesConfig.test_fraction:
        raise UserError(
            f"--test-fraction {config.test_fraction} has no meaning where test images are given; leave it out"
        )
    if test is not None:
        where = config.test_annotations or config.test_data or config.data
        test = test.with_classes(source.classes, f"the test images of {where} have", "give others by --test-data")
    if not source.present.any():
        raise UserError(f"{config.data} has no object on any image; give images with objects to train on")
    return _split(config, source, test, skipped)


def _check(config: ScenesConfig) -> None:
    """UserError if a flag has nothing to act on, or no meaning."""
    if config.data == EMBEDDED:
        for name in ("annotations", "test_data", "test_annotations", "group_by", "white_level"):
            _refuse(config, f"--{name.replace('_', '-')}", getattr(config, name))
        if config.test_fraction != ScenesConfig.test_fraction:
            _refuse(config, "--test-fraction", config.test_fraction)
    try:
        re.compile(config.group_by or "")
    except re.error as error:
        raise UserError(f"--group-by {config.group_by!r} is no regular expression: {error}") from None


def _refuse(config: ScenesConfig, flag_name: str, value: Any, why: str | None = None) -> None:
    if value is not None:
        raise UserError(f"{flag_name} {value} has no meaning {why or f'with --data {config.data}'}; leave it out")


def _open(
    config: ScenesConfig,
    read: Callable[[Place, Skipped], S],
    drawn: Callable[[bool, Skipped], S],
    skipped: Skipped,
) -> tuple[S, S | None]:
    """The training scenes, and those to test on if they have a place of their own."""
    if config.data == EMBEDDED:
        return drawn(False, skipped), drawn(True, skipped)
    train, test = _places(config)
    return read(train, skipped), None if test is None else read(test, skipped)


def _places(config: ScenesConfig) -> tuple[Place, Place | None]:
    masks, test_masks = (config.masks, config.test_masks) if isinstance(config, MasksConfig) else (None, None)
    place = Place(config.data, config.annotations, masks, white_level=config.white_level)
    train, others = parts(place, masked=isinstance(config, MasksConfig))
    if config.test_data == NO_TEST:
        _refuse(config, "--test-annotations", config.test_annotations, "with --test-data none")
        return train, None
    if config.test_data is None and config.test_annotations is None:
        return train, test_part(train, others)
    data = config.test_data or config.data
    test = Place(data, config.test_annotations, test_masks, "test-", config.white_level)
    if replace(test, option="") in (place, train):
        raise UserError(f"{data} is both the training and the test data; test on other images")
    return train, test


# ---- drawing


def _split(config: ScenesConfig, source: S, test: S | None, skipped: Skipped) -> SceneData[S]:
    drawn = _draw(config, source, test)
    train, search, carved = source.at(drawn.train), source.at(np.sort(drawn.search)), source.at(np.sort(drawn.test))
    parts = dict(zip(USES, (train, search, carved if test is None else test), strict=True))
    counts = (len(parts["train"]), len(parts["search"]), len(parts["test"]))
    if min(counts) < 1:
        raise UserError(f"{config.data} has {len(source)} images, too few for a train, a search and a test split")
    found = {split: set(np.flatnonzero(part.present.any(axis=0)).tolist()) for split, part in parts.items()}
    tell_missing(found, source.classes, config.data)
    sha = hashlib.sha256(repr((source.classes, counts, source.digest, test and test.digest)).encode())
    sha.update(np.concatenate([drawn.test, drawn.search, drawn.train]).astype("<i8").tobytes())
    splits = Splits(*counts, skipped=tuple(skipped.names), digest=sha.hexdigest()[:16])
    return SceneData(**parts, classes=source.classes, splits=splits)


def _draw(config: ScenesConfig, source: S, test: S | None) -> Drawn:
    pictures, tests = source.pictures.source, None if test is None else test.pictures.source
    alike = np.zeros(len(source), dtype=np.int64)  # copies with other objects are no conflict
    groups, tested = groups_of(pictures, alike, tests, config.group_by, config.allow_duplicates, config.data)
    rows = np.flatnonzero(~tested)
    wanted = sizes(len(rows), 0.0 if test else config.test_fraction, config.search_fraction)
    return Drawn(*(rows[part] for part in draw(rarest(source.present)[rows], groups[rows], *wanted, config.split_seed)))


def rarest(present: np.ndarray) -> np.ndarray:
    """(n,) of each image the class on it that is on the fewest images; of those without any, the number of classes.

    Args:
        present: (n, classes) bool.
    """
    images = np.where(present, present.sum(axis=0), len(present) + 1)
    return np.where(present.any(axis=1), images.argmin(axis=1), present.shape[1])
