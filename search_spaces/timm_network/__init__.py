"""Spaces around networks of timm, `timm/NAME`."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from search_spaces.command import UserError

if TYPE_CHECKING:
    from search_spaces.timm_network.space import TimmSpace

PREFIX = "timm/"
_NAME = re.compile(r"timm/(?P<model>[^@]+)(@(?P<steps>\d+)x(?P<multiple>\d+))?")


def timm_space(name: str, image_size: int | None = None, num_classes: int | None = None) -> TimmSpace:
    """The space around a network of timm.

    Args:
        name: `timm/NAME`, or `timm/NAME@4x8`: sizes in fourths, as multiples of 8.
        image_size: pixels (None: those that timm says).
        num_classes: (None: 1000).

    Raises:
        UserError: no such network; one that cannot take the image size, is no chain of blocks, or has nothing that can
            be narrowed.
    """
    from search_spaces.timm_network.description import described
    from search_spaces.timm_network.space import TimmSpace

    found = _NAME.fullmatch(name)
    if found is None:
        raise UserError(f"{name!r} is no space; give timm/NAME, or timm/NAME@4x8 for sizes in fourths, multiples of 8")
    steps, multiple = int(found["steps"] or 4), int(found["multiple"] or 8)
    if not 2 <= steps <= 16 or not 1 <= multiple <= 64:
        raise UserError(f"{name}: give 2 to 16 parts and multiples of 1 to 64, as in timm/{found['model']}@4x8")
    return TimmSpace(name, described(found["model"], image_size, num_classes or 1000), steps, multiple)
