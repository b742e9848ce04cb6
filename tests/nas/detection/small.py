"""A detector that nothing has trained, whose scores are nevertheless as far apart as a trained one's."""

from __future__ import annotations

from typing import Any

import torch

from search_spaces import get_space
from search_spaces.dense.backbone import Backbone
from search_spaces.dense.ssdlite import SSDLite

CLASSES = ("cat", "dog", "eel")
SIZE = 64


def detector() -> SSDLite:
    space = get_space("mobileone-nano", SIZE)
    torch.manual_seed(0)
    network = SSDLite(Backbone(space, space.smallest), len(CLASSES))
    with torch.no_grad():
        for parameter in network.heads.parameters():
            parameter.mul_(3)
    return network.eval()


def result(ap: float = 0.5) -> Any:
    """What `result.json` says of it, as far as files are concerned."""
    space = get_space("mobileone-nano", SIZE)
    return {
        "classes": list(CLASSES),
        "image_size": SIZE,
        "mean": [0.5, 0.4, 0.3],
        "std": [0.25, 0.2, 0.3],
        "space": space.name,
        "arch": space.to_json(space.smallest),
        "test": {"ap": ap},
        "files": {},
    }
