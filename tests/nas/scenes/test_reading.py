from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from nas.data import sources
from nas.data.sources import Files, Skipped
from nas.scenes import BoxScenes, MaskScenes
from nas.scenes.reading import Place, read_boxes, read_masks
from search_spaces import UserError
from tests.nas.scenes.folders import HEIGHT, WIDTH, box_of, coco_of, picture, write_coco, write_masks, write_pictures

Change = Callable[[dict[str, Any]], object]


def boxes(folder: Path, annotations: Path | None = None, strict: bool = False) -> BoxScenes:
    return read_boxes(Place(str(folder), None if annotations is None else str(annotations)), Skipped(strict))


def masks(
    folder: Path,
    annotations: Path | None = None,
    ignore: int = 255,
    names: tuple[str, ...] | None = None,
    masks: Path | None = None,
) -> MaskScenes:
    file, beside = (None if path is None else str(path) for path in (annotations, masks))
    place = Place(str(folder), file, beside)
    return read_masks(place, ignore, names, Skipped(strict=False))


@pytest.fixture(params=[True, False], ids=["in memory", "in files"])
def _held(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if not request.param:
        monkeypatch.setattr(sources, "MEMORY_BYTES", 0)


# ---- boxes


@pytest.mark.usefixtures("_held")
def test_boxes_of_coco(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    coco = coco_of(5, per_image=2)
    coco["annotations"][1] |= {"iscrowd": 1, "area": 3.5}
    scenes = boxes(write_coco(tmp_path, coco))
    assert scenes.classes == ("cat", "dog") and len(scenes) == 5
    target = scenes.target(0)
    left, top, width, height = box_of(0)
    assert target["boxes"][0].tolist() == [left, top, left + width, top + height]
    assert target["area"].tolist() == [width * height, 3.5] and target["iscrowd"].tolist() == [False, True]
    assert scenes.target(3)["labels"].tolist() == [1, 1]
    assert target["boxes"].dtype == target["area"].dtype == np.float32
    assert np.array_equal(np.asarray(scenes.image(2)), np.asarray(picture(2)))
    assert scenes.present.tolist() == [[i % 2 == 0, i % 2 == 1] for i in range(5)]
    assert "annotations.json: 1 boxes are crowds" in capsys.readouterr().err


def test_images_in_folders_are_found_by_their_path_and_by_their_name(tmp_path: Path) -> None:
    coco = coco_of(2)
    coco["images"][0]["file_name"] = "train\\a\\0.png"
    write_coco(tmp_path / "train" / "a", coco)
    assert boxes(tmp_path / "train").target(1)["labels"].tolist() == [1]
    assert boxes(tmp_path).name(0) == "train/a/0.png"
    (tmp_path / "other").mkdir()
    picture(0).save(tmp_path / "other" / "1.png")
    with pytest.raises(UserError, match=r"names 1.png, which may be other/1.png, train/a/1.png; give --data"):
        boxes(tmp_path)


def test_an_image_that_is_missing_is_not_another_of_its_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    coco = coco_of(3)
    for image, file in zip(coco["images"], ("cam1/0.png", "/home/me/photos/cam1/1.png", "../cam1/2.png"), strict=True):
        image["file_name"] = file
    for file in ("cam2/0.png", "cam1/1.png", "cam1/2.png"):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        picture(0).save(tmp_path / file)
    (tmp_path / "annotations.json").write_text(json.dumps(coco))
    scenes = boxes(tmp_path)
    assert [scenes.name(i) for i in range(len(scenes))] == ["cam1/1.png", "cam1/2.png"]
    assert "names 1 images that are not in" in capsys.readouterr().err
    coco["images"][0]["file_name"], coco["images"][1]["file_name"] = "0.png", "cam2/0.png"
    (tmp_path / "annotations.json").write_text(json.dumps(coco))
    scenes = boxes(tmp_path)  # 0.png is missing, for another names that of cam2
    assert [scenes.name(i) for i in range(len(scenes))] == ["cam1/2.png", "cam2/0.png"]
    assert scenes.target(1)["labels"].tolist() == [1]


def test_names_and_annotations_of_other_systems(tmp_path: Path) -> None:
    coco = coco_of(2)
    for image in coco["images"]:
        image["file_name"] = f"\u00e9/{image['id']}.png"  # composed
    write_pictures(tmp_path / "e\u0301", 2)
    (tmp_path / "annotations.json").write_text(json.dumps(coco), encoding="utf-8-sig")
    assert boxes(tmp_path).name(1) == "e\u0301/1.png"


def clash(coco: dict[str, Any]) -> None:
    coco["images"][1]["file_name"] = "0.png"


REFUSED: dict[str, tuple[Change, str]] = {
    "a category that is not there": (
        lambda coco: coco["annotations"][0].update(category_id=9),
        r"has 1 annotations of categories that it does not name \(9\); add the categories",
    ),
    "one file twice": (clash, r"has several entries of one file: 0.png; give each once"),
    "one id twice": (lambda coco: coco["images"][1].update(id=0), r"has images of one id: 0"),
    "one name twice": (lambda coco: coco["categories"][1].update(name="cat"), r"has categories of one name: cat"),
    "no name": (lambda coco: coco["categories"][0].update(name=" "), r"has a class ' ', whose name is empty"),
    "no categories": (
        lambda coco: coco.pop("categories"),
        r"is no COCO annotations \(annotations.json has no categories\)",
    ),
    "a box of three numbers": (
        lambda coco: coco["annotations"][0].update(bbox=[1, 2, 3]),
        r"annotations.json.annotations.0.bbox has 3 numbers; give left, top, width and height",
    ),
    "a box of letters": (
        lambda coco: coco["annotations"][0].update(bbox=["a", 2, 3, 4]),
        r"annotations.0.bbox.0 is 'a', not a valid float",
    ),
    "no box": (lambda coco: coco["annotations"][0].pop("bbox"), r"has objects without a bbox"),
    "a size of 0": (lambda coco: coco["images"][0].update(width=0), r"images.0.width is 0; give a number from 1"),
    "no image that is there": (
        lambda coco: [image.update(file_name=f"x{image['id']}.png") for image in coco["images"]],
        r"names no image of .*; give --data the folder that its file names are in",
    ),
    "other sizes": (
        lambda coco: [image.update(width=99) for image in coco["images"]],
        r"all 4 images are of another size than the annotations",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_annotations_are_refused_in_one_line(case: str, tmp_path: Path) -> None:
    change, message = REFUSED[case]
    coco = coco_of(4)
    change(coco)
    with pytest.raises(UserError, match=message) as caught:
        boxes(write_coco(tmp_path, coco))
    assert "\n" not in str(caught.value)


def test_what_is_left_out_is_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    coco = coco_of(8)
    for i, bbox in enumerate([[5, 5, 0, 4], [5, 5, 4, -1], [WIDTH, 3, 5, 5], [-6, -3, 20, 90], [-0.4, 2, 5, 5]]):
        coco["annotations"][i]["bbox"] = bbox
    coco["annotations"][7]["image_id"] = 99
    coco["images"][6]["width"] = WIDTH + 1
    write_coco(tmp_path, coco)
    (tmp_path / "5.png").unlink()
    picture(9).save(tmp_path / "stray.png")
    scenes = boxes(tmp_path)
    told = capsys.readouterr().err
    assert "names 1 images that are not in" in told and "5.png" in told
    assert "left out 1 annotations of images that it does not have" in told
    assert (
        "1 of another size than the annotations (6.png)" in told
        and "1 not named in annotations.json (stray.png)" in told
    )
    counts = (
        "left out 2 boxes of no area; left out 1 boxes outside their image; cut 1 boxes at the border of their image"
    )
    assert f"annotations.json: {counts}; 4 images have no box" in told
    assert [scenes.name(i) for i in range(len(scenes))] == ["0.png", "1.png", "2.png", "3.png", "4.png", "7.png"]
    assert scenes.target(3)["boxes"].tolist() == [[0, 0, 14, HEIGHT]]
    assert scenes.target(4)["boxes"][0, 0] == 0  # a rounding error is not told
    assert scenes.target(5)["boxes"].shape == (0, 4)  # a negative


def test_which_annotations(tmp_path: Path) -> None:
    write_coco(tmp_path / "a", coco_of(4))
    with pytest.raises(UserError, match=r"no-such.json: No such file"):
        boxes(tmp_path / "a", tmp_path / "no-such.json")
    (tmp_path / "a" / "test.json").write_text(json.dumps(coco_of(2)))
    with pytest.raises(UserError, match=r"has 2 .json files .* choose one by --annotations"):
        boxes(tmp_path / "a")
    assert len(boxes(tmp_path / "a", tmp_path / "a" / "test.json")) == 2
    for file in (tmp_path / "a").glob("*.json"):
        file.unlink()
    with pytest.raises(UserError, match=r"has no annotations; name COCO's JSON or YOLO's data.yaml by --annotations"):
        boxes(tmp_path / "a")


def save_turned(file: Path, i: int, orientation: int, size: tuple[int, int] = (WIDTH, HEIGHT)) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture(i, size).save(file, exif=exif)


@pytest.mark.usefixtures("_held")
@pytest.mark.parametrize("kind", ["png", "tif"])
@pytest.mark.parametrize("stored", [True, False], ids=["as stored", "upright"])
def test_boxes_are_of_the_orientation_whose_size_the_annotations_give(tmp_path: Path, stored: bool, kind: str) -> None:
    coco = coco_of(2)
    coco["images"][1]["file_name"] = f"1.{kind}"
    if not stored:
        coco["images"][1] |= {"width": HEIGHT, "height": WIDTH}
    write_coco(tmp_path, coco)
    (tmp_path / "1.png").unlink()
    save_turned(tmp_path / f"1.{kind}", 1, 6)  # to be turned by 90 degrees
    shown = np.asarray(boxes(tmp_path).image(1))
    assert np.array_equal(shown, np.asarray(picture(1)) if stored else np.rot90(np.asarray(picture(1)), -1))


@pytest.mark.parametrize("lying", ["stored", "upright", "unknown", "both"])
def test_a_turn_that_no_size_tells_is_that_of_the_others(
    tmp_path: Path, lying: str, capsys: pytest.CaptureFixture[str]
) -> None:
    coco = coco_of(6)
    write_coco(tmp_path, coco)
    save_turned(tmp_path / "1.png", 1, 3)
    save_turned(tmp_path / "2.png", 2, 6, (HEIGHT, HEIGHT))
    coco["images"][2] |= {"width": HEIGHT}
    for i in (3, 4) if lying != "unknown" else ():
        save_turned(tmp_path / f"{i}.png", i, 8)
        if lying == "upright" or (lying == "both" and i == 4):
            coco["images"][i] |= {"width": HEIGHT, "height": WIDTH}
    save_turned(tmp_path / "5.png", 5, 3, (WIDTH + 1, HEIGHT))  # another size: left out
    (tmp_path / "annotations.json").write_text(json.dumps(coco))
    scenes = boxes(tmp_path)
    stored, square = np.asarray(picture(1)), np.asarray(picture(2, (HEIGHT, HEIGHT)))
    back = lying == "stored"
    assert np.array_equal(np.asarray(scenes.image(1)), stored if back else np.rot90(stored, 2))
    assert np.array_equal(np.asarray(scenes.image(2)), square if back else np.rot90(square, -1))
    told = "2 images are noted as turned or mirrored (EXIF), and no size says whether the annotations are of them"
    assert (told in capsys.readouterr().err) == (lying in ("unknown", "both"))


@pytest.mark.usefixtures("_held")
def test_a_corrupt_image_is_skipped_or_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_coco(tmp_path, coco_of(4))
    (tmp_path / "1.png").write_bytes(b"no image")
    scenes = boxes(tmp_path)
    if isinstance(scenes.pictures.source, Files):
        assert len(scenes) == 4  # found when it is to be read
    else:
        assert [scenes.name(i) for i in range(3)] == ["0.png", "2.png", "3.png"]
        assert scenes.target(1)["labels"].tolist() == [0]
        assert "skipped 1.png: it is no image" in capsys.readouterr().err
        with pytest.raises(UserError, match=r"1.png cannot be read"):
            boxes(tmp_path, strict=True)


# ---- Pascal VOC

XML = """<annotation><filename>other.jpg</filename><size><width>40</width><height>30</height><depth>3</depth></size>
<object><name>dog</name><bndbox><xmin>1</xmin><ymin>2</ymin><xmax>10</xmax><ymax>30</ymax></bndbox></object>
<object><name>cat</name><difficult>1</difficult>
<bndbox><xmin>3</xmin><ymin>3</ymin><xmax>4.5</xmax><ymax>4</ymax></bndbox></object></annotation>"""


def write_voc(folder: Path, *texts: str) -> Path:
    (folder / "Annotations").mkdir()
    (folder / "JPEGImages").mkdir()
    (folder / "SegmentationClass").mkdir()
    for i, text in enumerate(texts):
        (folder / "Annotations" / f"{i}.xml").write_text(text)
        picture(i).save(folder / "JPEGImages" / f"{i}.png")
        picture(i).convert("L").save(folder / "SegmentationClass" / f"{i}.png")
    return folder


def test_boxes_of_pascal_voc(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_voc(tmp_path, XML, XML.replace("dog", "hen"))
    (folder / "Annotations" / "9.xml").write_text(XML)
    scenes = boxes(folder)
    assert scenes.classes == ("cat", "dog", "hen") and len(scenes) == 2
    target = scenes.target(0)
    assert target["boxes"].tolist() == [[0, 1, 10, 30], [2, 2, 4.5, 4]]
    assert target["labels"].tolist() == [1, 0] and target["iscrowd"].tolist() == [False, True]
    told = capsys.readouterr().err
    assert "Annotations names 1 images that are not in" in told and "9.jpg" in told and ".xml" not in told


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("<ymin>2</ymin>", "", r"0.xml is no annotation of Pascal VOC \(<object> has no bndbox/ymin\); mend"),
        ("<ymin>2", "<ymin>two", r"could not convert string to float: 'two'"),
        ("</annotation>", "", r"no annotation of Pascal VOC"),
        ("<width>40", "<width>0", r"width is 0; give a number from 1"),
        ("<xmin>1", "<xmin>nan", r"annotations.0.bbox.0 is nan, not a valid float"),
    ],
)
def test_bad_xml_is_refused_in_one_line(tmp_path: Path, before: str, after: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        boxes(write_voc(tmp_path, XML.replace(before, after)))
    assert "\n" not in str(caught.value)


def test_xml_is_of_the_image_beside_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
    for name, i in (("a/1", 1), ("b/1", 2), ("b/2", 3)):
        picture(i).save(tmp_path / f"{name}.png")
    (tmp_path / "a" / "1.xml").write_text(XML)
    (tmp_path / "a" / "2.xml").write_text(XML.replace("dog", "hen"))
    scenes = boxes(tmp_path)
    assert [scenes.name(i) for i in range(len(scenes))] == ["a/1.png", "b/2.png"]
    (tmp_path / "b" / "1.xml").write_text(XML.replace("dog", "cow"))
    (tmp_path / "c" / "1.xml").write_text(XML)  # an image that is missing
    capsys.readouterr()
    scenes = boxes(tmp_path)
    labels = {scenes.name(i): scenes.classes[scenes.target(i)["labels"][0]] for i in range(len(scenes))}
    assert labels == {"a/1.png": "dog", "b/1.png": "cow", "b/2.png": "hen"}
    assert "names 1 images that are not in" in capsys.readouterr().err
    (tmp_path / "b" / "1.xml").unlink()
    with pytest.raises(UserError, match=r"c/1.xml may be of a/1.png, b/1.png; put it beside its image, without"):
        boxes(tmp_path)


def test_xml_of_several_years_is_of_the_images_of_its_year(tmp_path: Path) -> None:
    for name in ("dog", "hen"):
        (tmp_path / name).mkdir()
        write_voc(tmp_path / name, XML.replace("dog", name))
    scenes = boxes(tmp_path)
    labels = {scenes.name(i): scenes.classes[scenes.target(i)["labels"][0]] for i in range(len(scenes))}
    assert labels == {"dog/JPEGImages/0.png": "dog", "hen/JPEGImages/0.png": "hen"}


# ---- folders of masks


@pytest.mark.usefixtures("_held")
def test_masks_of_folders(tmp_path: Path) -> None:
    scenes = masks(write_masks(tmp_path, 4))
    assert scenes.classes == ("0", "1", "2") and len(scenes) == 4
    mask = scenes.mask(1)
    assert mask.dtype == np.uint8 and mask.shape == (HEIGHT, WIDTH) and np.unique(mask).tolist() == [0, 2]
    assert scenes.present.tolist() == [[True, i % 2 == 0, i % 2 == 1] for i in range(4)]
    named = masks(tmp_path / "images", masks=tmp_path / "masks", names=("ground", "cat", "dog", "hen"))
    assert named.classes == ("ground", "cat", "dog", "hen") and np.array_equal(named.mask(1), mask)
    assert named.digest == masks(tmp_path, names=("ground", "cat", "dog", "hen")).digest != scenes.digest


def test_indices_may_be_any_and_one_is_ignored(tmp_path: Path) -> None:
    binary = masks(write_masks(tmp_path, 4, (0, 255)), ignore=-1)
    assert binary.classes == ("0", "255") and np.unique(binary.mask(0)).tolist() == [0, 1]
    assert masks(tmp_path, ignore=255).classes == ("0",)
    without_first = masks(tmp_path, ignore=0)
    assert without_first.classes == ("255",) and np.unique(without_first.mask(0)).tolist() == [0, 255]


def test_a_palette_and_16_bits_are_read_as_indices(tmp_path: Path) -> None:
    expected = masks(write_masks(tmp_path, 3)).mask(0)
    indices = Image.open(tmp_path / "masks" / "0.png")
    indices.load()
    indices.putpalette([9, 9, 9, 200, 0, 0, 0, 200, 0])
    indices.save(tmp_path / "masks" / "0.png")
    assert Image.open(tmp_path / "masks" / "0.png").mode == "P"
    assert np.array_equal(masks(tmp_path).mask(0), expected)
    Image.fromarray(expected.astype(np.uint16)).save(tmp_path / "masks" / "0.png")
    assert np.array_equal(masks(tmp_path).mask(0), expected)


def colours(folder: Path) -> None:
    picture(0).save(folder / "masks" / "0.png")


def lossy(folder: Path) -> None:
    (folder / "masks" / "0.png").unlink()
    picture(0).convert("L").save(folder / "masks" / "0.jpg")


def large(folder: Path) -> None:
    Image.fromarray(np.full((HEIGHT, WIDTH), 300, dtype=np.uint16)).save(folder / "masks" / "0.png")


def twice(folder: Path) -> None:
    picture(0).convert("L").save(folder / "masks" / "0.bmp")


def negative(folder: Path) -> None:
    (folder / "masks" / "0.png").unlink()
    Image.fromarray(np.array([[-1, 0]] * 2, dtype=np.int32)).save(folder / "masks" / "0.tif")


def alone(folder: Path) -> None:
    for mask in (folder / "masks").iterdir():
        mask.rename(mask.with_stem(f"x{mask.stem}"))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (colours, r"the mask 0.png is PNG of mode RGB; give PNG with an index a pixel \(mode L or P\)"),
        (lossy, r"the mask 0.jpg is JPEG of mode L; give PNG"),
        (large, r"the mask 0.png holds indices from 300 to 300; give indices from 0 to 255"),
        (negative, r"the mask 0.tif holds indices from -1 to 0; give indices from 0 to 255"),
        (twice, r"has two masks of one name, 0.bmp, 0.png; remove one"),
        (alone, r"no image of .*images has a mask in .*masks; give masks of the same names, 1.png for 1.jpg"),
    ],
)
def test_bad_masks_are_refused_in_one_line(tmp_path: Path, spoil: Callable[[Path], None], message: str) -> None:
    spoil(write_masks(tmp_path, 3))
    with pytest.raises(UserError, match=message) as caught:
        masks(tmp_path)
    assert "\n" not in str(caught.value)


def test_indices_that_no_class_is_named_of_are_refused(tmp_path: Path) -> None:
    write_masks(tmp_path, 4, (0, 1, 7, 9))
    with pytest.raises(UserError, match=r"indices that --classes does not name: 7, 9 \(it names 0 to 1\); name them"):
        masks(tmp_path, names=("ground", "cat"))


def test_masks_that_do_not_fit_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_masks(tmp_path, 6)
    (tmp_path / "masks" / "1.png").unlink()
    (tmp_path / "images" / "2.png").unlink()
    Image.fromarray(np.zeros((HEIGHT, WIDTH + 1), dtype=np.uint8)).save(tmp_path / "masks" / "3.png")
    (tmp_path / "masks" / "4.png").write_bytes(b"no image")
    scenes = masks(tmp_path)
    assert [scenes.name(i) for i in range(len(scenes))] == ["0.png", "5.png"]
    assert np.unique(scenes.mask(1)).tolist() == [0, 2]
    told = capsys.readouterr().err
    assert "masks: left out 1 without an image (2.png)" in told and "1 without a mask (1.png)" in told
    assert "1 of another size than their masks (3.png)" in told and "1 with a corrupt mask (4.png)" in told


# ---- masks of COCO's objects


def segmented(*segmentations: Any, **more: Any) -> dict[str, Any]:
    """One image with an object for each; the first is a cat, the others are dogs."""
    coco = coco_of(1)
    coco["annotations"] = [
        {"image_id": 0, "category_id": 5 + (i > 0), "bbox": [20, 0, 3, 3], "segmentation": one, **more}
        for i, one in enumerate(segmentations)
    ]
    return coco


def rectangle(left: int, top: int, right: int, bottom: int) -> list[list[float]]:
    return [[left, top, right, top, right, bottom, left, bottom]]


def runs(left: int, top: int, right: int, bottom: int) -> np.ndarray:
    inside = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    inside[top:bottom, left:right] = 1
    return inside


def test_polygons_and_run_lengths_are_painted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from pycocotools import mask as coco_masks

    packed = coco_masks.encode(np.asfortranarray(runs(12, 0, 16, 4)))
    plain = [20 * HEIGHT, 5, WIDTH * HEIGHT - 20 * HEIGHT - 5]  # five pixels of column 20
    coco = segmented(
        rectangle(2, 2, 8, 8),
        {"size": [HEIGHT, WIDTH], "counts": packed["counts"].decode()},
        {"size": [HEIGHT, WIDTH], "counts": plain},
        rectangle(6, 6, 10, 10),
        None,
    )
    coco["annotations"][2]["iscrowd"] = 1
    scenes = masks(write_coco(tmp_path, coco))
    assert scenes.classes == ("background", "cat", "dog")
    expected = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    expected[2:8, 2:8] = 1
    expected[6:10, 6:10] = 2
    expected[6:8, 6:8] = 255  # both
    expected[0:4, 12:16] = 2
    expected[0:5, 20] = 2
    expected[0:3, 20:23] = 255  # the box of what has no mask
    assert np.array_equal(scenes.mask(0), expected)
    assert scenes.present.tolist() == [[True, True, True]]
    told = capsys.readouterr().err
    assert "1 objects are crowds; 2 objects are run lengths among polygons; 1 objects have no mask, so" in told


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        (
            {"size": [HEIGHT, 9], "counts": [1]},
            r"is of \[30, 9\] pixels \(height, width\), where the image has \[30, 40\]",
        ),
        ({"size": [HEIGHT, WIDTH], "counts": [5]}, r"has run lengths that do not add up to its pixels"),
        ({"size": [HEIGHT, WIDTH], "counts": [-1, WIDTH * HEIGHT + 1]}, r"has run lengths that do not add up"),
        ({"size": [HEIGHT, WIDTH]}, r"is neither polygons nor run lengths"),
        ([[1, 2, 3, 4, 5, 6, 7]], r"is no list of polygons"),
        ([["a"] * 6], r"is no list of polygons"),
        ([1, 2, 3, 4, 5, 6], r"is no list of polygons"),
    ],
)
def test_bad_segmentations_are_refused_in_one_line(tmp_path: Path, segmentation: Any, message: str) -> None:
    with pytest.raises(UserError, match=f"has an object on 0.png whose segmentation {message}"):
        masks(write_coco(tmp_path, segmented(segmentation)))


