"""MACs of any model, counted by fvcore on its trace: a second opinion on what we compute from shapes."""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


@torch.no_grad()  # with gradients, convolutions that are trained another way are no convolutions on its trace
def fvcore_macs(model: nn.Module, x: Tensor) -> int:
    """Of convolutions, linear layers and matrix products.

    Also those of fused attention and of convolutions whose padding is "same", which fvcore leaves out.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # it scripts a loss when it is imported
        from fvcore.nn import FlopCountAnalysis
        from fvcore.nn.jit_handles import conv_flop_count, get_shape

    def fused_attention(inputs: Sequence[Any], _: Sequence[Any]) -> Counter[str]:
        (*batch, queries, key), (*_, keys, _), (*_, value) = (get_shape(tensor) for tensor in inputs[:3])
        return Counter({"attention": math.prod(batch) * queries * keys * (key + value)})

    def padded_alike(inputs: Sequence[Any], outputs: Sequence[Any]) -> Counter[str]:
        x, weight, out = map(get_shape, (*inputs[:2], outputs[0]))
        return Counter({"conv": conv_flop_count(x, weight, out)})

    analysis = FlopCountAnalysis(model, x).unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    analysis.set_op_handle("aten::scaled_dot_product_attention", fused_attention)
    analysis.set_op_handle("aten::_convolution_mode", padded_alike)
    counts = analysis.by_operator()
    return sum(counts[operator] for operator in ("conv", "linear", "matmul", "attention"))
