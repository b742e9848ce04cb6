"""Peak activation memory of a module as it runs: every operator that PyTorch executes is traced."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# Besides what PyTorch itself tags as pointwise: activations it forgot, norms and softmax, changes of layout.
IN_PLACE = {"hardswish", "prelu", "batch_norm", "group_norm", "layer_norm", "softmax", "reshape"}


class _Trace(TorchDispatchMode):
    """Operators as (inputs, output, whether it may be in place); tensors by number, views by that of what they view.

    Constants, which are made of weights alone, have no number.
    """

    def __init__(self, x: Tensor) -> None:
        super().__init__()
        self.tensors = [x]  # kept, so that no storage is used twice
        self.numbers = {x.untyped_storage()._cdata: 0}
        self.operators: list[tuple[list[int], int, bool]] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = function(*args, **(kwargs or {}))
        tensors = [a for a in tree_leaves((args, kwargs)) if isinstance(a, Tensor)]
        found = [self.numbers.get(t.untyped_storage()._cdata) for t in tensors]
        inputs = list(dict.fromkeys(number for number in found if number is not None))
        made = tree_leaves(output)[0]
        if inputs and self.numbers.get(made.untyped_storage()._cdata) is None:
            in_place = torch.Tag.pointwise in function.tags or function.overloadpacket.__name__ in IN_PLACE
            self.numbers[made.untyped_storage()._cdata] = len(self.tensors)
            self.operators.append((inputs, len(self.tensors), in_place))
            self.tensors.append(made)
        return output


@torch.inference_mode()
def traced_peak(module: nn.Module, x: Tensor, keeps_input: bool = False) -> int:
    """Most elements held at once, each tensor until its last use; element-wise operators take an input's place.

    Args:
        keeps_input: the input is needed afterwards, too.
    """
    module(x)  # timm fills a cache
    with _Trace(x) as trace:
        module(x)
    return _peak([t.numel() for t in trace.tensors], trace.operators, keeps_input)


def _peak(sizes: Sequence[int], operators: Sequence[tuple[list[int], int, bool]], keeps_input: bool) -> int:
    last = {number: i for i, (inputs, _, _) in enumerate(operators) for number in inputs}
    if keeps_input:
        last[0] = len(operators)
    held, peak = {0}, sizes[0]
    for i, (inputs, made, in_place) in enumerate(operators):
        dying = {number for number in inputs if last[number] == i}
        reused = in_place and any(sizes[number] == sizes[made] for number in dying)
        peak = max(peak, sum(sizes[number] for number in held) + (0 if reused else sizes[made]))
        held = (held - dying) | {made}
    return peak
