"""How much each unit of a dimension matters: Taylor expansion of the loss, size of its weights, or chance.

The members of a unit are all parameters with a place of it on one of their axes: rows, columns, biases, weights and
biases of norms. The structure tells which, so this is one code for all families.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from search_spaces import UserError
from search_spaces.layout import Axis, units
from search_spaces.structure.base import Structure
from supernet.convolutions import mend_convolutions

Criterion = Literal["taylor", "magnitude", "random"]
Scores = Mapping[str, Tensor]  # (size,) of each dimension
# Images of a batch for `taylor`. Few: near the end of a training the gradients of images cancel out within a batch, and
# with them what tells units apart (scripts/bench_pruning.py, --calibration-batch 32 beside 8).
TAYLOR_BATCH = 8


def taylor(model: nn.Module, structure: Structure, batches: Iterable[tuple[Tensor, Tensor]]) -> Scores:
    """Mean over batches of (Σ weight · gradient)² over a unit's members, of the cross-entropy.

    Molchanov et al., Importance Estimation for Neural Network Pruning, CVPR 2019, eq. 8 and Section 3.1, group
    contribution; NViT (Yang et al., CVPR 2023, eq. 3) takes the same for heads, queries and keys, values, FFN and
    embedding. The model computes as in evaluation: with the statistics of the batch itself, no scaling of the channels
    in front of a norm changes the loss, and their sums would all be zero.

    Args:
        batches: (images as the model takes them, labels).

    Raises:
        UserError: a score is not finite; there are no batches.
    """
    training, parameters = model.training, dict(model.named_parameters())
    wanted = [name for name in parameters if name in structure.axes]
    total = {d.name: torch.zeros(d.size) for d in structure.dimensions}
    count = 0
    mend_convolutions(model).eval()
    try:
        for images, labels in batches:
            with torch.enable_grad():
                loss = F.cross_entropy(model(images), labels)
            gradients = torch.autograd.grad(loss, [parameters[name] for name in wanted], allow_unused=True)
            products = {
                name: parameters[name].detach() * gradient
                for name, gradient in zip(wanted, gradients, strict=True)
                if gradient is not None
            }
            for name, sums in member_sums(structure, products).items():
                total[name] += sums.square()
            count += 1
    finally:
        model.train(training)
    if not count:
        raise UserError("none of the images that importance is taken from can be read; see the warnings")
    return _finite({name: sums / count for name, sums in total.items()})


def magnitude(model: nn.Module, structure: Structure) -> Scores:
    """L2 norm of a unit's members. UserError if one is not finite."""
    squares = {n: p.detach().square() for n, p in model.named_parameters() if n in structure.axes}
    return _finite({name: sums.sqrt() for name, sums in member_sums(structure, squares).items()})


def random(structure: Structure, seed: int) -> Scores:
    """Uniform numbers: what a criterion has to beat."""
    generator = torch.Generator().manual_seed(seed)
    return {d.name: torch.rand(d.size, generator=generator) for d in structure.dimensions}


def member_sums(structure: Structure, numbers: Mapping[str, Tensor]) -> Scores:
    """Of every unit, the sum over its members.

    Args:
        numbers: of parameters by name, in their shapes.
    """
    sizes = structure.sizes
    sums = {name: torch.zeros(size) for name, size in sizes.items()}
    for name, tensor in numbers.items():
        axes = structure.axes[name]
        table = tensor.sum(dim=tuple(range(len(axes), tensor.ndim))) if tensor.ndim > len(axes) else tensor
        table = table.float().cpu()
        for dimension in {f for layout in axes for segment in layout for f in segment if isinstance(f, str)}:
            sums[dimension] += _sums_of(table, axes, sizes, dimension)
    return sums


def _sums_of(table: Tensor, axes: tuple[Axis, ...], sizes: Mapping[str, int], dimension: str) -> Tensor:
    """Sums of one tensor; a number with the same unit on several axes counts once."""
    result = torch.zeros(sizes[dimension] + 1)  # the last for places of no unit, -1
    before: list[tuple[int, Tensor]] = []
    for i, layout in enumerate(axes):
        unit = torch.from_numpy(units(layout, sizes, dimension))
        if not bool((unit >= 0).any()):
            continue
        fresh = table
        for j, other in before:
            along = [1] * table.ndim
            along[j] = -1
            mine = [1] * table.ndim
            mine[i] = -1
            fresh = fresh * (other.reshape(along) != unit.reshape(mine))
        rest = tuple(j for j in range(table.ndim) if j != i)
        result.index_add_(0, unit % len(result), fresh.sum(dim=rest) if rest else fresh)
        before.append((i, unit))
    return result[:-1]


def _finite(scores: Scores) -> Scores:
    for name, values in scores.items():
        if not bool(values.isfinite().all()):
            raise UserError(f"the importance of {name} is not finite; give a checkpoint of a training that went well")
    return scores
