"""What the `result.json` of a stage says, as far as other commands read it: all that they do not write themselves.

Each is a dict with more in it; a search's own is in `nas.searching.result`.
"""

from __future__ import annotations

from typing import Any, Literal, NotRequired, TypedDict

from nas.runs.folders import Name
from search_spaces.command.typed import Amount, Count, Fraction, Positive


class SupernetAccuracy(TypedDict):
    """Of its largest network, one of about half the MACs (`supernet.sampling.middle`), and its smallest."""

    largest: Fraction
    middle: Fraction
    smallest: Fraction


class SupernetResult(TypedDict):
    """`supernet/result.json`."""

    command: str
    loss: str
    sampling: str
    norm: Literal["width", "shared"]
    epochs: Count
    planned_epochs: Count
    minutes: Amount
    images_per_s: Amount
    search_accuracy: SupernetAccuracy
    test_accuracy: SupernetAccuracy


# What the weights are that `init` of a retrained winner names.
STARTS = {"inherit": "inherited", "pretrained-slice": "sliced", "scratch": "fresh"}


class TrainedResult(TypedDict):
    """`retrain/<name>/result.json`.

    `start_test_accuracy` is of the weights that training began with: those of `STARTS`, or of nas.finetune's `--init`
    with a classifier fitted.
    """

    command: str
    arch: dict[str, Any]
    init: str
    start_test_accuracy: Fraction
    test_accuracy: Fraction


class Stopped(TypedDict):
    """`retrain/<name>/stopped.json`: when ASHA stopped the training, and the accuracy on the search split by then."""

    epoch: Amount
    accuracy: Fraction


class ExportedFile(TypedDict):
    """A format of an export."""

    file: Name
    bytes: Count
    max_abs_diff: Amount
    executed_by: NotRequired[str]


class ExportedLatency(TypedDict):
    min: Positive
    busy: bool


class ExportedOnnx(ExportedFile):
    latency_ms: ExportedLatency


class ExportedResult(TypedDict):
    """`export/<name>/result.json`."""

    command: str
    onnx: NotRequired[ExportedOnnx]
    coreml: NotRequired[ExportedFile]
    timm: NotRequired[ExportedFile]


class TestAccuracy(TypedDict):
    test: Fraction


class PruningAccuracy(TypedDict):
    dense: TestAccuracy
    finetuned: TestAccuracy


class Macs(TypedDict):
    macs: Positive


class PruningNetworks(TypedDict):
    dense: Macs
    pruned: Macs


class PrunedResult(TypedDict):
    """`prune/<name>/result.json`."""

    command: str
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


REMEDY = "restore it, or move its folder away"
