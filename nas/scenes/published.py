"""Folders as data sets are published and labelling tools write them: which part is trained on, and which tested on.

COCO's: `annotations/instances_train2017.json` of the images in `train2017/`, and another for `val2017/`. Or a folder
for each part, `train/`, `valid/` and `test/`, each with its annotations or masks; or such in a folder of images and in
one of masks: `images/train` and `masks/train`. Or those that YOLO's data.yaml names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from nas.data.listing import SYSTEM_FOLDERS, some, warn
from nas.data.places import TRAIN, preferred, words
from nas.scenes.formats.yolo import YAML, names_classes, read_yaml
from nas.scenes.reading import Place, folders_of_masks
from search_spaces import UserError

OBJECTS = "instances_"  # what COCO's lists of objects begin with; others are of captions or of key points


def parts(place: Place, masked: bool = False) -> tuple[Place, dict[str, Place]]:
    """The part to train on, and the others by name; the place as it is where it is no such folder or says more.

    Args:
        masked: masks in folders are wanted.

    Raises:
        UserError: several parts to train on.
    """
    root = Path(place.data).expanduser()
    if place.annotations or place.masks or not root.is_dir():
        return place, {}
    found = _described(root, place) or _lists(root, place) or (_pairs(place) if masked else {}) or _folders(root, place)
    train = [name for name in found if words(name) & {*TRAIN}]
    if len(train) > 1:
        raise UserError(
            f"{place.data} has {some(train)} to train on; choose one by --data, or by --annotations if they are of one "
            "folder"
        )
    return (found.pop(train[0]), found) if train else (place, {})


def test_part(train: Place, others: Mapping[str, Place]) -> Place | None:
    """Says what is not read.

    Raises:
        UserError: several parts of one kind.
    """
    found = preferred(others)
    if len(found) > 1:
        raise UserError(f"beside {train.data} lie {some(found)} to test on; choose one by --test-data")
    if unread := sorted({*others} - {*found}):
        warn(f"{train.data}: not read beside it: {some(unread)}; --test-data names the one to test on")
    return replace(others[found[0]], option="test-") if found else None


def _described(root: Path, place: Place) -> dict[str, Place]:
    """By a data.yaml; names of one folder are one part."""
    found = [file for ending in YAML for file in sorted(root.glob(f"*{ending}"))]
    file = next((file for file in found if file.is_file() and names_classes(file)), None)
    if file is None:
        return {}
    described = read_yaml(file).parts or {TRAIN[0]: root}
    first = {folder: name for name, folder in reversed(list(described.items()))}
    return {name: replace(place, data=str(folder), annotations=str(file)) for folder, name in first.items()}


def _lists(root: Path, place: Place) -> dict[str, Place]:
    """By COCO's annotations, each with the folder of its name if there is one."""
    files = sorted((root / "annotations").glob("*.json"))
    files = [file for file in files if file.name.startswith(OBJECTS)] or files
    names = {file.stem.removeprefix(OBJECTS): file for file in files}
    return {name: replace(place, data=str(_images(root, name)), annotations=str(file)) for name, file in names.items()}


def _images(root: Path, name: str) -> Path:
    return next((folder for folder in (root / name, root / "images" / name) if folder.is_dir()), root)


def _pairs(place: Place) -> dict[str, Place]:
    """By folders of one name in that of the images and in that of the masks; none without one to train on."""
    folders = folders_of_masks(place)
    if folders is None:
        return {}
    images, masks = folders
    found = set(images.top_folders()) & set(masks.top_folders())
    if not any(words(name) & {*TRAIN} for name in found):
        return {}
    if alone := sorted(set(images.top_folders()) - found):
        warn(f"{images.name}: not read: {some(alone)}, without masks in {masks.name}")
    return {name: replace(place, data=f"{images.name}/{name}", masks=f"{masks.name}/{name}") for name in sorted(found)}


def _folders(root: Path, place: Place) -> dict[str, Place]:
    """None if a file at the top is for all of them."""
    if any(root.glob("*.json")):
        return {}
    folders = sorted(path for path in root.iterdir() if path.is_dir() and path.name.lower() not in SYSTEM_FOLDERS)
    return {path.name: replace(place, data=str(path)) for path in folders if not path.name.startswith(".")}
