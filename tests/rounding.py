"""How far results may lie apart where the same sums are added in another order, by dtype and size: on any CPU.

Which order a kernel adds in depends on the CPU's instructions, the number of threads, the batch and the memory format.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

SPREAD = 4.0  # standard deviations; rounding errors of many additions are nearly normal


def rounding(model: nn.Module, dtype: torch.dtype = torch.float32) -> float:
    """Of a network's outputs, as a share of the largest: errors of n additions grow as √n.

    n are the terms on the way to an output: of each layer, as many as go into one of its numbers. See Higham and Mary,
    A New Approach to Probabilistic Rounding Error Analysis, 2019.
    """
    terms = sum(parameter[0].numel() for parameter in model.parameters() if parameter.ndim > 1)
    return SPREAD * torch.finfo(dtype).eps * max(1, terms) ** 0.5


def assert_equal_but_for_rounding(found: Tensor, expected: Tensor, model: nn.Module) -> None:
    """Outputs of one network, computed in two ways."""
    scale = max(1.0, float(expected.detach().abs().max()))
    torch.testing.assert_close(found, expected, rtol=0, atol=scale * rounding(model, expected.dtype))
