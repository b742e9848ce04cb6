"""YOLO's labels in COCO's form, as Ultralytics has them: https://docs.ultralytics.com/datasets/detect/.

`data.yaml` names the classes and the folders of the parts. Beside each folder of images, `…/images/…`, lies one of
labels, `…/labels/…`, with a text an image and a line an object: the number of its class, then its box (the middle and
the sides) or the corners of its outline, as fractions of the image's width and height; poses (`kpt_shape`) have key
points after the box, which are not read. An image without a text has no object.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from nas.data.classes import class_name
from nas.scenes.formats.beside import beside
from nas.scenes.formats.coco import Coco, CocoAnnotation, CocoCategory, Size
from search_spaces import UserError

YAML = (".yaml", ".yml")
BOX = 4  # numbers of a line after its class; outlines have six or more
LARGEST = 1.01  # of a fraction, as Ultralytics has it: what is beyond is rounded


class Described(NamedTuple):
    """What data.yaml says.

    Args:
        names: of the classes, by number.
        parts: folders of images, by `train`, `val` and `test`; none where the file is of all images beside it.
        poses: lines go on with key points after their box.
    """

    names: Mapping[int, str]
    parts: Mapping[str, Path]
    poses: bool


def names_classes(file: Path) -> bool:
    """Whether it is a data.yaml, or broken and meant to be one: others lie in folders too."""
    import yaml

    text = file.read_text("utf-8", "replace")
    try:
        found = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        return re.search(r"^names\s*:", text, re.MULTILINE) is not None
    return isinstance(found, dict) and "names" in found


def read_yaml(file: Path) -> Described:
    """
    Raises:
        UserError: no such file, no YAML, no names of classes, or parts that are lists of images.
    """
    import yaml

    try:
        found = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{file} is no YAML ({' '.join(str(error).split())}); mend it") from None
    names = found.get("names") if isinstance(found, dict) else None
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, dict) or not names or not all(isinstance(number, int) for number in names):
        raise UserError(f"{file} has no names of classes; give `names: [cat, dog]`, or a name for each number")
    parts = {part: _folder(file, found, part) for part in ("train", "val", "test") if found.get(part)}
    classes = {number: class_name(str(name)) for number, name in sorted(names.items())}
    return Described(classes, parts, found.get("kpt_shape") is not None)


def _folder(file: Path, found: Mapping[str, Any], part: str) -> Path:
    """From `path`, which tools write for other machines too, or from the file's folder; Roboflow's begin with ../."""
    given = str(found[part])
    roots = [file.parent / str(found.get("path") or "."), file.parent]
    tried = [root / name for root in roots for name in (given, given.removeprefix("../"))]
    for folder in tried:
        if folder.is_dir():
            return folder.resolve()
    raise UserError(
        f"{file}: {part}: {given} is no folder here; give one from the folder of the file, no list of images"
    )


def read_yolo(file: Path, images: Mapping[str, Path], sizes: Mapping[str, Size]) -> Coco:
    """
    Args:
        file: data.yaml.
        images: files by the names that they are to have.
        sizes: upright (width, height) of those that can be read, in pixels, by these names.

    Raises:
        UserError: no label is found, or one that is none.
    """
    described = read_yaml(file)
    texts = {name: next(filter(Path.is_file, labels_of(path)), None) for name, path in images.items()}
    if not any(texts.values()):
        first = next((next(labels_of(path)) for path in images.values()), "labels/1.txt")
        raise UserError(
            f"no image has labels, such as {first}; they lie in labels/ beside images/, or beside each image"
        )
    categories: list[CocoCategory] = [{"id": i, "name": name} for i, name in described.names.items()]
    coco: Coco = {"images": [], "annotations": [], "categories": categories}
    for number, (name, text) in enumerate(texts.items()):
        width, height = sizes.get(name, (1, 1))  # of a corrupt image, which is told when it is to be read
        coco["images"].append({"id": number, "file_name": name, "width": width, "height": height})
        if text is not None:
            coco["annotations"] += _objects(text, number, (width, height), described, file)
    return coco


def labels_of(image: Path) -> Iterator[Path]:
    """Where the text of an image may lie: in `labels/` where its path has `images/` last, and beside it."""
    text = image.with_suffix(".txt")
    if label := beside(text, "images", "labels"):
        yield label
    yield text


def _objects(text: Path, image: int, size: Size, described: Described, file: Path) -> list[CocoAnnotation]:
    lines = text.read_text(encoding="utf-8", errors="replace").splitlines()
    return [
        _object(line.split(), f"{text}, line {number}", image, size, described, file)
        for number, line in enumerate(lines, 1)
        if line.strip()
    ]


def _object(words: list[str], where: str, image: int, size: Size, described: Described, file: Path) -> CocoAnnotation:
    try:
        label, numbers = int(float(words[0])), [float(word) for word in words[1:]]
    except ValueError:
        raise UserError(
            f"{where}: {' '.join(words)[:60]!r} is no label; give a class and its box, as numbers"
        ) from None
    if label not in described.names:
        raise UserError(f"{where}: {file.name} names no class {label}; add its name, or remove the line")
    if described.poses and len(numbers) > BOX:
        numbers = numbers[:BOX]
    if len(numbers) != BOX and (len(numbers) < 6 or len(numbers) % 2):
        raise UserError(f"{where} has {len(numbers)} numbers after the class; give 4 of a box, or 2 for each corner")
    if not all(-LARGEST < number <= LARGEST for number in numbers):
        raise UserError(f"{where} has numbers that are not from 0 to 1; give fractions of the image's width and height")
    xs, ys = ([fraction * side for fraction in numbers[i::2]] for i, side in enumerate(size))
    one: CocoAnnotation = {"image_id": image, "category_id": label}
    if len(numbers) == BOX:
        (x, width), (y, height) = xs, ys
        return {**one, "bbox": [x - width / 2, y - height / 2, width, height]}
    outline = [value for corner in zip(xs, ys, strict=True) for value in corner]
    return {**one, "bbox": [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)], "segmentation": [outline]}
