"""What can be searched: choices, architectures, and the one lowering from an architecture to its blocks.

A space is data: a tuple of `Choice` (what may vary) and a tuple of `Slot` (what each choice builds). A slot
depends on a few choices only, so one slot table serves a single network (`lower`), the list of every block that
can occur (`all_blocks`, the rows of a latency table), and vectorized costs of many networks at once
(`CostTable`). Nothing else in the project knows a network's geometry.
"""

from __future__ import annotations

import json
import math
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from search_spaces.block import BlockSpec, Slot
from search_spaces.command import UserError
from search_spaces.command.files import read_json

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Choice:
    """One thing that varies: `field[index]`, with its options from the smallest network's to the largest's.

    Numbers mostly rise. They fall where more of something makes a network smaller, as the side of patches.
    """

    field: str
    index: tuple[int, ...]
    options: tuple[int, ...]

    def __post_init__(self) -> None:
        rising = sorted(set(self.options))
        assert self.options and list(self.options) in (rising, rising[::-1]), self

    @property
    def name(self) -> str:
        return ".".join((self.field, *map(str, self.index)))


@dataclass(frozen=True)
class Arch:
    """One network of a space: a value for each of the space's choices, in their order and canonical form.

    Make one with `SearchSpace.arch`, `sample`, `load_arch` or `from_json`; they validate, this does not.
    """

    space: str
    values: tuple[int, ...]


@dataclass(frozen=True)
class Action:
    """One step of joint slimming: `choice` goes to its next smaller option."""

    choice: str
    before: int
    after: int
    arch: Arch

    @property
    def field(self) -> str:
        """That of the choice, as in `width`."""
        return self.choice.partition(".")[0]


