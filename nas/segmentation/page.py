"""The page of a segmenter: what it reaches class by class, what it takes for what, test images, its files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from nas.dense.result import DenseResult
from nas.evaluation.confusion_plot import MAX_CLASSES, confusion_matrix, mistakes, shares, worst_share
from nas.runs.results import lasted
from nas.segmentation.colours import BORDER, colours
from nas.segmentation.examples import Example
from nas.segmentation.metric import MaskFigures
from search_spaces.command.page import Markup, commands, embed, html, joined, link, page, table

IOU_NOTE = (
    "Intersection over union (IoU): the pixels that are of a class in both mask and prediction, over those that are in "
    "either; mIoU is the mean over the classes that occur. Predictions are compared at each mask’s own size, ignored "
    "pixels left out."
)
MATRIX_NOTE = "Shares of the pixels of each row’s class, in %. Blue: right. Orange: taken for another class."
EXAMPLES_NOTE = (
    "Evenly spaced over the test images and chosen by nothing else: as it is, its mask, what the network makes of it, "
    "and which share of the pixels is right."
)
FILES_NOTE = (
    "They give the class of each pixel, compared with PyTorch’s on test images. ONNX takes an image as preprocessing, "
    "mean and std in its metadata say, Core ML the RGB image itself."
)
STYLE = """
.legend-of-classes { display: flex; flex-wrap: wrap; gap: 4px 16px; margin: 10px 0; font-size: 13.5px; }
i.swatch { display: inline-block; width: 14px; height: 14px; border: 1px solid var(--line);
  border-radius: 3px; margin-right: 6px; vertical-align: -2px; }
.scenes { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 500px), 1fr)); gap: 14px 24px; }
.scenes figure { margin: 0; }
.scenes div { display: grid; grid-template-columns: repeat(3, minmax(0, 1fr)); gap: 4px; }
.scenes img { width: 100%; display: block; border-radius: 3px; }
.scenes figcaption { overflow-wrap: anywhere; margin-top: 3px; }
"""


def segment_page(
    run: str, network: str, result: DenseResult, search: MaskFigures, test: MaskFigures, shown: Sequence[Example]
) -> str:
    """The whole document.

    Args:
        network: in a few words.
        shown: test images.
    """
    parts = [
        *_summary(run, network, result, search, test),
        *_classes(result["classes"], search, test),
        *_mistakes(result["classes"], np.array(test["confusion"])),
        *_examples(result["classes"], shown),
        *_files(result),
        html("<h2>Command</h2>\n{}", commands([result["command"]])),
    ]
    return page(f"{run}: {network}", parts, style=STYLE)


def _summary(run: str, network: str, result: DenseResult, search: MaskFigures, test: MaskFigures) -> Iterator[Markup]:
    yield html("<h1>{}: mIoU {}</h1>\n", run, _percent(test["miou"]))
    yield html(
        '<p class="soft">{}, {:.2f} M parameters, {} px, {} classes; trained for {} in {:.0f} minutes.</p>\n',
        network,
        result["num_params"] / 1e6,
        result["image_size"],
        len(result["classes"]),
        lasted(result),
        result["minutes"],
    )
    rows = [
        [name, f"{result['num_images'][name]:,}", _percent(found["miou"]), _percent(found["pixel_accuracy"])]
        for name, found in (("test", test), ("search", search))
    ]
    yield table(["Images", "Number", "mIoU", "Pixels\nthat are right"], rows)
    yield html('<p class="soft">{}</p>\n', IOU_NOTE)


def _classes(names: Sequence[str], search: MaskFigures, test: MaskFigures) -> Iterator[Markup]:
    pixels = np.array(test["confusion"]).sum(axis=1)
    columns = zip(names, colours(len(names)), pixels / max(1, pixels.sum()), test["iou"], search["iou"], strict=True)
    rows = [
        [joined((_swatch(colour), name)), _percent(share), _percent(tested), _percent(searched)]
        for name, colour, share, tested, searched in columns
    ]
    yield html("<h2>IoU of each class</h2>\n")
    yield table(["Class", "Of the test pixels", "IoU, test", "IoU, search"], rows)


def _mistakes(names: Sequence[str], counts: np.ndarray) -> Iterator[Markup]:
    yield html("<h2>What is taken for what</h2>\n")
    if len(names) <= MAX_CLASSES:
        yield html('<p class="soft">{}</p>\n', MATRIX_NOTE)
        yield embed("mistakes", confusion_matrix(names, counts, worst_share(counts), "pixels"))
        return
    rows = [[names[i], names[j], _percent(shares(counts)[i, j] / 100)] for i, j, _ in mistakes(counts)]
    yield table(["Class", "taken for", "Of its pixels"], rows, text=(0, 1))


def _examples(classes: Sequence[str], shown: Sequence[Example]) -> Iterator[Markup]:
    yield html('<h2>Test images</h2>\n<p class="soft">{}</p>\n', EXAMPLES_NOTE)
    names = zip(classes, colours(len(classes)).tolist(), strict=True)
    legend = [*names, ("does not count", BORDER)]
    yield html(
        '<div class="legend-of-classes">{}</div>\n',
        joined(html("<span>{}{}</span>\n", _swatch(colour), name) for name, colour in legend),
    )
    yield html('<div class="scenes">\n{}</div>\n', joined(map(_scene, shown)))


def _swatch(colour: Sequence[int]) -> Markup:
    red, green, blue = (int(part) for part in colour)
    return html('<i class="swatch" style="background: rgb({}, {}, {})"></i>', red, green, blue)


def _scene(example: Example) -> Markup:
    pictures = (("photo", example.photo), ("mask", example.truth), ("prediction", example.predicted))
    images = (html('<img src="data:image/png;base64,{}" alt="{} of {}">', p, n, example.name) for n, p in pictures)
    return html(
        "<figure><div>{}</div><figcaption>{}: {} right</figcaption></figure>\n",
        joined(images),
        example.name,
        _percent(example.correct),
    )


def _files(result: DenseResult) -> Iterator[Markup]:
    rows = [_file(facts) for facts in result["files"].values()]
    head = ["File", "Size\nMB", "Logits differ\nat most", "Pixels\nthe same", "Latency\nms", "Executed by"]
    yield html("<h2>Files</h2>\n{}", table(head, rows, text=(0, 5)))
    yield html('<p class="soft">{}</p>\n', FILES_NOTE)


def _file(facts: Mapping[str, Any]) -> list[str]:
    latency = facts.get("latency_ms")
    busy = "\nthe machine was busy" if latency and latency["busy"] else ""
    return [
        link(f"export/{facts['file']}", facts["file"]),
        f"{facts['bytes'] / 1e6:.2f}",
        f"{facts['differences']['logits']:.1e}",
        f"{100 * facts['same']['pixels']:.2f} %",
        f"{latency['min']:.2f}{busy}" if latency else "–",
        facts.get("executed_by", "ONNX Runtime"),
    ]


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"
