"""A pruned network as a folder: `pruned.json`, what it was cut from and which units remain, and `model.safetensors`.

    from nas.pruning.recipe import load
    model = load("runs/…/prune/…")

Units are numbered as in the original network, however often it has been pruned. Nothing is unpickled.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

from nas import runs
from nas.data.batches import MEAN, STD
from nas.networks.checkpoints import check_finite
from nas.networks.weights import load_timm, load_winner
from nas.runs.checkpoint import load_module, load_tensors, save_tensors
from nas.runs.folders import WEIGHTS
from search_spaces import UserError, get_space
from search_spaces.command.files import read_json, write_json
from search_spaces.command.typed import read_typed
from search_spaces.structure.base import Structure
from search_spaces.structure.families.registry import prepare
from search_spaces.structure.layouts import Layouts
from search_spaces.structure.slicing import prune
from search_spaces.timm_network.timm_models import check_timm_name, create_timm, timm_options

FILE = "pruned.json"
MOST_PIXELS = 4096
# Allowed of timm's options: what a network's tensors follow from.
SIZES = ("img_size", "patch_size", "window_size", "embed_dim", "depth", "depths", "num_heads")


@dataclass(frozen=True)
class Recipe:
    """How to build the network.

    Args:
        model: timm's name of the original, or None for one of a space of ours.
        options: of timm's constructor, beside the number of classes.
        arch: of the original, as its space writes it, or None.
        classes: in the order of the logits; empty while unknown.
        mean, std: that images are normalized by.
        kept: of the original's dimensions, those that were cut: the units that remain, ascending.
        versions: of timm and torch, that wrote the file.
        layouts: of the original, where its family is not known.
    """

    model: str | None
    options: dict[str, Any]
    arch: dict[str, Any] | None
    image_size: int
    classes: tuple[str, ...]
    mean: tuple[runs.Mean, ...]
    std: tuple[runs.Std, ...]
    kept: dict[str, tuple[int, ...]]
    versions: dict[str, str]
    layouts: Layouts | None = None

    @property
    def name(self) -> str:
        return self.model or str((self.arch or {})["space"])

    def build(self) -> tuple[nn.Module, Structure]:
        """The network, prunable, with fresh weights.

        Raises:
            UserError: of an unknown family, or one that the kept units do not fit.
        """
        model = self.original()
        structure = self._structure(model)
        if not self.kept:
            return model, structure
        self._check(structure)
        return model, prune(model, structure, {name: torch.tensor(index) for name, index in self.kept.items()})

    def original(self) -> nn.Module:
        """The network that it was cut from, as its family makes it, with fresh weights."""
        if self.arch is None:
            return create_timm("--model", self.name, len(self.classes), self.options)
        space = get_space(self.arch["space"], self.image_size, len(self.classes))
        return space.build(space.from_json(self.arch))

    def _structure(self, model: nn.Module) -> Structure:
        if self.layouts is None:
            try:
                return prepare(model)
            except UserError as error:
                raise UserError(f"{self.name}: {error}") from None
        try:
            return self.layouts.structure(model)
        except (AssertionError, AttributeError, KeyError, ValueError) as error:
            raise UserError(f"{FILE} describes another network than {self.name} ({error}); restore the file") from None

    def narrowed(self, structure: Structure, kept: Mapping[str, Tensor]) -> Recipe:
        """The recipe after pruning the network, now of this structure, to these of its units."""
        composed = dict(self.kept)
        for name, size in structure.sizes.items():
            if len(index := kept.get(name, range(size))) < size:
                before = self.kept.get(name, tuple(range(size)))
                composed[name] = tuple(before[i] for i in map(int, index))
        return replace(self, kept=composed, versions=_versions())

    def _check(self, structure: Structure) -> None:
        sizes = structure.sizes
        for name, index in self.kept.items():
            if name not in sizes:
                raise UserError(f"{FILE} keeps units of {name}, which {self.name} does not have; restore the file")
            if not index or list(index) != sorted(set(index)) or index[0] < 0 or index[-1] >= sizes[name]:
                raise UserError(
                    f"{FILE} keeps units of {name} that are not ascending numbers from 0 to {sizes[name] - 1}; "
                    "restore the file"
                )


@dataclass(frozen=True)
class Network:
    """A network with its weights and how to build it again."""

    recipe: Recipe
    model: nn.Module
    structure: Structure


def save(folder: Path, recipe: Recipe, model: nn.Module) -> None:
    """Writes both files; the recipe last, so a folder that has it is whole."""
    save_tensors(folder / WEIGHTS, model.state_dict(), {"pruned": recipe.name})
    write_json(folder / FILE, asdict(recipe))


def read(folder: Path) -> Recipe:
    """UserError if the folder holds no recipe of this version."""
    path = folder / FILE
    try:
        recipe = read_typed(Recipe, read_json(path), FILE)
        _check_buildable(recipe)
        return recipe
    except ValueError as error:
        raise UserError(f"{path} is no recipe of this version: {error}; prune again") from None


def _check_buildable(recipe: Recipe) -> None:
    """ValueError unless it names a network and nothing else: of timm's options, others load files or call the network.

    The file may be from someone else.
    """
    if (recipe.model is None) == (recipe.arch is None):
        raise ValueError(f"{FILE} names not one of model and arch")
    if recipe.model is not None and not timm.is_model(recipe.model):
        raise ValueError(f"{FILE}.model is {recipe.model!r}, no network of timm {timm.__version__}")
    if recipe.arch is not None and not isinstance(recipe.arch.get("space"), str):
        raise ValueError(f"{FILE}.arch has no space")
    if other := [name for name, value in recipe.options.items() if name not in SIZES or not _is_size(value)]:
        raise ValueError(f"{FILE}.options has {other[0]!r}; allowed are whole numbers for {', '.join(SIZES)}")
    if not 0 < recipe.image_size <= MOST_PIXELS:
        raise ValueError(f"{FILE}.image_size is {recipe.image_size}, not of 1 to {MOST_PIXELS}")
    if not recipe.classes or len(recipe.mean) != 3 or len(recipe.std) != 3:
        raise ValueError(f"{FILE} has no classes, or no mean and std of R, G, B")


def _is_size(value: Any) -> bool:
    return all(map(_is_size, value)) if isinstance(value, list) else type(value) is int and 0 < value <= MOST_PIXELS


def load(folder: Path | str) -> nn.Module:
    """The network of a folder, in evaluation mode.

    Raises:
        UserError: files that are missing, damaged or do not fit each other.
    """
    return load_prunable(read(Path(folder)), Path(folder))[0].eval()


def load_network(folder: Path) -> Network:
    """Raises UserError as `load`."""
    recipe = read(folder)
    return Network(recipe, *load_prunable(recipe, folder))


def load_prunable(recipe: Recipe, folder: Path) -> tuple[nn.Module, Structure]:
    """Raises UserError as `load`."""
    model, structure = recipe.build()
    path = folder / WEIGHTS
    tensors = load_tensors(path)[0]
    load_module(model, tensors, path)
    check_finite(tensors, path)
    return model, structure


def timm_recipe(name: str, image_size: int | None, classes: tuple[str, ...], *, ours: bool) -> Recipe:
    """Of timm's network, unpruned.

    Args:
        image_size: pixels; None: those that timm says.
        ours: whether it is trained here, or a checkpoint from elsewhere says what the weights are: then images are
            normalized as timm says.

    Raises:
        UserError: timm has no network of that name.
    """
    check_timm_name("--model", "--checkpoint", name)
    config = timm.get_pretrained_cfg(name)
    mean, std = (MEAN, STD) if ours or config is None else (config.mean, config.std)
    image_size = image_size or (config.input_size[1] if config else 224)
    options = timm_options(name, image_size)
    return Recipe(name, options, None, image_size, classes, tuple(mean), tuple(std), {}, _versions())


def open_timm(recipe: Recipe, checkpoint: Path) -> tuple[nn.Module, Structure]:
    """Timm's network with the weights of a checkpoint. UserError if they do not fit."""
    model, structure = recipe.build()
    load_timm(model, recipe.name, checkpoint, len(recipe.classes), recipe.image_size, "--image-size")
    return model, structure


def winner_recipe(file: Path) -> Recipe:
    """Of a retrained or exported winner of ours, unpruned. UserError if it cannot be read."""
    known = load_winner(file).facts
    return Recipe(None, {}, known.arch, known.image_size, known.classes, known.mean, known.std, {}, _versions())


def open_winner(recipe: Recipe, file: Path) -> tuple[Recipe, nn.Module, Structure]:
    """Such a winner with its weights."""
    model, structure = recipe.build()
    model.load_state_dict(load_winner(file).network.state_dict())
    return recipe, model, structure


def _versions() -> dict[str, str]:
    return {"timm": timm.__version__, "torch": torch.__version__}
