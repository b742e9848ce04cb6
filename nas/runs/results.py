"""What the `result.json` of a stage says, as far as other commands read it: all that they do not write themselves.

Each is a dict with more in it; a search's own is in `nas.searching.result`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NotRequired, TypedDict

from latency_lut.tables.placement import shares_text
from nas.objective.precisions import Precision
from search_spaces.command.folders import Name
from search_spaces.command.typed import Amount, Count, Fraction, Positive


class SupernetAccuracy(TypedDict):
    """Of its largest network, one of about half the MACs (`supernet.sampling.middle`), and its smallest."""

    largest: Fraction
    middle: Fraction
    smallest: Fraction


class Ending(TypedDict):
    """How a training ended.

    Args:
        epochs: that it was to have in the end, `planned_epochs` when it was begun.
        stopped_epoch: when its patience ended; None if it had all of `epochs`.
        kept_epoch: that the weights are of.
    """

    epochs: Count
    planned_epochs: Count
    stopped_epoch: Amount | None
    kept_epoch: Amount
    minutes: Amount


def lasted(ending: Mapping[str, Any]) -> str:
    """'30 epochs', or '21 of 30 epochs, kept as of epoch 20' where patience ended it."""
    if ending["stopped_epoch"] is None:
        return f"{ending['epochs']} epochs"
    return f"{ending['stopped_epoch']:.4g} of {ending['epochs']} epochs, kept as of epoch {ending['kept_epoch']:.4g}"


class SupernetResult(Ending):
    """`supernet/result.json`."""

    command: str
    loss: str
    sampling: str
    norm: Literal["width", "shared"]
    images_per_s: Amount
    search_accuracy: SupernetAccuracy
    test_accuracy: SupernetAccuracy


# What the weights are that `init` of a retrained winner names.
STARTS = {"inherit": "inherited", "pretrained-slice": "sliced", "scratch": "fresh"}


class TrainedResult(TypedDict):
    """`retrain/<name>/result.json`.

    `precision` is the one that it was searched in. `start_test_accuracy` is of the weights that training began with:
    those of `STARTS`, or of nas.finetune's `--init` with a classifier fitted. With `all_data` it was trained on the
    search split, too.
    """

    command: str
    arch: dict[str, Any]
    init: str
    start_test_accuracy: Fraction
    test_accuracy: Fraction
    minutes: Amount
    all_data: NotRequired[bool]
    precision: NotRequired[Precision]


class Stopped(TypedDict):
    """`retrain/<name>/stopped.json`: when ASHA stopped the training, and the accuracy on the search split by then."""

    epoch: Amount
    accuracy: Fraction


class ExportedLatency(TypedDict):
    min: Positive
    busy: bool


class ExportedFile(TypedDict):
    """A file of an export; what it reaches on test images, and how many points less than the network in PyTorch."""

    file: Name
    format: str
    precision: str
    bytes: Count
    max_abs_diff: Amount
    executed_by: NotRequired[str]
    latency_ms: NotRequired[ExportedLatency]
    units: NotRequired[dict[str, Fraction]]
    peak_memory_bytes: NotRequired[Count]
    test_accuracy: NotRequired[Fraction]
    test_images: NotRequired[Count]
    drop: NotRequired[float]


class ExportedResult(TypedDict):
    """`export/<name>/result.json`; files by format, and precision where it is not the format's usual one."""

    command: str
    files: dict[str, ExportedFile]


def several_units(file: Mapping[str, Any]) -> str:
    """Which units run an exported file's operators, "xnnpack 97%, portable 3%"; empty where there is but one."""
    text = shares_text(file.get("units", {}))
    return text if ", " in text else ""


def onnx_latency(exported: Mapping[str, Any], precision: Precision = "float32") -> Mapping[str, Any]:
    """`latency_ms` of a network's ONNX file in that precision; empty where there is none."""
    files: Any = exported.get("files", {}).values()
    found = [file for file in files if file["format"] == "onnx" and file["precision"] == precision]
    return found[0].get("latency_ms", {}) if found else {}


class TestAccuracy(TypedDict):
    test: Fraction


class PruningAccuracy(TypedDict):
    dense: TestAccuracy
    finetuned: TestAccuracy


class PrunedCosts(TypedDict):
    num_params: Count
    macs: Positive


class PruningNetworks(TypedDict):
    dense: PrunedCosts
    pruned: PrunedCosts


class PruningImages(TypedDict):
    test: Count


class PrunedResult(TypedDict):
    """`prune/<name>/result.json`.

    Args:
        may_have_seen_test: nothing says that the network was not trained on the test images.
    """

    command: str
    num_images: PruningImages
    may_have_seen_test: bool
    accuracy: PruningAccuracy
    networks: PruningNetworks


class FinishedPruning(PrunedResult):
    """The same, for further formats to be exported."""

    export: dict[str, Any]


class Trial(TypedDict):
    macs_share: Fraction
    latency_share: Amount


class Selection(TypedDict):
    """`prune/<name>/rounds/<number>/selection.json`."""

    seconds: Amount
    num_images: Count
    latency_trials: list[Trial]


class EvaluatedNetwork(TypedDict):
    name: str


class Evaluation(TypedDict):
    """`evaluate/<name>.json`."""

    command: str
    split: Literal["search", "test"]
    num_images: Count
    networks: list[EvaluatedNetwork]


class Interval(TypedDict):
    """An accuracy, None where there is no image to tell, and the ends of its 95 % interval."""

    value: Fraction | None
    low: Fraction
    high: Fraction


class Example(TypedDict):
    """An image as a network sees it, a JPEG in base64, its class, and what it was taken for, with which probability."""

    label: Count
    answer: Count
    chance: Fraction
    jpeg: str


class Inspected(EvaluatedNetwork):
    """A network class by class."""

    arch: dict[str, Any]
    weights_sha256: NotRequired[str]
    top1: Interval
    per_class: list[Interval]
    confusion: list[list[Count]]
    right: list[Example]
    wrong: list[Example]


class Inspection(Evaluation):
    """The same file, as far as pages show it class by class."""

    space: str
    calibration_images: Count
    range_images: NotRequired[Count]
    classes: list[str]
    class_sizes: list[Count]
    networks: list[Inspected]  # type: ignore[misc]


def check_inspection(found: Inspection) -> None:
    """ValueError unless its parts go together."""
    count = len(found["classes"])
    if not found["networks"]:
        raise ValueError("has no networks")
    for network in found["networks"]:
        if {len(network["per_class"]), len(found["class_sizes"]), *map(len, network["confusion"])} != {count}:
            raise ValueError(f"{network['name']} has not {count} classes")
        if len(network["confusion"]) != count:
            raise ValueError(f"the confusion of {network['name']} has not {count} rows")
        if any(max(e["label"], e["answer"]) >= count for e in (*network["right"], *network["wrong"])):
            raise ValueError(f"an example of {network['name']} is of none of its {count} classes")


REMEDY = "restore it, or move its folder away"
