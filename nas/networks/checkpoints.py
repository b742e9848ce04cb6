"""Weights of timm's networks as people have them: in wrappers, with prefixes, or in their authors' layout.

Nothing is executed: a checkpoint that is more than tensors, numbers and texts is refused.
"""

from __future__ import annotations

import argparse
import pickle
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Set
from functools import partial
from inspect import signature
from pathlib import Path
from sys import modules
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.models import clean_state_dict, is_model, model_entrypoint
from torch import Tensor, nn

from nas.data.classes import shown
from nas.distributed import process
from nas.runs.checkpoint import Differences, differences
from search_spaces import UserError
from search_spaces.command import reason
from search_spaces.timm_network.timm_models import TIMM_ERRORS

UNREADABLE = (*TIMM_ERRORS, EOFError, KeyError, OSError, SafetensorError, pickle.UnpicklingError)
State = dict[str, Tensor]

# Under which a training saves the network's tensors; averaged ones come first.
AVERAGED = ("state_dict_ema", "model_ema", "ema_state_dict", "ema")
WRAPPERS = (*AVERAGED, "state_dict", "model_state_dict", "model", "net", "network", "weights", "checkpoint")
# What profilers (thop) and averaging (torch.optim.swa_utils) add to a network's tensors.
ADDED = re.compile(r"(.*\.)?(total_ops|total_params)|n_averaged")
# The flags in checkpoints of timm's train.py; NumPy's numbers, such as an accuracy, also by an older name.
SCALAR: Any = np.float64(0).__reduce__()[0]
DTYPES = {type(np.dtype(code)) for code in "?bhilqBHILQefd"}
HARMLESS: list[Any] = [argparse.Namespace, np.dtype, SCALAR, (SCALAR, "numpy.core.multiarray.scalar"), *DTYPES]
# Names of timm's functions that bring authors' layouts into timm's.
FILTERS = ("checkpoint_filter_fn", "_filter_fn", "_filter_torchvision_pretrained")
# Implementations that name the same tensors otherwise, by how their names begin, and networks of timm with another eps
# of batch norm or another padding than they have.
OTHERS = {
    "features.": ("torchvision", re.compile(r"tf_.*|efficientnetv2_.*|efficientnet_b[5-7]")),
    "_conv_stem.": ("efficientnet_pytorch", re.compile(r"efficientnet.*")),
}
POSITIONS = re.compile(r"pos_embed|position|attention_bias|rel_pos")  # tensors whose shape follows the image's size
SIZED = re.compile(rf"{POSITIONS.pattern}|patch_embed")


# ---- reading


def read_state(path: Path) -> State:
    """The tensors of a checkpoint, averaged ones if it has both, without what DDP and torch.compile put before names.

    Raises:
        UserError: a file that cannot be read, or not without executing it, or that has no tensors by name.
    """
    remedy = "save the network's state_dict() alone, best as .safetensors"
    try:
        found = _unwrapped(_loaded(path), path)
        tensors = _tensors(found)
    except UNREADABLE as error:
        raise UserError(f"{path} cannot be read, or not without executing it ({reason(error)}); {remedy}") from None
    if not tensors:
        held = ", ".join(map(shown, found))[:80] if isinstance(found, Mapping) else f"a {type(found).__name__}"
        raise UserError(f"{path} holds {held or 'nothing'}, no tensors by name; {remedy}")
    return tensors


def _loaded(path: Path) -> Any:
    if path.suffix == ".safetensors":
        return load_file(path)
    with torch.serialization.safe_globals(HARMLESS):
        return torch.load(path, map_location="cpu", weights_only=True)


def _unwrapped(checkpoint: Any, path: Path) -> Any:
    """What a training has saved of its network; of an averaged one that lacks tensors these are the other's."""
    if not isinstance(checkpoint, Mapping):
        return checkpoint
    wrapped = (name for name in WRAPPERS if isinstance(checkpoint.get(name), Mapping) and checkpoint[name])
    inner = {name: _unwrapped(checkpoint[name], path) for name in wrapped}
    if not inner:
        return checkpoint
    first, *others = inner
    plain = next((name for name in others if name not in AVERAGED), None)
    if first not in AVERAGED or plain is None:
        return inner[first]
    average, network = _tensors(inner[first]), _tensors(inner[plain])
    if not average:
        _tell(f"{path}: {first} holds no network, so {plain} is taken, which is not averaged")
        return network
    lacking = sorted(network.keys() - average.keys())
    if lacking and average.keys() < network.keys():
        _tell(f"{path}: {first} lacks {len(lacking)} tensors, such as {lacking[0]}, which {plain} gives")
        return {**network, **average}
    return inner[first]


