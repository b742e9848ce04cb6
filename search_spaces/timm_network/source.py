"""A smaller network as a page of Python: timm's network, and what is taken from it."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from search_spaces.structure.families.registry import source_of_prepare
from search_spaces.structure.slicing import prune

if TYPE_CHECKING:
    from torch import nn

    from search_spaces.timm_network.network import Network


def source_of(network: Network, sizes: Mapping[str, int], removed: Sequence[str]) -> str:
    """Python source of a module whose `create_model()` is `network.cut(sizes, removed)`, and that needs only timm."""
    with torch.device("meta"):
        whole = network.whole()
    prune(smaller := copy.deepcopy(whole), network.structure, network.kept(sizes))
    before = whole.state_dict()
    shapes = {n: tuple(t.shape) for n, t in smaller.state_dict().items() if t.shape != before[n].shape}
    imports, prepare = source_of_prepare(whole) if network.description.known else ("", "")
    return _SOURCE.format(
        name=network.name,
        classes=network.num_classes,
        options="".join(f", {key}={value!r}" for key, value in network.options.items()),
        shapes=_rows(shapes),
        numbers=_rows(dict(_changed(whole, smaller))),
        deleted=[path for path in removed if path in network.moving_up],
        emptied=[path for path in removed if path not in network.moving_up],
        imports=imports or "import torch\nfrom torch import nn\n",
        prepare=f"\n{prepare}\n" if prepare else "",
        prepared="    prepare(model)\n" if prepare else "",
    )


_SOURCE = """import timm
{imports}
# Tensors that are smaller than timm's, and the attributes of their layers.
SHAPES = {{
{shapes}}}
NUMBERS = {{
{numbers}}}
# Blocks that are taken out: those behind them in their lists move up, or nothing is done in their place.
DELETED = {deleted}
EMPTIED = {emptied}

{prepare}
def create_model() -> nn.Module:
    model = timm.create_model("{name}", num_classes={classes}{options})
{prepared}    for path, shape in SHAPES.items():
        owner, _, name = path.rpartition(".")
        layer = model.get_submodule(owner)
        part = getattr(layer, name)[tuple(slice(size) for size in shape)].detach().clone()
        setattr(layer, name, nn.Parameter(part) if isinstance(getattr(layer, name), nn.Parameter) else part)
    for path, value in NUMBERS.items():
        owner, _, name = path.rpartition(".")
        setattr(model.get_submodule(owner), name, value)
    for path in reversed(DELETED):
        parent, _, name = path.rpartition(".")
        del model.get_submodule(parent)[int(name)]
    for path in EMPTIED:
        parent, _, name = path.rpartition(".")
        setattr(model.get_submodule(parent), name, nn.Identity())
    return model
"""


def _rows(values: Mapping[str, Any]) -> str:
    return "".join(f"    {name!r}: {value!r},\n" for name, value in values.items())


def _changed(whole: nn.Module, smaller: nn.Module) -> Iterator[tuple[str, Any]]:
    """Attributes of modules, by their path, that are not what they were."""
    others = dict(whole.named_modules())
    for name, module in smaller.named_modules():
        for attribute, value in vars(module).items():
            if isinstance(value, int | tuple) and value != getattr(others[name], attribute):
                yield f"{name}.{attribute}", value
