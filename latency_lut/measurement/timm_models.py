"""timm's networks, with random weights: nothing is downloaded."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from latency_lut.backends.base import Job
from search_spaces import UserError

if TYPE_CHECKING:
    from torch import nn

PREFIX = "timm/"


def timm_job(name: str, image_size: int | None = None, num_classes: int | None = None, **options: Any) -> Job:
    """A network of timm, with random weights.

    Args:
        name: with or without "timm/".
        image_size: height and width; None for the network's own.
        num_classes: None for the network's own.
        options: of the network's constructor.

    Raises:
        UserError: timm has no network of that name.
    """
    import timm

    name = name.removeprefix(PREFIX)
    check_name("timm", name, timm.list_models(include_tags="." in name))
    config = timm.get_pretrained_cfg(name)
    channels, *size = config.input_size if config else (3, 224, 224)
    height, width = (image_size, image_size) if image_size else size

    def build() -> nn.Module:
        try:  # networks whose weights depend on the size take it; timm leaves out what is None
            model = timm.create_model(name, pretrained=False, num_classes=num_classes, img_size=image_size, **options)
        except TypeError:
            if image_size is None:
                raise
            model = timm.create_model(name, pretrained=False, num_classes=num_classes, **options)
        return model

    return Job((channels, height, width), build)


def check_name(library: str, name: str, known: Sequence[str]) -> None:
    """UserError, with the names most like it, if the library has no network of that name."""
    if name not in known:
        close = ", ".join(f"{library}/{other}" for other in get_close_matches(name, known, n=3))
        remedy = f"did you mean {close}?" if close else f"{library}.models.list_models() has all names"
        raise UserError(f"{library} has no model {name!r}; {remedy}")
