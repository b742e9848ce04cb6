"""Annotations in COCO's form, and which of a folder's images they are of: https://cocodataset.org/#format-data."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired, TypedDict

from nas.data.classes import check_class_names, class_name, composed, shown
from nas.data.listing import Listing, some, warn
from search_spaces import UserError
from search_spaces.command.files import read_json
from search_spaces.command.typed import Amount, Within, read_typed

Side = Annotated[int, Within(1, 2**20)]
Size = tuple[int, int]  # width, height

_START = re.compile(r"\A(\.{0,2}/)+")  # of a path from here, from a folder above, or from the top


def _four(numbers: list[float]) -> None:
    if len(numbers) != 4:
        raise ValueError(f"has {len(numbers)} numbers; give left, top, width and height")


class CocoImage(TypedDict):
    """Sides are pixels of the image that the annotations are of."""

    id: int
    file_name: str
    width: Side
    height: Side


class CocoAnnotation(TypedDict):
    """An object: its box (left, top, width, height), and polygons or run lengths of its mask."""

    image_id: int
    category_id: int
    bbox: NotRequired[Annotated[list[float], _four]]
    area: NotRequired[Amount]
    iscrowd: NotRequired[Literal[0, 1]]
    segmentation: NotRequired[Any]


class CocoCategory(TypedDict):
    id: int
    name: str
    supercategory: NotRequired[Any]


class Coco(TypedDict):
    images: list[CocoImage]
    annotations: list[CocoAnnotation]
    categories: list[CocoCategory]


def read_coco(path: Path) -> Coco:
    """
    Raises:
        UserError: no such file, or none of this form: each place that differs is named.
    """
    try:
        return read_typed(Coco, read_json(path), path.name)
    except ValueError as error:
        raise UserError(f"{path} is no COCO annotations ({error}); mend it, or name another by --annotations") from None


@dataclass(frozen=True)
class Matched:
    """What annotations say of the images of a folder, by the images' paths.

    Args:
        where: the annotations lie, for messages.
        labels: of the categories' ids; classes are in the order of these.
        upright: all is of the images as they are seen; else as sizes say.
    """

    where: str
    classes: tuple[str, ...]
    labels: Mapping[int, int]
    sizes: Mapping[str, Size]
    objects: Mapping[str, list[CocoAnnotation]]
    upright: bool = False


def match(listing: Listing, coco: Coco, where: str) -> Matched:
    """The annotations by the images of the listing; what either lacks of the other is left out and told.

    Raises:
        UserError: ids, names or files twice; a category that is not there; no image of the annotations is.
    """
    categories = _leaves(coco, where)
    ids = sorted(category["id"] for category in categories)
    names = {category["id"]: class_name(category["name"]) for category in categories}
    _check_once(ids, f"{where} has categories of one id")
    _check_once(names.values(), f"{where} has categories of one name")
    _check_once((image["id"] for image in coco["images"]), f"{where} has images of one id")
    check_class_names(names.values(), where)
    _check_categories(coco["annotations"], names, where)
    paths = _paths(listing, coco["images"], where)
    listing.leave_out(sorted(set(listing.images) - set(paths.values())), f"not named in {Path(where).name}")
    objects: dict[str, list[CocoAnnotation]] = {path: [] for path in listing.images}
    known, strays = {image["id"] for image in coco["images"]}, 0
    for one in coco["annotations"]:
        strays += one["image_id"] not in known
        if path := paths.get(one["image_id"]):
            objects[path].append(one)
    if strays:
        warn(f"{where}: left out {strays} annotations of images that it does not have")
    sizes = {paths[image["id"]]: (image["width"], image["height"]) for image in coco["images"] if image["id"] in paths}
    return Matched(where, tuple(names[i] for i in ids), {n: i for i, n in enumerate(ids)}, sizes, objects)


def _leaves(coco: Coco, where: str) -> list[CocoCategory]:
    """Without categories that no object has and that others name as theirs: labelling tools write such a root.

    The other may have the same name, as in Roboflow's projects that are named like their class.
    """
    used = {one["category_id"] for one in coco["annotations"]}
    below: dict[Any, set[int]] = defaultdict(set)
    for c in coco["categories"]:
        if isinstance(above := c.get("supercategory"), str):
            below[above].add(c["id"])
    groups = {c["id"]: c["name"] for c in coco["categories"] if c["id"] not in used and below[c["name"]] - {c["id"]}}
    if groups:
        warn(f"{where}: no class: {some([*groups.values()])}, which only groups others")
    return [category for category in coco["categories"] if category["id"] not in groups]


def _check_once(values: Iterable[Any], problem: str) -> None:
    if twice := [str(value) for value, count in Counter(values).items() if count > 1]:
        raise UserError(f"{problem}: {some(twice)}; give each once")


def _check_categories(annotations: list[CocoAnnotation], names: Mapping[int, str], where: str) -> None:
    unknown = Counter(one["category_id"] for one in annotations if one["category_id"] not in names)
    if unknown:
        raise UserError(
            f"{where} has {unknown.total()} annotations of categories that it does not name "
            f"({some([str(i) for i in sorted(unknown)])}); add the categories, or remove the annotations"
        )


def _paths(listing: Listing, images: list[CocoImage], where: str) -> dict[int, str]:
    """The place of each image by its id: at the path that the annotations give, or at one that ends as it does."""
    files = {image["id"]: _START.sub("", composed(image["file_name"].replace("\\", "/"))) for image in images}
    by_path, by_name = defaultdict(list), defaultdict(list)
    for path in listing.images:
        by_path[composed(path)].append(path)
        by_name[composed(path).rpartition("/")[2]].append(path)
    taken = {path for file in files.values() for path in by_path.get(file, ())}
    found, missing = {}, []
    for image, file in files.items():
        alike = [path for path in by_name.get(file.rpartition("/")[2], ()) if path not in taken and _ends(path, file)]
        places = by_path.get(file) or alike
        if len(places) > 1:
            raise UserError(
                f"{where} names {shown(file)}, which may be {some(places, 3)}; give --data the folder of the images"
            )
        if places:
            found[image] = places[0]
        else:
            missing.append(file)
    if missing:
        warn(f"{where} names {len(missing)} images that are not in {listing.name}: {some(missing)}")
    _check_once(found.values(), f"{where} has several entries of one file")
    if not found:
        raise UserError(f"{where} names no image of {listing.name}; give --data the folder that its file names are in")
    return found


def _ends(path: str, file: str) -> bool:
    """Whether one is the other from some folder on: 1.jpg of images/1.jpg, but not cam1/1.jpg of cam2/1.jpg."""
    short, long = sorted((f"/{composed(path)}", f"/{file}"), key=len)
    return long.endswith(short)


def tell(where: str, counts: Mapping[str, int]) -> None:
    """One line with the counts that are not 0, each in its words: {"left out {} boxes": 3}."""
    if parts := [words.format(count) for words, count in counts.items() if count]:
        warn(f"{where}: {'; '.join(parts)}")
