"""Parameters and MACs of a model at any sizes of its dimensions: sums of products of sizes."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn

from search_spaces.deployed import deployed
from search_spaces.layout import Axis, Factor, Sizes
from search_spaces.structure.base import Structure

Hook = Callable[[nn.Module, tuple[Tensor], Tensor], None]
Monomials = dict[tuple[str, ...], int]  # coefficient by the dimensions multiplied


class Costs:
    """`num_params(sizes)` and `macs(sizes)` of the deployed network, exact, without building it.

    MACs are those of an image: of convolutions and linear layers, and of the matrix products of attention (also where
    `scaled_dot_product_attention` hides them).

    Args:
        example: (1, 3, height, width); how often each weight is used is counted by running it through the model.
    """

    def __init__(self, model: nn.Module, structure: Structure, example: Tensor) -> None:
        self._params: Monomials = Counter()
        self._macs: Monomials = Counter()
        uses, counts = _trace(model, structure, example)
        for name, parameter in model.named_parameters():
            if name in structure.merged:
                continue
            axes = structure.axes.get(name, ())
            rest = math.prod(parameter.shape[len(axes) :])
            for factors, coefficient in _expand(axes):
                self._params[factors] += coefficient * rest
                self._macs[factors] += coefficient * rest * uses.get(name, 0)
        self._products: Monomials = Counter()
        for matmul, count in zip(structure.matmuls, counts, strict=True):
            coefficient, factors = _monomial(matmul.factors)
            self._products[factors] += coefficient * count
            self._macs[factors] += coefficient * count

    def num_params(self, sizes: Sizes) -> int:
        return _evaluate(self._params, sizes)

    def macs(self, sizes: Sizes) -> int:
        return _evaluate(self._macs, sizes)

    def product_macs(self, sizes: Sizes) -> int:
        """Those of products of two activations alone."""
        return _evaluate(self._products, sizes)

    def cost(self, metric: Literal["params", "macs"], sizes: Sizes) -> int:
        return _evaluate(self.monomials(metric), sizes)

    def monomials(self, metric: Literal["params", "macs"]) -> Monomials:
        """The polynomial itself."""
        return self._params if metric == "params" else self._macs


def _evaluate(monomials: Monomials, sizes: Sizes) -> int:
    return sum(coefficient * math.prod(sizes[name] for name in names) for names, coefficient in monomials.items())


def _monomial(factors: tuple[Factor, ...]) -> tuple[int, tuple[str, ...]]:
    fixed = math.prod(factor for factor in factors if isinstance(factor, int))
    return fixed, tuple(sorted(factor for factor in factors if isinstance(factor, str)))


def _expand(axes: tuple[Axis, ...]) -> Iterator[tuple[tuple[str, ...], int]]:
    """The product of the axes' lengths, each a sum over segments, as monomials."""
    if not axes:
        yield (), 1
        return
    for factors, coefficient in _expand(axes[1:]):
        for segment in axes[0]:
            fixed, names = _monomial(segment)
            yield tuple(sorted((*names, *factors))), fixed * coefficient


def deployed_costs(model: nn.Module, example: Tensor, product_macs: int) -> tuple[int, int]:
    """Parameters of the network with its branches merged, and MACs for the images given.

    Args:
        product_macs: those of products of two activations, which no layer has.
    """
    shipped = deployed(model)
    return sum(p.numel() for p in shipped.parameters()), layer_macs(shipped, example) + product_macs


@torch.no_grad()
def layer_macs(model: nn.Module, example: Tensor) -> int:
    """Of its convolutions and linear layers, for the images given."""
    uses = _trace(model, Structure((), {}), example)[0]
    return sum(parameter.numel() * uses.get(name, 0) for name, parameter in model.named_parameters())


@torch.no_grad()
def _trace(model: nn.Module, structure: Structure, example: Tensor) -> tuple[Counter[str], list[int]]:
    """How many times each weight is multiplied with a position, by name, and the count of each matrix product."""
    uses: Counter[str] = Counter()
    shapes: dict[str, torch.Size] = {}
    wanted = {matmul.module for matmul in structure.matmuls}
    hooks = []
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            hooks.append(module.register_forward_hook(_count(uses, f"{name}.weight" if name else "weight")))
        if name in wanted:
            hooks.append(module.register_forward_hook(_record(shapes, name)))
    training = model.training
    model.eval()
    try:
        model(example)
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()
    return uses, [matmul.count(shapes[matmul.module]) for matmul in structure.matmuls]


def _count(uses: Counter[str], name: str) -> Hook:
    def hook(module: Any, _: tuple[Tensor], output: Tensor) -> None:
        uses[name] += output.numel() // len(module.weight)

    return hook


def _record(shapes: dict[str, torch.Size], name: str) -> Hook:
    def hook(_: nn.Module, inputs: tuple[Tensor], __: Tensor) -> None:
        shapes[name] = inputs[0].shape

    return hook
