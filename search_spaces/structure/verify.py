"""Networks of any family: described by tracing, and believed where running them agrees."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from search_spaces.command import UserError
from search_spaces.deployed import deployed
from search_spaces.structure.base import Structure
from search_spaces.structure.costs import Costs
from search_spaces.structure.fvcore_macs import fvcore_macs
from search_spaces.structure.layouts import Layouts
from search_spaces.structure.slicing import cut, permute
from search_spaces.structure.tracing import trace

CLOSE = 1e-8  # of the largest logit, in double precision
DEPLOYED_CLOSE = 1e-4  # likewise, in single


def describe(model: nn.Module, image_size: int) -> tuple[Layouts, tuple[str, ...]]:
    """What can be narrowed of a network of any family, and the dimensions that were found but are not true.

    Raises:
        UserError: nothing can be.
    """
    found = trace(model, image_size)
    layouts = verify(model, found, image_size)
    if not layouts.sizes:
        raise UserError(f"nothing in {type(model).__name__} can be narrowed; give another network")
    return layouts, tuple(name for name in found.sizes if name not in layouts.sizes)


def verify(model: nn.Module, layouts: Layouts, image_size: int) -> Layouts:
    """The layouts with those dimensions alone that are true, and the MACs of what no weight tells."""
    names, other_macs = true_dimensions(model, layouts.structure(model), image_size)
    return layouts.only(names).with_other_macs(other_macs)


def true_dimensions(model: nn.Module, structure: Structure, image_size: int) -> tuple[tuple[str, ...], int]:
    """Which dimensions are true, and the MACs of an image that the structure does not tell of.

    A dimension is true if its units are interchangeable (brought into another order, the same along all tensors, they
    compute the same), and if the network runs without some of them, as it is trained and as it is deployed, at the MACs
    foreseen. Tested on a copy with random weights and statistics.

    Branches that deployment fuses count as they are trained.
    """
    test = _Test(model, structure, image_size)
    return test.true_of(tuple(structure.sizes)) if test.depends_on_the_image() else (), test.other_macs


class _Test:
    @torch.no_grad()
    def __init__(self, model: nn.Module, structure: Structure, image_size: int) -> None:
        self.image = _noise((1, 3, image_size, image_size), 0)
        self.model = settled(randomize(copy.deepcopy(model).cpu().double().eval()), self.image)
        structure = structure.trained()
        self.logits = self.model(self.image)
        costs = Costs(self.model, structure, self.image)
        self.other_macs = fvcore_macs(self.model, self.image) - costs.macs(structure.sizes)
        self.structure = structure.with_other_macs(self.other_macs)
        self.fusible = self._is_deployed(self.model)

    def _is_deployed(self, model: nn.Module) -> bool:
        """Whether its deployed form computes the same; fused layers are of single precision."""
        single, image = copy.deepcopy(model).float(), self.image.float()
        return close(deployed(single)(image), single(image), DEPLOYED_CLOSE)

    @torch.no_grad()
    def depends_on_the_image(self) -> bool:
        """Whether the logits are of the image at all: else everything would seem to be true."""
        return not close(self.model(_noise(self.image.shape, 1)), self.logits, CLOSE)

    def true_of(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """All of these dimensions if they hold together, else those of each half that do."""
        if not names or self.holds(names):
            return names
        if len(names) == 1:
            return ()
        first, second = self.true_of(names[: len(names) // 2]), self.true_of(names[len(names) // 2 :])
        return first + second if not first or not second or self.holds(first + second) else first

    @torch.no_grad()
    def holds(self, names: Sequence[str]) -> bool:
        structure = self.structure.only(names)
        try:
            other = copy.deepcopy(self.model)
            orders = {name: _shuffled(size, i) for i, (name, size) in enumerate(structure.sizes.items())}
            permute(other, structure, orders)
            if not close(other(self.image), self.logits, CLOSE):
                return False
            kept = {  # halves, not all of one size
                name: order[: max(1, len(order) // 2 - i % 3)].sort().values
                for i, (name, order) in enumerate(orders.items())
            }
            smaller, pruned = cut(self.model, structure, kept)
            macs = Costs(self.model, structure, self.image).macs(pruned.sizes)
            return (
                smaller(self.image).shape == self.logits.shape
                and fvcore_macs(smaller, self.image) == macs
                and self._is_deployed(smaller) == self.fusible
            )
        except (AssertionError, AttributeError, IndexError, RuntimeError, TypeError, ValueError):
            return False


def close(found: Tensor, expected: Tensor, share: float) -> bool:
    """Whether they differ by no more than so much of the largest."""
    return found.shape == expected.shape and bool((found - expected).abs().max() <= share * expected.abs().max())


def _shuffled(size: int, seed: int) -> Tensor:
    order = torch.randperm(size, generator=_generator(seed))
    return order if bool((order != torch.arange(size)).any()) else order.flip(0)


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _noise(shape: Sequence[int], seed: int) -> Tensor:
    return torch.randn(shape, generator=_generator(seed), dtype=torch.float64)


@torch.no_grad()
def randomize(model: nn.Module) -> nn.Module:
    """Leaves no tensor at a constant, in place: fresh norms, of ones and zeros, and layer scales hide mistakes."""
    for i, (name, tensor) in enumerate(model.state_dict().items()):
        if tensor.is_floating_point() and tensor.ndim:
            tensor += 0.1 * _noise(tensor.shape, i) / max(1, tensor[0].numel()) ** 0.5
            if name.endswith("running_var"):
                tensor.abs_()
    return model


@torch.no_grad()
def settled(model: nn.Module, image: Tensor) -> nn.Module:
    """Scales variances of batch norms to what they are given, in place: a deep fresh network would lose the image.

    Args:
        model: in evaluation mode.
    """

    def settle(norm: Any, inputs: tuple[Tensor, ...]) -> None:
        if norm.running_var is not None and (variance := inputs[0].var()) > 0:
            norm.running_var.mul_(variance)

    hooks = [m.register_forward_pre_hook(settle) for m in model.modules() if isinstance(m, _BatchNorm)]
    model(image)
    for hook in hooks:
        hook.remove()
    return model
