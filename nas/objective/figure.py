"""The figure that networks of a space are compared by, beside their costs."""

from __future__ import annotations

from search_spaces.dense.space import head_of


def figure_name(space: str) -> str:
    """For a reader: `accuracy`; or what the head of the space of that name is judged by."""
    return head.figure if (head := head_of(space)) else "accuracy"


def classifies(space: str) -> bool:
    """Whether its networks do: their figure is then a mean over images."""
    return head_of(space) is None
