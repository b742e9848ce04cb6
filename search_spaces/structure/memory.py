"""What a module's operators hold in memory, found by running it: for blocks that do not say it themselves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten

from search_spaces.cost import Activation, in_place
from search_spaces.structure.tracing import ELEMENT_WISE, operator, words

# Element-wise operators, changes of layout and normalization run in place (`search_spaces.cost`).
_IN_PLACE = ELEMENT_WISE | words(
    "batch_norm chunk expand flatten getitem group_norm layer_norm narrow permute reshape select softmax split squeeze "
    "swapaxes transpose unbind unflatten unsqueeze view"
)


@torch.no_grad()
def record(module: nn.Module, shape: Sequence[int]) -> tuple[Activation, ...]:
    """In the order of execution, of one image's input of this shape."""
    recorder = _Recorder(x := torch.zeros(1, *shape))
    with recorder:
        module.eval()(x)
    return tuple(recorder.found)


class _Recorder(TorchFunctionMode):
    def __init__(self, x: Tensor) -> None:
        super().__init__()
        self.found: list[Activation] = []
        self._names = {id(x): "x"}
        self._alive = [x]  # a number of a tensor's that is gone would be given to another

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        made = function(*args, **(kwargs or {}))
        results = [x for x in tree_flatten(made)[0] if isinstance(x, Tensor)]
        sources = dict.fromkeys(
            self._names[id(x)]
            for x in tree_flatten((args, kwargs))[0]
            if isinstance(x, Tensor) and id(x) in self._names
        )
        if results and sources:
            self._alive += results
            self._note(operator(function), results, tuple(sources))
        return made

    def _note(self, name: str, results: list[Tensor], sources: tuple[str, ...]) -> None:
        if name in _IN_PLACE:
            self._names |= {id(result): sources[0] for result in results}
            self.found.append(in_place(*sources))
            return
        for result in results:
            own = self._names[id(result)] = str(len(self.found))
            self.found.append(Activation(own, result.numel(), sources))
