"""A network as the chain of its blocks: modules that, run one after another, compute what it does.

It is followed symbolically (torch.fx) at the level of its blocks: wherever one tensor alone is alive, it can be cut.
What lies before the first block becomes the stem, what follows the last one the head; both may hold operators that are
no modules, as a class token's. Functions and conditions inside blocks do not matter: a block that can be followed is
cut into parts where each has the shapes of the block's input, as attention and FFN, others stay whole.
"""

from __future__ import annotations

import hashlib
import inspect
import operator
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from torch.fx import Graph, GraphModule, Node, Tracer

from search_spaces.command import reason
from search_spaces.deployed import MERGING

STEM, HEAD = "stem", "head"
# Of a block that takes several tensors, or a list of them.
_FORWARD_ERRORS = (AssertionError, AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError)
_PLACES = nn.Sequential | nn.ModuleList


@dataclass(frozen=True)
class Link:
    """
    Args:
        name: the block's path in the network, and of a part of it the path of its greatest module; `STEM` and `HEAD`
            for what lies around the blocks, `….after` for what follows a block and belongs to none.
        prefix: of its tensors' names in the network, without which `module` has them: the block's path, or none.
        kind: the class of the block or of the part's greatest module.
    """

    name: str
    prefix: str
    module: nn.Module
    kind: str


@torch.no_grad()
def chain(model: nn.Module, image: torch.Tensor) -> list[Link]:
    """The blocks and their parts in the order of execution, sharing the model's tensors.

    Args:
        model: in evaluation mode; links follow `train` and `eval` as it does.
        image: (1, 3, height, width), of the size that the model is for.

    Raises:
        ValueError: it is no chain of two blocks or more and a head, or its forward pass cannot be followed; says why.
    """
    opened = {""}
    segments = _segments(model, opened)
    while (more := _opened_further(model, opened, segments)) != opened:
        opened, segments = more, _segments(model, more)
    blocks = _blocks(model, segments)
    if len(blocks) < 2 or segments[blocks[-1]] is segments[-1]:
        raise ValueError(f"{type(model).__name__} is no chain of blocks")
    first, last = blocks[0], blocks[-1]
    links = [_glue(model, STEM, segments[:first])] if first else []
    at = first
    while at <= last:
        name = _only_module(model, segments[at])
        if name and _is_layered(model.get_submodule(name)):
            links.append(_block(model, segments[at]))
            at += 1
            continue
        end = next(
            i for i in range(at + 1, last + 1) if (n := _only_module(model, segments[i])) and _is_block(model, n)
        )
        if not all(_is_nothing(model, nodes) for nodes in segments[at:end]):
            links.append(_glue(model, f"{links[-1].name}.after" if links else STEM, segments[at:end]))
        at = end
    links.append(_head(model, segments[last + 1 :]))
    try:
        inputs = (image, *run(links, image))
        return [part for link, x in zip(links, inputs, strict=False) for part in _parts(link, x)]
    except _FORWARD_ERRORS as error:
        raise ValueError(f"{type(model).__name__} is no chain of blocks: {reason(error)}") from None


class _Blocks(Tracer):
    """Follows only the modules that are named."""

    def __init__(self, opened: set[str]) -> None:
        super().__init__()
        self._opened = opened

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return module_qualified_name not in self._opened


def _segments(model: nn.Module, opened: set[str], given: Collection[str] = ()) -> list[list[Node]]:
    """The operators between two places where one tensor alone is alive, but for those that follow from no image.

    Args:
        given: arguments that are tensors, beside the image; others have their defaults.
    """
    parameters = list(inspect.signature(model.forward).parameters.values())[1:]
    defaults = {p.name: p.default for p in parameters if p.name not in given and p.default is not p.empty}
    try:
        graph = _Blocks(opened).trace(model, concrete_args=defaults)
    except Exception as error:  # whatever its forward pass does with what is no tensor
        raise ValueError(f"the forward pass of {type(model).__name__} cannot be followed: {error}") from None
    for node in [node for node in graph.nodes if node.target is torch._assert]:  # that what is given is given
        graph.erase_node(node)
    graph.eliminate_dead_code(lambda node: node.op in ("placeholder", "output"))
    nodes = list(graph.nodes)
    last_use = {used: i for i, node in enumerate(nodes) for used in node.all_input_nodes}
    image = next(node for node in nodes if node.op == "placeholder")
    alive: set[Node] = set()
    found: list[list[Node]] = [[]]
    for i, node in enumerate(nodes):
        if node.op in ("placeholder", "output") and node is not image:
            continue
        if node is not image:
            found[-1].append(node)
        if node is image or node.all_input_nodes:
            alive.add(node)
        alive = {other for other in alive if last_use.get(other, -1) > i}
        if alive == {node} and found[-1]:
            found.append([])
    return [nodes for nodes in found if nodes]


