"""Search spaces: what can be searched, and what every network of a space costs."""

from __future__ import annotations

from collections.abc import Callable

from search_spaces.command import start

if start.is_starting():  # a command, and not a program that imports us
    start.prepare()

from search_spaces.base import (
    Action,
    Arch,
    Choice,
    CostTable,
    SearchSpace,
    arch_label,
    macs,
    num_params,
    peak_activations,
)
from search_spaces.block import BlockSpec
from search_spaces.command import UserError
from search_spaces.efficientformerv2 import efficientformerv2, efficientformerv2_nano
from search_spaces.mobileone import mobileone, mobileone_nano

SPACES: dict[str, Callable[..., SearchSpace]] = {
    "efficientformerv2": efficientformerv2,
    "efficientformerv2-nano": efficientformerv2_nano,
    "mobileone": mobileone,
    "mobileone-nano": mobileone_nano,
}


def get_space(name: str, image_size: int | None = None, num_classes: int | None = None) -> SearchSpace:
    """The space of that name, for the images and classes given (None: the space's own).

    Raises:
        UserError: no such space, or one that cannot take the image size or number of classes.
    """
    if name not in SPACES:
        raise UserError(f"no space {name!r}; choose from {', '.join(SPACES)}")
    given = {"image_size": image_size, "num_classes": num_classes}
    return SPACES[name](**{k: v for k, v in given.items() if v is not None})


__all__ = [
    "SPACES",
    "Action",
    "Arch",
    "BlockSpec",
    "Choice",
    "CostTable",
    "SearchSpace",
    "UserError",
    "arch_label",
    "get_space",
    "macs",
    "num_params",
    "peak_activations",
]
