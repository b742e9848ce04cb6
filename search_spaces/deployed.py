"""The form in which a network is shipped, beside the one in which it is trained."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from torch import nn

FORM: Final = "deployed"  # what costs, latency tables and exported files are of
MERGING = ("fuse", "reparameterize", "switch_to_deploy")  # timm's


def deployed(module: nn.Module) -> nn.Module:
    """A copy in evaluation mode, on the CPU, without what only training needs: branches merged, norms folded.

    It computes the same. Merging is timm's (what modules have of `MERGING`); a network without such modules is only
    copied.
    """
    from timm.utils import reparameterize_model
    from torch import nn

    whole = nn.Sequential(copy.deepcopy(module).cpu().eval())  # timm merges what lies in a module, not the module
    return next(reparameterize_model(whole, inplace=True).children()).eval()


def merges(module: nn.Module) -> bool:
    """Whether `deployed` makes another module of it than a copy."""
    return any(hasattr(part, method) for part in module.modules() for method in MERGING)