def _is_nothing(model: nn.Module, nodes: Sequence[Node]) -> bool:
    """Whether the segment computes nothing: a place where other networks of the class have a module."""
    name = _only_module(model, nodes)
    return name is not None and type(model.get_submodule(name)) is nn.Identity


def _opened_further(model: nn.Module, opened: set[str], segments: list[list[Node]]) -> set[str]:
    """With those modules in the chain that are chains of blocks themselves."""
    for nodes in segments:
        name = _only_module(model, nodes)
        if name is None or not _holds_blocks(model.get_submodule(name)):
            continue
        more = opened | {name} | {f"{name}.{n}" for n, m in model.get_submodule(name).named_children() if _is_list(m)}
        try:
            finer = _segments(model, more)
        except ValueError:
            continue
        if len(finer) > len(segments) and len(_blocks(model, finer)) >= len(_blocks(model, segments)):
            opened, segments = more, finer
    return opened


def _only_module(model: nn.Module, nodes: Sequence[Node]) -> str | None:
    """The path of the module that the segment consists of, beside tensors of the network that it takes and that are no
    weights: such would be those of several blocks."""
    *given, last = nodes
    if last.op != "call_module" or any(node.op != "get_attr" for node in given):
        return None
    weighty = given and not model.state_dict().keys().isdisjoint(str(node.target) for node in given)
    return None if weighty else str(last.target)


def _blocks(model: nn.Module, segments: Sequence[Sequence[Node]]) -> list[int]:
    """Places of those segments that are a block each."""
    return [i for i, nodes in enumerate(segments) if (name := _only_module(model, nodes)) and _is_block(model, name)]


def _block(model: nn.Module, nodes: Sequence[Node]) -> Link:
    """The block that the segment consists of; what the network gives it beside the image lies in it, as positions."""
    call = nodes[-1]
    name, block = str(call.target), model.get_submodule(str(call.target))
    kind = type(block).__name__
    arguments = inspect.signature(block.forward).bind(*call.args, **call.kwargs).arguments
    given = {n: operator.attrgetter(str(a.target))(model) for n, a in arguments.items() if a in nodes}
    if given:
        block = _graph(block, [node for nodes in _segments(block, {""}, given) for node in nodes], given)
    return Link(name, name, block, kind)


def _parts(link: Link, x: torch.Tensor) -> list[Link]:
    """The block itself, or parts of two layers or more, all but the last with outputs of the shape of its input `x`."""
    block = link.module
    if not link.prefix or _num_layers(block) < 4:
        return [link]
    if any(hasattr(block, method) for method in MERGING) or block._non_persistent_buffers_set:
        return [link]  # its parts would not be merged in deployment, nor could they make their buffers
    try:
        segments = _segments(block, {""})
    except ValueError:
        return [link]
    found: list[list[Node]] = [[]]
    shape = x.shape
    for nodes in segments:
        found[-1] += nodes
        x = _graph(block, nodes)(x)
        if (
            isinstance(x, torch.Tensor)
            and x.shape == shape
            and sum(layers for _, layers in _called(block, found[-1])) > 1
        ):
            found.append([])
    rest = found.pop()
    if sum(layers for _, layers in _called(block, rest)) > 1:
        found.append(rest)
    elif found:
        found[-1] += rest
    return [_part(link, nodes) for nodes in found] if len(found) > 1 else [link]


def _part(link: Link, nodes: Sequence[Node]) -> Link:
    name, _ = max(_called(link.module, nodes), key=lambda called: called[1])
    kind = type(link.module.get_submodule(name)).__name__
    return Link(f"{link.name}.{name}", link.prefix, _graph(link.module, nodes), kind)


def _called(module: nn.Module, nodes: Sequence[Node]) -> list[tuple[str, int]]:
    """The modules that these operators are: paths and numbers of layers."""
    names = [str(node.target) for node in nodes if node.op == "call_module"]
    return [(name, _num_layers(module.get_submodule(name))) for name in names]


def _num_layers(module: nn.Module) -> int:
    return sum(isinstance(layer, nn.Conv2d | nn.Linear) for layer in module.modules())


def _is_layered(module: nn.Module) -> bool:
    return _num_layers(module) > 0


def _is_composite(module: nn.Module) -> bool:
    return _num_layers(module) > 1


def _is_list(module: nn.Module) -> bool:
    return isinstance(module, _PLACES) and any(map(_is_composite, module.children()))


def _holds_blocks(module: nn.Module) -> bool:
    """Whether it has a list of blocks, or nothing but blocks of one kind."""
    if _is_list(module) or any(map(_is_list, module.children())):
        return True
    layered = [child for child in module.children() if _is_layered(child)]
    return len(layered) > 1 and len(set(map(type, layered))) == 1 and all(map(_is_composite, layered))


