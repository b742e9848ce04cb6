"""What a module's operators hold in memory, found by running it: for blocks that do not say it themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten

from search_spaces.cost import Activation, in_place
from search_spaces.structure.tracing import ELEMENT_WISE, operator, words

# Of element-wise operators and normalization the output takes the place of an input that nothing else needs; changes of
# layout make nothing (`search_spaces.cost`).
_IN_PLACE = ELEMENT_WISE | words("batch_norm group_norm layer_norm rms_norm softmax")
_VIEWS = words(
    "chunk expand flatten getitem narrow permute reshape reshape_as select split squeeze swapaxes transpose unbind "
    "unflatten unsqueeze view view_as"
)


@torch.no_grad()
def record(module: nn.Module, shape: Sequence[int]) -> tuple[Activation, ...]:
    """In the order of execution, of one image's input of this shape."""
    recorder = _Recorder(x := torch.zeros(1, *shape))
    with recorder:
        module.eval()(x)
    return tuple(_activations(recorder.sizes, recorder.operators))


@dataclass(frozen=True)
class _Operator:
    """
    Args:
        made, sources: buffers by number.
        in_place: whether what it makes may take a source's place.
    """

    made: tuple[int, ...]
    sources: tuple[int, ...]
    in_place: bool


class _Recorder(TorchFunctionMode):
    """
    Attributes:
        sizes: elements of each buffer; the first is the input.
    """

    def __init__(self, x: Tensor) -> None:
        super().__init__()
        self.sizes = [x.numel()]
        self.operators: list[_Operator] = []
        self._buffers = {id(x): 0}
        self._alive = [x]  # a number of a tensor's that is gone would be given to another

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        made = function(*args, **(kwargs or {}))
        results = [x for x in tree_flatten(made)[0] if isinstance(x, Tensor)]
        tensors = (x for x in tree_flatten((args, kwargs))[0] if isinstance(x, Tensor))
        sources = dict.fromkeys(self._buffers[id(x)] for x in tensors if id(x) in self._buffers)
        if results and sources:
            self._alive += results
            self._note(operator(function), results, tuple(sources))
        return made

    def _note(self, name: str, results: list[Tensor], sources: tuple[int, ...]) -> None:
        if name in _VIEWS:
            self._buffers |= {id(result): sources[0] for result in results}
            return
        new = [result for result in results if id(result) not in self._buffers]
        for result in new:
            self._buffers[id(result)] = len(self.sizes)
            self.sizes.append(result.numel())
        made = tuple(self._buffers[id(result)] for result in new)
        self.operators.append(_Operator(made, sources, name in _IN_PLACE))


def _activations(sizes: Sequence[int], operators: Sequence[_Operator]) -> Iterator[Activation]:
    last_use = {source: i for i, one in enumerate(operators) for source in one.sources}
    names = {0: "x"}
    for i, one in enumerate(operators):
        made = [sizes[buffer] for buffer in one.made]
        free = [s for s in one.sources if one.in_place and last_use[s] == i and sizes[s] in made]
        if not one.made or free:
            first = free[:1] or one.sources[:1]
            names |= dict.fromkeys(one.made, names[first[0]])
            yield in_place(*dict.fromkeys(names[source] for source in (*first, *one.sources)))
            continue
        for buffer in one.made:
            names[buffer] = str(buffer)
            yield Activation(names[buffer], sizes[buffer], tuple(dict.fromkeys(names[s] for s in one.sources)))
