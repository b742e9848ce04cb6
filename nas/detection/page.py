"""The page of nas.detect: what the detector reaches, what it takes for what, and boxes on test images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from nas.dense.result import DenseResult
from nas.detection import sections
from nas.detection.examples import Example
from nas.detection.metric import ObjectFigures
from nas.detection.sections import percent
from nas.runs.results import lasted
from search_spaces.command.page import Markup, commands, html, joined, page, table

EXAMPLES = (
    "Evenly spaced over the test images and chosen by nothing else. Green, dashed: the objects that are there. Orange: "
    "boxes that were found, with a score of {:.2f} or more."
)
USE = (
    "An image is resized to {size} × {size} pixels, whatever its shape (bilinear, antialiased). ONNX takes it "
    "normalized (mean and std are in the file) and gives boxes in these pixels, scores and labels, overlapping ones "
    "removed. Core ML takes the image itself, for Vision’s VNCoreMLRequest with the option scaleFill."
)


def report_page(
    run: str, result: DenseResult, search: ObjectFigures, test: ObjectFigures, shown: Sequence[Example]
) -> str:
    """The whole document.

    Args:
        shown: test images.
    """
    parts = (
        *_summary(run, result, search, test),
        *sections.curves(result["classes"], test, "bbox"),
        *_classes(result["classes"], test),
        *sections.confusion(result["classes"], test, "bbox"),
        *_examples(result["classes"], test["score"], shown),
        *sections.files(result, USE.format(size=result["image_size"])),
    )
    return page(f"{run}: boxes", parts, style=sections.STYLE)


def _summary(run: str, result: DenseResult, search: ObjectFigures, test: ObjectFigures) -> Iterator[Markup]:
    yield html("<h1>{}: AP {:.1f} %</h1>\n", run, 100 * test["ap"])
    images = result["num_images"]
    yield html(
        '<p class="soft">SSDLite over a network of {}, {:.2f} million parameters, on images of {} × {} pixels; {} of '
        "{:,} images, {:.0f} minutes.</p>\n",
        result["space"], result["num_params"] / 1e6, result["image_size"], result["image_size"], lasted(result),
        images["train"], result["minutes"],
    )  # fmt: skip
    yield from sections.figures_table((("Test", test), ("Search", search)), "a box")
    yield commands([result["command"]])


def _classes(classes: Sequence[str], test: ObjectFigures) -> Iterator[Markup]:
    rows = [
        [name, f"{one['objects']:,}", percent(one["ap"]), percent(one["ap50"])]
        for name, one in zip(classes, test["per_class"], strict=True)
    ]
    yield html("<h2>Each class</h2>\n")
    yield table(["Class", "Objects", "AP", "AP50"], rows)


# ---- images


def _examples(classes: Sequence[str], score: float, shown: Sequence[Example]) -> Iterator[Markup]:
    yield html('<h2>Boxes on test images</h2>\n<p class="soft">{}</p>\n', EXAMPLES.format(score))
    yield html('<div class="boxes">\n{}</div>\n', joined(_example(classes, score, one) for one in shown))


def _example(classes: Sequence[str], score: float, example: Example) -> Markup:
    marks = (*sections.there(classes, example.image), *sections.found(classes, example.image, score))
    picture = sections.picture(example.name, example.jpeg, example.image["size"], marks)
    return html("<figure>{}<figcaption>{}</figcaption></figure>\n", picture, example.name)