def _is_block(model: nn.Module, name: str) -> bool:
    """Whether it lies deeper than the network's own layers, or could do so."""
    module = model.get_submodule(name)
    return _is_composite(module) and ("." in name or len(list(module.children())) == 1 or _is_list(module))


def _glue(model: nn.Module, name: str, segments: Sequence[Sequence[Node]]) -> Link:
    """What lies between blocks."""
    return Link(name, "", _graph(model, [node for nodes in segments for node in nodes]), name.rpartition(".")[2])


def _head(model: nn.Module, segments: Sequence[Sequence[Node]]) -> Link:
    """What follows the last block; of two classifiers, which return the logits of each in distilled training, too."""
    link = _glue(model, HEAD, segments)
    if hasattr(model, "set_distilled_training"):
        _return_both(link.module)
    return link


def _return_both(head: nn.Module) -> None:
    """The mean of two tensors, if the graph ends with that, becomes a module that may return both, in place."""
    assert isinstance(head, GraphModule)
    mean = next(node.all_input_nodes[0] for node in head.graph.nodes if node.op == "output")
    if mean.target is not operator.truediv:
        return
    both = mean.all_input_nodes[0]
    head.add_submodule("two_classifiers", _TwoClassifiers().train(head.training))
    with head.graph.inserting_before(mean):
        mean.replace_all_uses_with(head.graph.call_module("two_classifiers", both.args))
    head.graph.erase_node(mean)
    head.graph.erase_node(both)
    head.recompile()


class _TwoClassifiers(nn.Module):
    """The mean of their logits; the logits of each in distilled training, as timm's networks have it."""

    distilled_training = False  # set by the supernet

    def forward(self, x: torch.Tensor, distilled: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        return (x, distilled) if self.distilled_training and self.training else (x + distilled) / 2


def _graph(model: nn.Module, nodes: Sequence[Node], given: Mapping[str, torch.Tensor] | None = None) -> GraphModule:
    """Operators as a module whose tensors are named as in the model.

    Args:
        given: arguments of the model, beside the image.
    """
    given = given or {}
    graph = Graph()
    inside = dict.fromkeys(nodes)
    outer = dict.fromkeys(used for node in nodes for used in node.all_input_nodes if used not in inside)
    assert sum(node.target not in given for node in outer) == 1, outer
    copies = {node: graph.placeholder(str(node.target) if node.target in given else "x") for node in outer}
    for node in nodes:
        copies[node] = graph.node_copy(node, lambda used: copies[used])
    graph.output(copies[nodes[-1]])
    return _with_dropout(_with_given(GraphModule(model, graph), given))


def _with_given(module: GraphModule, given: Mapping[str, torch.Tensor]) -> GraphModule:
    """These arguments become modules, in place."""
    graph = module.graph
    for node in [node for node in graph.nodes if node.op == "placeholder" and node.target in given]:
        module.add_submodule(node.target, _Given(given[node.target]))
        for user in list(node.users):
            with graph.inserting_before(user):
                user.replace_input_with(node, graph.call_module(node.target))
        graph.erase_node(node)
    if given:
        module.recompile()
    return module


class _Given(nn.Module):
    """A tensor that a network makes of its options, not of weights, and gives to several blocks."""

    value: torch.Tensor

    def __init__(self, value: torch.Tensor) -> None:
        super().__init__()
        self._kept = value.detach().cpu().numpy()
        self.digest = hashlib.sha256(self._kept.tobytes()).hexdigest()[:10]  # blocks with different ones differ
        self.register_buffer("value", value, persistent=False)

    def init_non_persistent_buffers(self) -> None:
        self.value.copy_(torch.from_numpy(self._kept))

    def forward(self) -> torch.Tensor:
        return self.value


def _with_dropout(module: GraphModule) -> GraphModule:
    """Dropout that is a function becomes a module, in place: followed in evaluation, the function would drop nothing in
    training either."""
    graph = module.graph
    functions = [node for node in graph.nodes if node.target is F.dropout and not node.kwargs["training"]]
    for i, node in enumerate(functions):
        name = f"dropout_function_{i}"
        module.add_submodule(name, nn.Dropout(node.kwargs["p"]).train(module.training))
        with graph.inserting_before(node):
            node.replace_all_uses_with(graph.call_module(name, node.args))
        graph.erase_node(node)
    if functions:
        module.recompile()
    return module


@torch.no_grad()
def run(links: Sequence[Link], x: torch.Tensor) -> Iterator[torch.Tensor]:
    """What each block makes of the one before. TypeError if that is no tensor."""
    for link in links:
        x = link.module(x)
        if not isinstance(x, torch.Tensor):
            raise TypeError(f"{link.name} makes a {type(x).__name__}, no tensor")
        yield x
