"""What the networks of a space learn, by its head: classes, boxes or masks."""

from __future__ import annotations

from typing import Any

from nas.dense.kind import Kind
from nas.detection.kind import Detection
from nas.segmentation.kind import Segmentation

KINDS: dict[str, Kind[Any, Any]] = {"ssdlite": Detection(), "deeplabv3": Segmentation()}  # by the head


def kind_of(space: str) -> Kind[Any, Any] | None:
    """
    Args:
        space: its name; of one without a head, of classifiers, there is no kind.
    """
    return KINDS.get(space.partition("+")[2])