@pytest.mark.parametrize("counts", ["abc", "0`U10`U1", "", "0`U", "o`0o`0", "\u00e9", "\ud800"])
def test_damaged_packed_run_lengths_are_refused(tmp_path: Path, counts: str) -> None:
    write_coco(tmp_path, segmented({"size": [HEIGHT, WIDTH], "counts": "0`U1"}))  # all of its pixels
    assert masks(tmp_path).mask(0).min() == 1
    (tmp_path / "annotations.json").write_text(json.dumps(segmented({"size": [HEIGHT, WIDTH], "counts": counts})))
    with pytest.raises(UserError, match="has packed run lengths that are damaged, or do not add up to its pixels"):
        masks(tmp_path)


def test_lines_are_no_polygons(tmp_path: Path) -> None:
    scenes = masks(write_coco(tmp_path, segmented([[20, 20, 30, 30]])))
    assert np.unique(scenes.mask(0)).tolist() == [0, 255]  # pycocotools would take four numbers for a box


def test_a_category_cannot_be_the_background(tmp_path: Path) -> None:
    coco = segmented(rectangle(2, 2, 8, 8))
    coco["categories"][1]["name"] = "background"
    with pytest.raises(UserError, match=r"none that is named background"):
        masks(write_coco(tmp_path, coco))
