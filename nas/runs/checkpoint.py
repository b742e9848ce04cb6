"""Training state in one safetensors file: tensors by name, everything else as JSON in its header. No pickle."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from search_spaces import UserError
from search_spaces.command.files import atomic_path


@cache  # of the source as it was imported, or nearly so
def code_digest() -> str:
    """Of the source that training runs: another one may go on differently."""
    sha = hashlib.sha256()
    root = Path(__file__).parents[2]
    for folder in ("nas", "search_spaces", "supernet"):
        for path in sorted((root / folder).rglob("*.py")):
            sha.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes())
    return sha.hexdigest()[:16]


def save_tensors(path: Path, tensors: dict[str, Tensor], info: dict[str, Any]) -> None:
    """Atomic: the file is the old one or the new one, never half of it."""
    owned = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with atomic_path(path) as temporary:
        try:
            save_file(owned, temporary, metadata={"info": json.dumps(info)})
        except SafetensorError as error:  # wraps the operating system's error, a full disk say
            raise OSError(str(error)) from error
        umask = os.umask(0)  # safetensors gives its files to their owner alone; ours are shared like any other
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Raises UserError if the file is missing, truncated or not one of ours."""
    with _opened(path) as (file, info):
        return {name: file.get_tensor(name) for name in file.keys()}, info  # noqa: SIM118


def load_info(path: Path) -> dict[str, Any]:
    """What `save_tensors` was given beside the tensors. Raises UserError as `load_tensors` does."""
    with _opened(path) as (_, info):
        return info


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, dict[str, Any]]]:
    try:
        with safe_open(path, framework="pt") as file:
            info = json.loads((file.metadata() or {})["info"])
            if not isinstance(info, dict):
                raise ValueError("its header is no JSON object")
            yield file, info
    except FileNotFoundError:
        raise UserError(f"no checkpoint {path}") from None
    except (SafetensorError, OSError, KeyError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is truncated or no checkpoint of ours ({error}); restore it or train again") from None


def load_module(module: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    """`load_state_dict`, with the first difference named instead of all."""
    if found := differences(module, state):
        raise UserError(f"{path} is of another space or size: {found}")
    module.load_state_dict(state)


@dataclass(frozen=True)
class Differences:
    """Names of a module's tensors that a state dict lacks, that it has beside them, and that have another shape."""

    missing: tuple[str, ...]
    extra: tuple[str, ...]
    shapes: tuple[str, ...]

    @property
    def count(self) -> int:
        return len(self.missing) + len(self.extra) + len(self.shapes)

    def __bool__(self) -> bool:
        return self.count > 0

    def __str__(self) -> str:
        counts = f"{len(self.missing)} tensors missing, {len(self.extra)} unknown, {len(self.shapes)} of another shape"
        return f"{counts} (such as {min([*self.missing, *self.extra, *self.shapes])})"


def differences(module: nn.Module, state: Mapping[str, Tensor]) -> Differences:
    """False if the module can load the state."""
    own = module.state_dict()
    missing, extra = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    shapes = sorted(name for name in own.keys() & state.keys() if own[name].shape != state[name].shape)
    return Differences(tuple(missing), tuple(extra), tuple(shapes))


def optimizer_tensors(optimizer: Optimizer, model: nn.Module) -> dict[str, Tensor]:
    """The state of the model's parameters as `<parameter>.<entry>`; one that has had no gradient has none."""
    names: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
    return {f"{names[p]}.{entry}": value for p, entries in optimizer.state.items() for entry, value in entries.items()}


def load_optimizer(optimizer: Optimizer, model: nn.Module, tensors: dict[str, Tensor]) -> None:
    """
    Args:
        tensors: as `optimizer_tensors` gives them.

    Raises:
        UserError: of other parameters, or not all that the optimizer keeps of one.
    """
    parameters = dict(model.named_parameters())
    _check_entries(parameters, tensors)
    numbers = {p: i for i, p in enumerate(p for group in optimizer.param_groups for p in group["params"])}
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        name, _, entry = key.rpartition(".")
        parameter = parameters[name]
        if value.shape == parameter.shape:  # in the parameter's memory format, or foreach kernels leave their fast path
            value = torch.empty_like(parameter, device="cpu").copy_(value)
        state.setdefault(numbers[parameter], {})[entry] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _check_entries(parameters: Mapping[str, nn.Parameter], tensors: Mapping[str, Tensor]) -> None:
    """UserError unless all parameters that have entries have the same, each of the parameter's shape or one number."""
    entries: dict[str, set[str]] = {}
    for key, value in tensors.items():
        name, _, entry = key.rpartition(".")
        if name not in parameters or not (value.ndim == 0 or value.shape == parameters[name].shape):
            raise UserError(f"the checkpoint has an optimizer's {key}, of no parameter here; restore it or train again")
        entries.setdefault(name, set()).add(entry)
    every = set().union(*entries.values())
    if lacking := [f"{name}.{min(every - own)}" for name, own in entries.items() if own != every]:
        raise UserError(f"the checkpoint lacks an optimizer's {lacking[0]}; restore it or train again")