def _tensors(found: Any) -> State:
    """Those that have names, less what DDP and torch.compile put before these."""
    state = clean_state_dict(dict(found)) if isinstance(found, Mapping) else {}
    return {name: value for name, value in state.items() if isinstance(value, Tensor)}


# ---- names and layouts


def fitted(network: nn.Module, name: str, state: State, path: Path, *, resize: bool = False) -> State:
    """The tensors under timm's names, as far as they can be brought there; says what was done.

    Args:
        name: timm's, of the network.
        path: where they are from, for the messages.
        resize: positions to those of another image size, as timm does: training is to follow.

    Raises:
        UserError: two networks' tensors; those of an implementation that computes something else with them.
    """
    state = without_prefix(set(network.state_dict()), state, path)
    plain = _tidy(network, state)
    if not differences(network, plain):
        return plain
    if renamed := _in_order(network, state):
        _check_alike(name, state, path)
        _tell(f"{path}: other names of the same tensors, taken in their order")
        return _tidy(network, renamed)
    converted = _tidy(network, _converted(network, name, state))
    resized = _resampled(plain, converted)
    if differences(network, converted).count >= differences(network, plain).count:
        return plain
    if not resized:
        _tell(f"{path}: brought from its authors' layout into timm's")
        return converted
    if not resize or not all(map(POSITIONS.search, resized)):
        return plain
    _tell(f"{path}: it was trained at another size; {resized[0]} and the like are resized, as timm does")
    return converted


def _in_order(network: nn.Module, state: State) -> State | None:
    """The tensors under the network's names, if another implementation names them otherwise.

    None unless no name is the network's, and kinds (weight, running_mean, …) and shapes are, one after another; a
    classifier of other classes is allowed.
    """
    own, theirs = ({n: t for n, t in found.items() if _is_weight(n)} for found in (network.state_dict(), state))
    heads = {f"{name}.{kind}" for name in classifiers(network) for kind in ("weight", "bias")}
    if len(own) != len(theirs) or own.keys() & theirs.keys():
        return None
    for (name, tensor), (other, found) in zip(own.items(), theirs.items(), strict=True):
        first = 1 if name in heads else 0
        if name.rpartition(".")[2] != other.rpartition(".")[2] or tensor.shape[first:] != found.shape[first:]:
            return None
    return dict(zip(own, theirs.values(), strict=True))


def _check_alike(name: str, state: State, path: Path) -> None:
    """UserError if timm's network is known to compute something else than the one that has these names."""
    first = next(iter(state))
    for start, (package, unlike) in OTHERS.items():
        if f".{start}" in f".{first}" and unlike.fullmatch(name.partition(".")[0]):
            raise UserError(
                f"{path} has the tensors of {package}'s network, whose eps of batch norm or padding is not that of "
                f"timm's {name}: it would compute something else; give weights of timm's"
            )


def _is_weight(name: str) -> bool:
    return not (name.endswith("num_batches_tracked") or ADDED.fullmatch(name))


def _resampled(before: State, after: State) -> list[str]:
    """What a conversion has interpolated of what follows the size of images or patches: another network."""
    sized = sorted(name for name in before.keys() & after.keys() if SIZED.search(name))
    return [name for name in sized if before[name].numel() != after[name].numel()]


def without_prefix(own: Set[str], state: State, path: Path) -> State:
    """The tensors whose names, less one prefix, are most of the network's; all of them if they are without it.

    Raises:
        UserError: two prefixes are as good, as of a student and a teacher.
    """
    counts = Counter(prefix for name in state for prefix in _prefixes(name, own))
    most = max(counts.values(), default=0)
    best = [prefix for prefix, count in counts.items() if count == most]
    if "" in best or 2 * most < len(own):
        return state
    averaged = [prefix for prefix in best if "ema" in prefix]
    if len(best) > 1 and len(averaged) != 1:
        raise UserError(f"{path} has several networks: names begin with {' and '.join(best)}; save one of them alone")
    prefix = (averaged or best)[0]
    found = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
    others = [name for name in state if not name.startswith(prefix)]
    also = f"; left out {len(others)} tensors without it, such as {others[0]}" if others else ""
    _tell(f"{path}: read without the prefix {prefix}{also}")
    return found


def _prefixes(name: str, own: Set[str]) -> Iterator[str]:
    """What stands before a name of the network's own in this one."""
    starts = [0, *(match.end() for match in re.finditer(r"\.", name))]
    return (name[:start] for start in starts if name[start:] in own)


