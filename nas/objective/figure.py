"""The figure that networks of a space are compared by, beside their costs."""

from __future__ import annotations

_OF_HEADS = {"ssdlite": "AP", "deeplabv3": "mIoU"}


def figure_name(space: str) -> str:
    """For a reader: `accuracy`; or what the head of the space of that name is judged by."""
    return _OF_HEADS.get(space.partition("+")[2], "accuracy")


def classifies(space: str) -> bool:
    """Whether its networks do: their figure is then a mean over images."""
    return figure_name(space) == "accuracy"
