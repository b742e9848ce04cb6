"""timm's networks by name: which there are, and how they are made without weights."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import timm
import torch

from search_spaces.command import UserError, reason
from search_spaces.uncached import uncached

TIMM_ERRORS = (AssertionError, AttributeError, IndexError, RuntimeError, TypeError, ValueError)


def check_timm_name(flag: str, checkpoint_flag: str, name: str) -> None:
    """UserError with the nearest names, unless `name` is timm's, with or without a tag (`resnet18.a1_in1k`).

    Args:
        flag, checkpoint_flag: that name the network and its weights.
    """
    if Path(name).expanduser().is_dir() and not timm.is_model(name):
        raise UserError(f"{flag} {name} is a folder, with weights of its own; leave out {checkpoint_flag}")
    if not is_timm(name):
        raise UserError(
            f"{flag} {name} is neither a folder here nor a network of timm {timm.__version__}; {nearest(name)}"
        )


def is_timm(name: str) -> bool:
    """Whether timm has a network of that name, with or without a tag of its weights."""
    try:
        return bool(timm.is_model(name) and (timm.get_pretrained_cfg(name) or True))
    except RuntimeError:  # a tag that this network does not have
        return False


def nearest(name: str) -> str:
    """The remedy for a name that timm does not know."""
    found = get_close_matches(name.lower().partition(".")[0], timm.list_models())
    return f"the nearest are {', '.join(found)}" if found else "timm.list_models() lists its networks"


def timm_options(name: str, image_size: int | None) -> dict[str, Any]:
    """What timm's constructor must be told of the size: networks that take any size have no such argument."""
    registered = timm.get_pretrained_cfg(name)  # none of a name that timm has given up
    sized = image_size and registered and registered.fixed_input_size
    return {"img_size": image_size} if sized else {}


def static_options(name: str, image_size: int) -> dict[str, Any]:
    """`timm_options`, and that images are all of that size: what asks a tensor for its size cannot be followed.

    Raises:
        UserError: timm cannot build it.
    """
    options = timm_options(name, image_size)
    with torch.device("meta"):
        model = create_timm("--space", name, 1000, options)
    return {**options, "dynamic_img_size": False} if getattr(model, "dynamic_img_size", False) else options


def create_timm(flag: str, name: str, num_classes: int, options: Mapping[str, Any], drop_path_rate: float = 0.0) -> Any:
    """timm's network, freshly initialized; without drop path if it knows none. UserError if timm cannot build it."""
    drops: dict[str, Any] = {"drop_path_rate": drop_path_rate} if drop_path_rate else {}
    try:
        return uncached(timm.create_model(name, pretrained=False, num_classes=num_classes, **options, **drops))
    except TIMM_ERRORS as error:
        if drops and isinstance(error, TypeError):  # no such argument
            return create_timm(flag, name, num_classes, options)
        raise UserError(f"timm cannot build {name}: {reason(error)}; give another {flag} or its image size") from None
