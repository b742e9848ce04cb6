"""Scenes of a place: which annotations, or which masks, are those of its images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import compress
from pathlib import Path

import numpy as np

from nas.data.duplicates import hashed
from nas.data.listing import Listing, some
from nas.data.places import list_path
from nas.data.sources import Skipped
from nas.data.splits import IMAGENET
from nas.scenes.boxes import boxes_of
from nas.scenes.formats.coco import Matched, match, read_coco
from nas.scenes.formats.voc import read_voc
from nas.scenes.formats.yolo import YAML, read_yolo
from nas.scenes.masks import look, meaning, pair
from nas.scenes.pictures import Pictures, open_pictures, upright_sizes
from nas.scenes.polygons import outlined, polygons_of
from nas.scenes.views import BoxScenes, InstanceScenes, MaskScenes
from search_spaces import UserError

IMAGE_FOLDERS = ("images", "image", "imgs", "img", "jpegimages")  # in small letters
MASK_FOLDERS = ("masks", "mask", "labels", "label", "annotations", "segmentation", "segmentationclass")


@dataclass(frozen=True)
class Place:
    """Where scenes lie, by the flags of a command.

    Args:
        data: folder or .tar of the images.
        annotations: COCO's JSON or YOLO's data.yaml; None looks in the folder.
        masks: their folder or .tar; None looks beside the images, and then for annotations.
        option: what the flags' names begin with, for messages: empty, or "test-".
    """

    data: str
    annotations: str | None = None
    masks: str | None = None
    option: str = ""
    white_level: float | None = None


def read_boxes(place: Place, skipped: Skipped) -> BoxScenes:
    """
    Raises:
        UserError: no such place, no annotations there, or such as are not of its images.
    """
    listing, found, _ = _annotated(place)
    pictures = _pictures(listing, found, place, skipped)
    boxes, _ = boxes_of(found, pictures.source.paths)
    return BoxScenes(pictures, np.arange(len(pictures)), found.classes, skipped, IMAGENET, boxes)


def read_instances(place: Place, skipped: Skipped) -> InstanceScenes:
    """
    Raises:
        UserError: as `read_boxes`; no object has a mask, or one has what is none.
    """
    listing, found, _ = _annotated(place)
    pictures = _pictures(listing, found, place, skipped)
    found, masks = outlined(found, pictures.source.paths)
    boxes, kept = boxes_of(found, pictures.source.paths)
    rows = np.arange(len(pictures))
    return InstanceScenes(pictures, rows, found.classes, skipped, IMAGENET, boxes, list(compress(masks, kept)))


def read_masks(place: Place, ignore: int, names: Sequence[str] | None, skipped: Skipped) -> MaskScenes:
    """
    Args:
        ignore: the index of pixels that do not count; -1 for none.
        names: of the indices, from 0.

    Raises:
        UserError: no such place, no masks there, or such as are not of its images.
    """
    if place.annotations is None and (folders := folders_of_masks(place)):
        return _of_folders(*folders, place, ignore, names, skipped)
    if names is not None:
        raise UserError("--classes names the indices of masks; leave it out where annotations name the classes")
    listing, found, digest = _annotated(place)
    pictures = _pictures(listing, found, place, skipped)
    painted, means = polygons_of(found, pictures.source.paths, digest)
    return MaskScenes(pictures, np.arange(len(pictures)), means.classes, skipped, IMAGENET, painted, means.table)


# ---- annotations


def _pictures(listing: Listing, found: Matched, place: Place, skipped: Skipped) -> Pictures:
    return open_pictures(listing, found.sizes, place.white_level, skipped, "the annotations", found.upright)


def _annotated(place: Place) -> tuple[Listing, Matched, str]:
    """The images that annotations are of, what they say, and a digest of the file."""
    listing = list_path(place.data)
    jsons, xmls = _take_out(listing, ".json"), _take_out(listing, ".xml")
    file = Path(place.annotations).expanduser() if place.annotations else _only(jsons, place)
    if file is not None and file.suffix.lower() in YAML:
        return _labelled(listing, file)
    if file is not None:
        coco = read_coco(file)
        return listing, match(listing, coco, str(file)), hashed(file.read_bytes()).hex()
    if not xmls:
        raise UserError(
            f"{place.data} has no annotations; name COCO's JSON or YOLO's data.yaml by --{place.option}annotations, or "
            "give a folder with one, or with Pascal VOC's XML files"
        )
    images = listing.within("JPEGImages") if "JPEGImages" in listing.top_folders() else listing
    return images, match(images, read_voc(xmls, _paths(images)), str(xmls[0].parent)), ""


def _labelled(listing: Listing, file: Path) -> tuple[Listing, Matched, str]:
    """By YOLO's labels, as `_annotated`."""
    if not listing.root.is_dir():
        raise UserError(f"{listing.name} is a .tar, and labels of {file} are read from folders; unpack it")
    _take_out(listing, ".txt")
    coco = read_yolo(file, _paths(listing), upright_sizes(listing))
    found = replace(match(listing, coco, str(file)), upright=True)
    return listing, found, hashed(repr(coco["annotations"]).encode()).hex()


def _paths(listing: Listing) -> dict[str, Path]:
    """The files of its images, by their paths there."""
    return {path: listing.root / listing.inside / path for path in listing.images}


def _take_out(listing: Listing, ending: str) -> list[Path]:
    """Files of that ending, no longer among what is left out; of a .tar none, whose files are not read."""
    paths = sorted(path for path, reason in listing.left_out.items() if reason == ending)
    for path in paths if listing.root.is_dir() else ():
        del listing.left_out[path]
    return [listing.root / listing.inside / path for path in paths] if listing.root.is_dir() else []


def _only(jsons: list[Path], place: Place) -> Path | None:
    if len(jsons) > 1:
        raise UserError(
            f"{place.data} has {len(jsons)} .json files ({some([str(path) for path in jsons], 3)}); choose one by "
            f"--{place.option}annotations; where they are of several folders, give --data one of these"
        )
    return jsons[0] if jsons else None


# ---- folders of masks


def folders_of_masks(place: Place) -> tuple[Listing, Listing] | None:
    """The images and their masks; None if there are no folders of these names.

    Raises:
        UserError: no such place; several folders of images or of masks.
    """
    listing = list_path(place.data)
    if place.masks is not None:
        return listing, list_path(place.masks)
    top = {name.lower(): name for name in listing.top_folders()}
    images = [listing.within(top[name]) for name in IMAGE_FOLDERS if name in top]
    beside = [listing.within(top[name]) for name in MASK_FOLDERS if name in top]
    if len(images) > 1 or len(beside) > 1:
        raise UserError(
            f"{place.data} has {some([one.name for one in images + beside])}; name one folder of images by "
            f"--{place.option}data and one of masks by --{place.option}masks"
        )
    return (images[0], beside[0]) if images and beside else None


def _of_folders(
    images: Listing, masks: Listing, place: Place, ignore: int, names: Sequence[str] | None, skipped: Skipped
) -> MaskScenes:
    pairs = pair(images, masks)
    looked = look(masks, skipped)
    images.leave_out([path for path in images.images if pairs[path] not in looked.sizes], "with a corrupt mask")
    sizes = {path: looked.sizes[pairs[path]] for path in images.images}
    pictures = open_pictures(images, sizes, place.white_level, skipped, "their masks")
    found = looked.of([pairs[path] for path in pictures.source.paths])
    means = meaning(found.found, names, ignore, masks.name)
    rows = np.arange(len(pictures))
    return MaskScenes(pictures, rows, means.classes, skipped, IMAGENET, found, means.table)
