"""Search spaces: what can be searched, and what every network of a space costs."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import entry_points

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
from search_spaces.dense.space import HEADS
from search_spaces.efficientformerv2 import efficientformerv2, efficientformerv2_nano
from search_spaces.efficientformerv2.drop_path import published_drop_path
from search_spaces.efficientvit import efficientvit, efficientvit_nano
from search_spaces.mobileone import mobileone, mobileone_nano
from search_spaces.mobilevit import mobilevit, mobilevit_nano, mobilevit_tiny
from search_spaces.timm_network import PREFIX, timm_space

SPACES: dict[str, Callable[..., SearchSpace]] = {
    "efficientformerv2": efficientformerv2,
    "efficientformerv2-nano": efficientformerv2_nano,
    "efficientvit": efficientvit,
    "efficientvit-nano": efficientvit_nano,
    "mobileone": mobileone,
    "mobileone-nano": mobileone_nano,
    "mobilevit": mobilevit,
    "mobilevit-nano": mobilevit_nano,
    "mobilevit-tiny": mobilevit_tiny,
}
DEFAULT_SPACE = "efficientformerv2-nano"  # of every command: a laptop trains it on its CPU
NUM_OBJECTS = 80  # of COCO: classes of boxes and masks where no other number is given
PLUGINS = "search_spaces"  # entry points of this group, in packages of other people, are spaces too


def space_names() -> list[str]:
    """Every space that `get_space` knows: this project's, then those of installed packages."""
    return list(dict.fromkeys((*SPACES, *(plugin.name for plugin in entry_points(group=PLUGINS)))))


def get_space(name: str, image_size: int | None = None, num_classes: int | None = None) -> SearchSpace:
    """The space of that name, for the images and classes given (None: the space's own).

    `timm/NAME` is the space around timm's network of that name (`search_spaces.timm_network`), `SPACE+HEAD` that of
    another space's networks with a head for boxes or masks (`search_spaces.dense`).

    A package of your own adds one by an entry point, with the space's `name` and a function of these two arguments:

        [project.entry-points.search_spaces]
        my-space = "my_package.my_module:my_space"

    Raises:
        UserError: no such space, or one that cannot take the image size or number of classes.
    """
    base, sign, head = name.partition("+")
    if sign:
        if head not in HEADS:
            raise UserError(f"no head {head!r} in {name!r}; choose from {', '.join(HEADS)}")
        return HEADS[head](get_space(base, image_size), NUM_OBJECTS if num_classes is None else num_classes)
    if name.startswith(PREFIX):
        return timm_space(name, image_size, num_classes)
    if name in SPACES:
        make = SPACES[name]
    elif plugins := entry_points(group=PLUGINS, name=name):
        make = next(iter(plugins)).load()
    else:
        raise UserError(
            f"no space {name!r}; choose from {', '.join(space_names())}, or timm/NAME for one around a network of timm"
        )
    given = {"image_size": image_size, "num_classes": num_classes}
    return make(**{k: v for k, v in given.items() if v is not None})


__all__ = [
    "DEFAULT_SPACE",
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
    "published_drop_path",
    "space_names",
]