def _tidy(network: nn.Module, state: State) -> State:
    """Without what a network computes by itself (tables of indices), and with counters that older versions lack."""
    own = network.state_dict()
    computed = {name for name, _ in network.named_buffers()} - own.keys()
    kept = {n: t for n, t in state.items() if n in own or (n not in computed and not ADDED.fullmatch(n))}
    counters = {n: t for n, t in own.items() if n not in kept and n.endswith("num_batches_tracked")}
    return {**kept, **counters} if kept else kept


def _converted(network: nn.Module, name: str, state: State) -> State:
    """By the function that timm loads its own pretrained weights with; as they are if it knows none, or it fails."""
    convert = _timm_filter(name)
    if convert is None:
        return state
    try:
        found = convert(dict(state), network) if len(signature(convert).parameters) > 1 else convert(dict(state))
    except (*TIMM_ERRORS, LookupError):  # of a layout that it does not know either
        return state
    return {n: tensor for n, tensor in found.items() if isinstance(tensor, Tensor)}


def _timm_filter(name: str) -> Callable[..., Any] | None:
    if not is_model(name):
        return None
    module = modules[model_entrypoint(name).__module__]
    found = next((getattr(module, attribute) for attribute in FILTERS if hasattr(module, attribute)), None)
    if found is not None and "adapt_layer_scale" in signature(found).parameters:
        return partial(found, adapt_layer_scale=True)  # DeiT-III's and others' gamma_1
    return found


def _tell(text: str) -> None:
    if process.is_primary():
        print(text, flush=True)


# ---- what does not fit


def check_fits(network: Any, name: str, state: State, path: Path, num_classes: int, size: int, size_flag: str) -> None:
    """
    Args:
        state: as `fitted` gives it.
        size: pixels that the network was made for, `size_flag` the flag that says so.

    Raises:
        UserError: weights of another number of classes or channels, of another size or another network, or not finite.
    """
    theirs = num_classes_of(network, state)
    if theirs is not None and theirs != num_classes:
        raise UserError(
            f"{path} has {theirs} classes, the data {num_classes}; give a checkpoint trained on these classes"
        )
    if any(".reparam_conv" in tensor for tensor in state):
        raise UserError(f"{path} is already fused for inference; give the checkpoint from before, with all branches")
    if found := differences(network, state):
        problem = _problem(network, state, found, size_flag)
        raise UserError(f"{path} does not fit {name} at {size} px: {problem}")
    check_finite(state, path)


def check_finite(state: Mapping[str, Tensor], path: Path) -> None:
    """UserError if a tensor is not."""
    if broken := next((name for name, tensor in state.items() if not tensor.isfinite().all()), None):
        raise UserError(f"{path}: {broken} is not finite; give a checkpoint of a training that went well")


def _problem(network: Any, state: State, found: Differences, size_flag: str) -> str:
    """What it is, and the remedy."""
    heads = classifiers(network)
    if not (found.extra or found.shapes) and all(name.rpartition(".")[0] in heads for name in found.missing):
        return f"it has no classifier ({found.missing[0]} is missing); give weights trained on these classes"
    own = network.state_dict()
    for name in (f"{conv}.weight" for conv in _named(network, "first_conv")):
        if name in found.shapes and state[name].ndim == own[name].ndim and state[name].shape[1] != own[name].shape[1]:
            channels = f"{state[name].shape[1]} channels, the network {own[name].shape[1]}"
            return f"it takes images of {channels}; give weights trained on RGB images"
    if not (found.missing or found.extra) and all(POSITIONS.search(name) for name in found.shapes):
        name = found.shapes[0]
        shapes = f"{tuple(state[name].shape)} instead of {tuple(own[name].shape)}"
        return f"it was trained at another size ({name} is {shapes}); give that with {size_flag}"
    return f"{found}; give that network's weights, or the size they were trained at with {size_flag}"


def num_classes_of(network: Any, state: State) -> int | None:
    """Rows of the (first) classifier in a checkpoint, if timm knows its name and it is there."""
    name = next(iter(classifiers(network)), "")
    weight = state.get(f"{name}.weight")
    return None if weight is None or weight.ndim == 0 else len(weight)


def classifiers(network: Any) -> tuple[str, ...]:
    """Paths of the layers that make logits, as far as timm names them."""
    return _named(network, "classifier")


def _named(network: Any, part: str) -> tuple[str, ...]:
    """Paths of the layers that timm's account of the network, if it has one, calls so."""
    names = (getattr(network, "pretrained_cfg", None) or {}).get(part)
    return (names,) if isinstance(names, str) else tuple(names or ())
