"""What the networks of a space learn, by its head: classes, boxes or masks."""

from __future__ import annotations

from typing import Any

from nas.dense.kind import Kind
from nas.detection.kind import Detection
from nas.segmentation.kind import Segmentation
from search_spaces.dense.space import head_of

KINDS: dict[str, Kind[Any, Any]] = {kind.stage: kind for kind in (Detection(), Segmentation())}  # by the task


def kind_of(space: str) -> Kind[Any, Any] | None:
    """
    Args:
        space: its name; of one without a head, of classifiers, there is no kind.
    """
    return KINDS[head.task] if (head := head_of(space)) else None
