"""The page of nas.instances: what is found by masks and by boxes, what is taken for what, and masks on test images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from nas.dense.result import DenseResult
from nas.detection import sections
from nas.detection.sections import percent
from nas.instance_segmentation.examples import Example
from nas.instance_segmentation.metric import InstanceFigures
from nas.runs.results import lasted
from search_spaces.command.page import Markup, commands, html, joined, page, table

EXAMPLES = (
    "Evenly spaced over the test images and chosen by nothing else. On the left the objects that are there, on the "
    "right those that were found, with a score of {:.2f} or more; each has a colour of its own."
)
USE = (
    "An image is resized to {size} × {size} pixels, whatever its shape (bilinear, antialiased). ONNX takes it "
    "normalized (mean and std are in the file) and gives boxes in these pixels, scores, labels, and of each box how "
    "likely each of its 28 × 28 parts is of the object. Core ML’s converter has no RoIAlign, which both heads begin "
    "with."
)
STYLE = """
.masks { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 500px), 1fr)); gap: 14px 24px; }
.masks div { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 4px; }
"""


def instances_page(
    run: str,
    network: str,
    result: DenseResult,
    search: InstanceFigures,
    test: InstanceFigures,
    shown: Sequence[Example],
) -> str:
    """The whole document.

    Args:
        network: in a few words.
        shown: test images.
    """
    parts = (
        *_summary(run, network, result, search, test),
        *sections.curves(result["classes"], test, "segm"),
        *_classes(result["classes"], test),
        *sections.confusion(result["classes"], test, "segm"),
        *_examples(result["classes"], test["score"], shown),
        *sections.files(result, USE.format(size=result["image_size"])),
    )
    return page(f"{run}: masks of objects", parts, style=sections.STYLE + STYLE)


def _summary(
    run: str, network: str, result: DenseResult, search: InstanceFigures, test: InstanceFigures
) -> Iterator[Markup]:
    yield html("<h1>{}: mask AP {:.1f} %, box AP {:.1f} %</h1>\n", run, 100 * test["ap"], 100 * test["boxes"]["ap"])
    yield html(
        '<p class="soft">{} over a network of {}, {:.2f} million parameters, on images of {} × {} pixels; {} of {:,} '
        "images, {:.0f} minutes.</p>\n",
        network, result["space"], result["num_params"] / 1e6, result["image_size"], result["image_size"],
        lasted(result), result["num_images"]["train"], result["minutes"],
    )  # fmt: skip
    splits = (("Test", test), ("Search", search))
    rows = [row for name, of in splits for row in ((f"{name}, masks", of), (f"{name}, boxes", of["boxes"]))]
    yield from sections.figures_table(rows, "a mask, or a box,")
    yield commands([result["command"]])


def _classes(classes: Sequence[str], test: InstanceFigures) -> Iterator[Markup]:
    both = zip(classes, test["per_class"], test["boxes"]["per_class"], strict=True)
    rows = [
        [name, f"{masks['objects']:,}", *map(percent, (masks["ap"], masks["ap50"], boxes["ap"], boxes["ap50"]))]
        for name, masks, boxes in both
    ]
    yield html("<h2>Each class</h2>\n")
    yield table(["Class", "Objects", "AP\nmasks", "AP50\nmasks", "AP\nboxes", "AP50\nboxes"], rows)


def _examples(classes: Sequence[str], score: float, shown: Sequence[Example]) -> Iterator[Markup]:
    yield html('<h2>Masks on test images</h2>\n<p class="soft">{}</p>\n', EXAMPLES.format(score))
    yield html('<div class="boxes masks">\n{}</div>\n', joined(_example(classes, score, one) for one in shown))


def _example(classes: Sequence[str], score: float, example: Example) -> Markup:
    size = example.image["size"]
    there = sections.picture(example.name, example.there, size, sections.there(classes, example.image))
    found = sections.picture(example.name, example.found, size, sections.found(classes, example.image, score))
    return html("<figure><div>{}{}</div><figcaption>{}</figcaption></figure>\n", there, found, example.name)