class SearchSpace(ABC):
    """A family of networks for one input size and number of classes.

    A family declares `choices`, `slots`, `published` and the rules that generic code cannot know (`canonical`,
    `sample`, `size`, `build`); everything else follows.

    `mean` and `std` are what its networks want taken off images of 0 to 1, and these divided by: R, G, B.

    `recipe` is the one of `nas.training.recipe` by which its networks are trained where no other is asked for,
    `finetune` the one where they start from weights, `any_size` whether they also run on other images than of
    `image_size`, as networks of convolutions alone do. `remarks` are lines for who looks at the
    space.
    """

    name: str
    choices: tuple[Choice, ...]
    slots: tuple[Slot, ...]
    image_size: int
    num_classes: int
    in_chans: int = 3
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    recipe: Literal["adamw", "adamw-basic", "adamw-half", "progressive"] = "adamw"
    finetune: Literal["finetune", "finetune-gently"] = "finetune"
    any_size: bool = False
    remarks: tuple[str, ...] = ()

    # ---- what a family adds

    @abstractmethod
    def canonical(self, values: Sequence[int]) -> tuple[int, ...]:
        """The one form of all values that lower to the same blocks in the same slots.

        Raises:
            ValueError: none do; with a remedy.
        """

    @abstractmethod
    def sample(self, rng: random.Random) -> Arch:
        """A random arch, every size of network likely."""

    @abstractmethod
    def size(self) -> int:
        """The number of different archs."""

    @abstractmethod
    def build(self, arch: Arch, drop_path_rate: float = 0.0) -> nn.Module:
        """A stand-alone, freshly initialized model: (batch, channels, height, width) to (batch, classes) logits."""

    @abstractmethod
    def source(self, arch: Arch) -> str:
        """Python source of a module whose `create_model()` is `build(arch)` and that needs nothing of ours."""

    def prefixes(self, arch: Arch) -> tuple[str, ...]:
        """For each block of `lower(arch)`: the prefix of its weights in `build(arch)`."""
        names = self.module_names(arch)
        return tuple(names[block.name] for block in self.lower(arch))

    def module_names(self, arch: Arch) -> dict[str, str]:
        """`prefixes` by the names of blocks, where those of one name lie in one module."""
        raise NotImplementedError(f"{self.name} has prefixes alone")

    @property
    @abstractmethod
    def published(self) -> Mapping[str, Arch]:
        """The named archs of the paper, by lower-case name."""

    # ---- archs

    @cached_property
    def largest(self) -> Arch:
        return Arch(self.name, self.canonical([c.options[-1] for c in self.choices]))

    @property
    def smallest(self) -> Arch:
        """The arch of the fewest blocks and smallest values: no action is left."""
        return Arch(self.name, self.canonical([choice.options[0] for choice in self.choices]))

    @property
    def named(self) -> dict[str, Arch]:
        return {"smallest": self.smallest, **self.published, "largest": self.largest}

    def arch(self, /, **fields: Any) -> Arch:
        """The arch with these nested values, e.g. `width=[32, 48, 96, 176]`.

        Raises:
            UserError: a field is missing, unknown, of the wrong shape, or a value is not among its options.
        """
        known = list(dict.fromkeys(c.field for c in self.choices))
        if missing := [f for f in known if f not in fields]:
            raise UserError(f"arch has no field {', '.join(missing)}; {self.name} needs {', '.join(known)}")
        if extra := [f for f in fields if f not in known]:
            raise UserError(f"arch has an unknown field {', '.join(extra)}; {self.name} knows {', '.join(known)}")
        for field in known:
            check_shape(field, fields[field], _nest(c.index for c in self.choices if c.field == field))
        values = []
        for choice in self.choices:
            value = fields[choice.field]
            for i in choice.index:
                value = value[i]
            if isinstance(value, bool):
                value = int(value)
            if value not in choice.options:
                raise UserError(f"arch: {choice.name} is {value!r}; choose from {', '.join(map(str, choice.options))}")
            values.append(int(value))
        try:
            return Arch(self.name, self.canonical(values))
        except ValueError as error:
            raise UserError(f"arch: {error}") from None

    def to_json(self, arch: Arch) -> dict[str, Any]:
        """Nested lists by field, such as `arch(**fields)` takes, and the space's name."""
        fields: dict[str, Any] = {"space": self.name}
        for choice, value in zip(self.choices, arch.values, strict=True):
            where = fields.setdefault(choice.field, [])
            for i in choice.index[:-1]:
                where.extend([] for _ in range(i + 1 - len(where)))
                where = where[i]
            assert len(where) == choice.index[-1], choice
            where.append(value)
        return fields

    def from_json(self, data: Any) -> Arch:
        """The inverse of `to_json`; UserError on anything else."""
        if not isinstance(data, dict):
            raise UserError(f"arch must be a JSON object with a field per choice, not {type(data).__name__}")
        if (space := data.get("space", self.name)) != self.name:
            raise UserError(f"arch is of space {space!r}, not {self.name!r}; name the right one with --space")
        return self.arch(**{k: v for k, v in data.items() if k != "space"})

    def load_arch(self, name_or_path: str) -> Arch:
        """A named arch, or one read from a JSON file."""
        if name_or_path.lower() in self.named:
            return self.named[name_or_path.lower()]
        try:
            data = read_json(Path(name_or_path))
        except UserError as error:
            raise UserError(f"{error}; give a JSON file or one of {', '.join(self.named)}") from None
        return self.from_json(data)

    def slim(self, arch: Arch) -> tuple[Action, ...]:
        """The frontier: every choice taken to its next smaller option, where that deploys another network."""
        actions = []
        for i, (choice, value) in enumerate(zip(self.choices, arch.values, strict=True)):
            position = choice.options.index(value)
            if position == 0:
                continue
            after = choice.options[position - 1]
            try:
                values = self.canonical([*arch.values[:i], after, *arch.values[i + 1 :]])
            except ValueError:
                continue
            if self._deploy_differently(arch.values, values):
                actions.append(Action(choice.name, value, after, Arch(self.name, values)))
        return tuple(actions)

    def _deploy_differently(self, *values: Sequence[int]) -> bool:
        """Whether two networks' values differ in more than what only training has."""
        for slot in self.slots:
            one, other = (tuple(all_values[i] for i in slot.choices) for all_values in values)
            if one != other and _key(slot.block(*one)) != _key(slot.block(*other)):
                return True
        return False

    # ---- geometry

    def lower(self, arch: Arch) -> tuple[BlockSpec, ...]:
        """The network's blocks in the order of execution."""
        blocks = (slot.block(*(arch.values[i] for i in slot.choices)) for slot in self.slots)
        return tuple(block for block in blocks if block is not None)

    def all_blocks(self) -> dict[str, BlockSpec]:
        """Every block that any arch of the space can hold, one for each key."""
        return {block.key: block for slot in self.slots for block in self.slot_blocks(slot)}

    def slot_blocks(self, slot: Slot) -> Iterator[BlockSpec]:
        """Every block that the slot can hold."""
        return (block for block in self._options(slot) if block is not None)

    def _options(self, slot: Slot) -> Iterator[BlockSpec | None]:
        yield from (slot.block(*values) for values in product(*(self.choices[i].options for i in slot.choices)))

    def encode(self, archs: Sequence[Arch]) -> np.ndarray:
        """(len(archs), len(choices)) positions of each value among its options, as int64."""
        positions = [{v: i for i, v in enumerate(c.options)} for c in self.choices]
        rows = [[p[v] for p, v in zip(positions, arch.values, strict=True)] for arch in archs]
        return np.array(rows, dtype=np.int64).reshape(len(archs), len(self.choices))

    def decode(self, positions: Sequence[int]) -> Arch | None:
        """The arch of (choices,) positions, the inverse of `encode`; None if they build no network."""
        values = [choice.options[p] for choice, p in zip(self.choices, positions, strict=True)]
        try:
            return Arch(self.name, self.canonical(values))
        except ValueError:
            return None


