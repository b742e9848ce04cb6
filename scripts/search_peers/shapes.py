"""A narrower network as its tensors: their shapes say all that its layers are, so that nothing is pickled."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from search_spaces.structure.slicing import resize


@torch.no_grad()
def shaped(model: nn.Module, tensors: Mapping[str, Tensor]) -> nn.Module:
    """A copy of the network with these tensors in place of its own, and the sizes of its layers to match.

    Sizes that no shape tells (of attention's heads) stay as they are.

    Args:
        tensors: the state dict of the network after some of its units were taken away.
    """
    smaller = copy.deepcopy(model)
    for name, tensor in tensors.items():
        owner, _, leaf = name.rpartition(".")
        layer = smaller.get_submodule(owner)
        own = tensor.detach().clone()
        setattr(layer, leaf, nn.Parameter(own) if isinstance(getattr(layer, leaf), nn.Parameter) else own)
    resize({name.rpartition(".")[0] for name in tensors}, smaller)
    return smaller.eval()


def check_shaped(model: nn.Module, pruned: nn.Module, image: Tensor) -> None:
    """ValueError if a network that was built from shapes does not compute what the pruned one does."""
    with torch.no_grad():
        ours, theirs = model.eval()(image), pruned.eval()(image)
    if not torch.allclose(ours, theirs, rtol=1e-3, atol=1e-3 * float(theirs.abs().max())):
        raise ValueError("the shapes of its tensors do not say what the pruned network computes")
