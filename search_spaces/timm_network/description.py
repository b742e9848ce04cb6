"""What is found of a network by running it, kept in the user's cache: it follows from names, versions and our code."""

from __future__ import annotations

import copy
import hashlib
import sys
from contextlib import suppress
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import platformdirs
import timm
import torch

from search_spaces import structure
from search_spaces.command import UserError, reason
from search_spaces.command.files import read_json, write_json
from search_spaces.command.typed import read_typed
from search_spaces.timm_network.network import Description, Network, describe
from search_spaces.timm_network.timm_models import TIMM_ERRORS, create_timm, is_timm, nearest, static_options


@cache
def described(name: str, image_size: int | None, num_classes: int) -> Network:
    """
    Args:
        image_size: pixels; None: those that timm says.

    Raises:
        UserError: timm has no such network, or it cannot be searched; says why.
    """
    if not is_timm(name):
        raise UserError(f"no network {name!r} in timm {timm.__version__}; {nearest(name)}")
    config = timm.get_pretrained_cfg(name)
    size = image_size or (config.input_size[1] if config else 224)
    options = static_options(name, size)
    facts = {"name": name, "options": options, "image_size": size}
    file = _file(facts)
    if (found := _read(file)) is None:
        found = _find(name, options, size)
        with suppress(UserError):  # where the folder cannot be written, it is found anew each time
            write_json(file, asdict(found))
    return Network(name, options, size, num_classes, found)


def _find(name: str, options: dict[str, Any], size: int) -> Description:
    what = f"{name}: finding out what can be narrowed, by running it without it; once, it is kept"
    print(what, file=sys.stderr, flush=True)
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        model = create_timm("--space", name, 1000, options)
    try:
        with torch.no_grad():
            copy.deepcopy(model).eval()(torch.zeros(1, 3, size, size))
    except TIMM_ERRORS as error:
        raise UserError(f"{name} cannot take {size} px: {reason(error)}; give another --image-size") from None
    try:
        return describe(model, size)
    except ValueError as error:
        raise UserError(f"{name} cannot be searched: {error}") from None


def _read(file: Path) -> Description | None:
    """None where there is none, or none of this version."""
    try:
        return read_typed(Description, read_json(file), file.name)
    except (UserError, ValueError):
        return None


def _file(facts: dict[str, Any]) -> Path:
    code = b"".join(path.read_bytes() for path in sorted(_code()))
    versions = f"{timm.__version__} {torch.__version__} {hashlib.sha256(code).hexdigest()}"
    digest = hashlib.sha256(f"{sorted(facts.items())} {versions}".encode()).hexdigest()[:16]
    return Path(platformdirs.user_cache_dir("mobile-nas")) / "networks" / f"{facts['name']}-{digest}.json"


def _code() -> list[Path]:
    """The modules that what is found follows from."""
    return [Path(__file__), Path(__file__).with_name("network.py"), *Path(structure.__file__).parent.rglob("*.py")]
