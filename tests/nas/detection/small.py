"""A detector that nothing has trained, whose scores are nevertheless as far apart as a trained one's."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from search_spaces import get_space
from search_spaces.dense.backbone import Backbone
from search_spaces.dense.ssdlite import SSDLite

CLASSES = ("cat", "dog", "eel")
SIZE = 64


def backbone() -> Backbone:
    """All branches at work, and norms of its own maps: one that is fresh answers nearly alike everywhere."""
    space = get_space("mobileone-nano", SIZE)
    found = Backbone(space, space.smallest)
    norms = [module for module in found.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        norm.momentum = None
    with torch.no_grad():
        found.train()(torch.randn(16, 3, SIZE, SIZE))
    return found.eval()


def detector() -> SSDLite:
    torch.manual_seed(0)
    network = SSDLite(backbone(), len(CLASSES))
    with torch.no_grad():
        for parameter in network.heads.parameters():
            parameter.mul_(2)
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
