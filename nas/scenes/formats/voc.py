"""Pascal VOC's XML, a file an image, in COCO's form: http://host.robots.ox.ac.uk/pascal/VOC/voc2012/htmldoc/."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from nas.data.classes import class_name, in_order
from nas.data.listing import some
from nas.scenes.formats.beside import beside
from nas.scenes.formats.coco import Coco, Size
from search_spaces import UserError
from search_spaces.command.typed import read_typed


class _Object(NamedTuple):
    name: str
    bbox: list[float]
    difficult: bool


def read_voc(files: Sequence[Path], images: Mapping[str, Path]) -> Coco:
    """The boxes of XML files, each of an image. Difficult objects are crowds: not counted, nor missed.

    VOC's pixels begin at 1 and its boxes end with their last pixels; COCO's begin at 0 and end where the next begins.

    Args:
        images: files by the names that they are to have.

    Raises:
        UserError: a file that is no XML, or lacks a size, a name or a side of a box; one that may be of several images.
    """
    named = _images_of(files, images)
    parsed = [_parse(file) for file in files]
    names = in_order(one.name for _, objects in parsed for one in objects)
    ids = {name: number for number, name in enumerate(names, start=1)}
    coco = {
        "images": [
            {"id": i, "file_name": name, "width": width, "height": height}
            for i, (name, ((width, height), _)) in enumerate(zip(named, parsed, strict=True))
        ],
        "annotations": [
            {"image_id": i, "category_id": ids[one.name], "bbox": one.bbox, "iscrowd": int(one.difficult)}
            for i, (_, objects) in enumerate(parsed)
            for one in objects
        ],
        "categories": [{"id": number, "name": name} for name, number in ids.items()],
    }
    try:
        return read_typed(Coco, coco, "XML")
    except ValueError as error:
        raise UserError(f"the XML files beside {files[0]} do not say boxes ({error}); mend them") from None


def _images_of(files: Sequence[Path], images: Mapping[str, Path]) -> list[str]:
    """The name of each file's image: beside it, in VOC's folder of images, or the only one that has its stem."""
    by_place = _by(images, (path.with_suffix("") for path in images.values()))
    by_stem = _by(images, (path.stem for path in images.values()))
    near = [next((by_place[place] for place in _places(file) if place in by_place), []) for file in files]
    taken = {name for names in near for name in names}
    found = []
    for file, names in zip(files, near, strict=True):
        alike = by_stem.get(file.stem, [])
        names = names or ([] if taken.issuperset(alike) else alike)
        if len(names) > 1:
            raise UserError(f"{file} may be of {some(names, 3)}; put it beside its image, without another of its name")
        found.append(names[0] if names else f"{file.stem}.jpg")
    return found


def _by(names: Iterable[str], keys: Iterable[Hashable]) -> dict[Hashable, list[str]]:
    grouped = defaultdict(list)
    for name, key in zip(names, keys, strict=True):
        grouped[key].append(name)
    return dict(grouped)


def _places(file: Path) -> Iterator[Path]:
    """Where the image may lie, without its ending."""
    yield (place := file.with_suffix(""))
    if image := beside(place, "Annotations", "JPEGImages"):
        yield image


def _parse(file: Path) -> tuple[Size, list[_Object]]:
    try:
        root = ElementTree.parse(file).getroot()
        return (int(_text(root, "size/width")), int(_text(root, "size/height"))), _objects(root)
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}") from None
    except (ElementTree.ParseError, ValueError) as error:
        raise UserError(f"{file} is no annotation of Pascal VOC ({error}); mend or remove it") from None


def _objects(root: Element) -> list[_Object]:
    found = []
    for one in root.iter("object"):
        left, top, right, bottom = (float(_text(one, f"bndbox/{side}")) for side in ("xmin", "ymin", "xmax", "ymax"))
        bbox = [left - 1, top - 1, right - left + 1, bottom - top + 1]
        found.append(_Object(class_name(_text(one, "name")), bbox, one.findtext("difficult", "0").strip() == "1"))
    return found


def _text(element: Element, path: str) -> str:
    if (text := element.findtext(path)) is None:
        raise ValueError(f"<{element.tag}> has no {path}")
    return text.strip()
