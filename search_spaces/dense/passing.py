"""Maps that a head takes on the way: what it makes of them passes by the blocks that follow, to its last part."""

from __future__ import annotations

from typing import Any, NamedTuple

from timm.layers import drop_path
from torch import Tensor, nn


class Passed(NamedTuple):
    """What a block takes and gives, and what parts of the head have made by then."""

    x: Any
    found: tuple[Tensor, ...]


def unpacked(state: Any) -> tuple[Any, tuple[Tensor, ...]]:
    """A block's input, and what passes it by: nothing where the block runs on its own."""
    return (state.x, state.found) if isinstance(state, Passed) else (state, ())


def let_pass(module: nn.Module) -> nn.Module:
    """In place: a module that runs on its input and lets the rest pass. Its tensors keep their names."""
    kind: Any = type(module)

    class Passing(kind):  # type: ignore[misc]
        def forward(self, state: Any) -> Any:
            x, found = unpacked(state)
            y = super().forward(x)
            return Passed(y, found) if found else y

    class Dropping(Passing):
        """Also drops what it adds to its input, which none can do for it that does not know the input."""

        drop_prob = 0.0

        def forward(self, state: Any) -> Any:
            x, found = unpacked(state)
            y = super().forward(x)
            if self.training and self.drop_prob:
                y = x + drop_path(y - x, self.drop_prob, training=True)
            return Passed(y, found) if found else y

    module.__class__ = Passing if hasattr(kind, "drop_prob") else Dropping
    return module
