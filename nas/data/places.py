"""Which folders, or .tar files, are the training and the test images of a path."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from nas.data.classes import shown
from nas.data.classified import is_flat, unwrapped, wrapped
from nas.data.listing import Listing, list_folder, some, warn
from nas.data.tars import list_tar
from search_spaces import UserError

TRAIN = ("train", "training")
TEST = ("test", "testing", "tests", "val", "valid", "validation", "dev", "eval", "evaluation")  # in order of preference
NO_TEST = "none"


def list_path(name: str) -> Listing:
    """
    Raises:
        UserError: neither a folder nor a .tar.
    """
    path = Path(name).expanduser()
    if not path.exists():
        raise UserError(f"no such path: {name}; give an image folder, a .tar, or a name such as torch/cifar10")
    if path.is_dir():
        return list_folder(path)
    if path.suffix.lower() != ".tar":
        raise UserError(f"{name} is no .tar; give an image folder or a .tar with a folder for each class")
    return list_tar(path)


def locate(
    data: str, train_split: str, test_split: str | None, test_data: str | None
) -> tuple[Listing, Listing | None]:
    """The training images, and the test images if they have a place of their own.

    Args:
        test_data: another path; `none` leaves out what lies beside the training images.

    Raises:
        UserError: no such path or split; one place for both.
    """
    whole = list_path(data)
    parent, split = _train_folder(whole, train_split)
    train = parent.within(split) if split else whole
    if split is not None and test_split == split:
        raise UserError(f"{train.name} is both the training and the test data; test on other images")
    if test_data not in (None, NO_TEST):
        test: Listing | None = list_path(str(test_data))
    else:
        beside = {**_on_disk(Path(data).expanduser().absolute(), test_split), **_inside(parent, split)}
        test = _test(train, beside, test_split, test_data)
    if test is not None and Path(test.name).resolve() == Path(train.name).resolve():
        raise UserError(f"{test.name} is both the training and the test data; test on other images")
    return unwrapped(train), unwrapped(test) if test is not None else None


def _train_folder(listing: Listing, name: str) -> tuple[Listing, str | None]:
    """The folder that the training folder lies in, and the name of that; None if all images are to be split."""
    inner: Listing | None = listing
    while inner is not None:
        if found := _pick(inner, name):
            return inner, found
        inner = wrapped(inner)
    if name != TRAIN[0]:  # which is also the default
        raise UserError(f"--train-split {name}: there is no folder {listing.name}/{name}")
    return listing, None


def _top(listing: Listing) -> list[str]:
    return sorted(path for path in listing.folders if "/" not in path)


def _pick(listing: Listing, name: str) -> str | None:
    """The training folder, unless it is one class of several: bus, car, train."""
    top = _top(listing)
    exact = [found for found in top if found == name] or [found for found in top if found.lower() == name]
    alike = [found for found in top if name in TRAIN and words(found) & set(TRAIN)]
    found = exact or [folder for folder in alike if not is_flat(listing.within(folder))]
    if len(found) > 1:
        raise UserError(f"{listing.name} has {some(found)} to train on; choose one by --train-split")
    others = [folder for folder in listing.top_folders() if not words(folder) & {*TRAIN, *TEST}]
    if not found or (name in TRAIN and others and is_flat(listing.within(found[0]))):
        return None
    return found[0]


def words(folder: str) -> set[str]:
    """E.g. seg and train of seg_train; train of train2017."""
    return set(re.findall("[a-z]+", folder.lower()))


def _inside(parent: Listing, split: str | None) -> dict[str, Listing]:
    """What lies beside the training folder, by name."""
    return {name: parent.within(name) for name in _top(parent) if name != split} if split else {}


def _on_disk(path: Path, test_split: str | None) -> dict[str, Listing]:
    """Test images beside train/ or train.tar, by name."""
    if path.is_dir() and test_split is not None and (path.parent / test_split).is_dir():
        return {test_split: list_folder(path.parent / test_split)}
    if not words(path.stem) & set(TRAIN) and test_split is None:
        return {}
    return {
        name: list_path(str(place)) for name, place in _siblings(path) if name == test_split or words(name) & {*TEST}
    }


def _siblings(path: Path) -> Iterator[tuple[str, Path]]:
    """Folders beside a folder, .tar files beside a .tar, by their names without the ending."""
    for place in sorted(path.parent.iterdir()):
        is_tar = place.suffix.lower() == ".tar" and place.is_file()
        if place != path and not place.name.startswith(".") and (place.is_dir() if path.is_dir() else is_tar):
            yield (place.name if path.is_dir() else place.stem), place


def _test(train: Listing, beside: dict[str, Listing], test_split: str | None, test_data: str | None) -> Listing | None:
    """Of what lies beside the training images, the test images; says what is not read."""
    if test_split is not None:
        if test_split not in beside:
            raise UserError(f"--test-split {test_split}: there is no {test_split} beside {train.name}")
        return beside[test_split]
    if test_data == NO_TEST:
        return None
    chosen = _preferred(train, beside)
    if unread := sorted(name for name, listing in beside.items() if name != chosen and listing.images):
        flat = [f"{shown(name)} has no class folders" for name in unread if is_flat(beside[name])]
        why = f" ({'; '.join(flat)})" if flat else ""
        warn(f"{train.name}: not read beside it: {some(unread)}{why}; --test-split names the one to test on")
    return None if chosen is None else beside[chosen]


def _preferred(train: Listing, beside: dict[str, Listing]) -> str | None:
    found = preferred(name for name, listing in beside.items() if listing.images and not is_flat(listing))
    if len(found) > 1:
        raise UserError(f"beside {train.name} lie {some(found)} to test on; choose one by --test-split")
    return found[0] if found else None


def preferred(names: Iterable[str]) -> list[str]:
    """Those that say most clearly that they are to test on; several if they say so alike."""
    names = list(names)
    for word in TEST:
        exact = [name for name in names if name.lower() == word]
        if found := exact or [name for name in names if word in words(name)]:
            return found
    return []