class CostTable:
    """A cost of blocks, summed over `lower(arch)` or combined in another way, for many archs at once.

    Args:
        cost: the cost of one block in any unit, from 0 on; called once for each option of each slot.
        combine: `np.add`, or `np.maximum` for what blocks need one after another.
    """

    def __init__(self, space: SearchSpace, cost: Callable[[BlockSpec], float], combine: np.ufunc = np.add) -> None:
        self._combine = combine
        self._slots = []
        for slot in space.slots:
            options = tuple(len(space.choices[i].options) for i in slot.choices)
            flat = [0.0 if block is None else cost(block) for block in space._options(slot)]
            strides = [math.prod(options[k + 1 :]) for k in range(len(options))]
            self._slots.append((np.array(slot.choices), np.array(strides), np.array(flat, dtype=np.float64)))

    def __call__(self, encoded: np.ndarray) -> np.ndarray:
        """(archs,) costs of (archs, choices) positions from `SearchSpace.encode`."""
        total = np.zeros(len(encoded))
        columns = np.ascontiguousarray(encoded.T)
        for choices, strides, flat in self._slots:
            where = columns[choices[0]] * strides[0]
            for choice, stride in zip(choices[1:], strides[1:], strict=True):
                where = where + columns[choice] * stride
            self._combine(total, flat[where], out=total)
        return total


def num_params(space: SearchSpace, arch: Arch) -> int:
    """Parameters of the network, classifier heads included."""
    return sum(block.num_params for block in space.lower(arch))


def macs(space: SearchSpace, arch: Arch) -> int:
    """Multiply-accumulates of convolutions, linear layers and matrix products for one image."""
    return sum(block.macs for block in space.lower(arch))


def peak_activations(space: SearchSpace, arch: Arch) -> int:
    """Most activations of one image that the network holds at once: blocks run one after another."""
    return max(block.peak_activations for block in space.lower(arch))


def arch_label(space: SearchSpace, arch: Arch) -> str:
    """The arch's name if it has one, else its JSON on one line."""
    names = {a: n for n, a in space.named.items()}
    return names.get(arch) or json.dumps(space.to_json(arch), separators=(",", ":"))


def check_images(name: str, image_size: int, num_classes: int, multiple: int) -> None:
    """UserError unless the space of that name can be made for such images: `multiple` is the stride of its networks."""
    if image_size % multiple or not multiple <= image_size <= 1024:
        raise UserError(
            f"image size {image_size} does not fit {name}: give a multiple of {multiple} from {multiple} to 1024"
        )
    if not 2 <= num_classes <= 1_000_000:
        raise UserError(f"{num_classes} classes: give a number from 2 to 1000000")


def _key(block: BlockSpec | None) -> str | None:
    return None if block is None else block.key


def _nest(indices: Iterator[tuple[int, ...]]) -> dict[int, Any]:
    """The shape of a nested list as nested dicts: {0: {0: {}, 1: {}}, …}."""
    tree: dict[int, Any] = {}
    for index in indices:
        where = tree
        for i in index:
            where = where.setdefault(i, {})
    return tree


def check_shape(name: str, value: Any, tree: dict[int, Any]) -> None:
    """UserError unless `value` is a nested list of the tree's shape (places without choices are empty lists)."""
    if not tree:
        if not isinstance(value, int):
            raise UserError(f"arch: {name} is {value!r}; give an integer")
        return
    length = max(tree) + 1
    if not isinstance(value, list | tuple) or len(value) != length:
        raise UserError(f"arch: {name} is {value!r}; give a list of {length}")
    for i, item in enumerate(value):
        if i in tree:
            check_shape(f"{name}.{i}", item, tree[i])
        elif item != []:
            raise UserError(f"arch: {name}.{i} is {item!r}; give [] there")
