"""The network that is pruned: found by what --model names, its weights read from a file or trained first."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import NotRequired, TypedDict

import timm
import torch
from torch import nn

from nas import runs
from nas.data import Data, DataConfig
from nas.networks.weights import check_takes, normalization, winner_file
from nas.pruning import recipe as recipes
from nas.pruning.recipe import Recipe
from nas.runs.folders import WEIGHTS
from search_spaces import UserError
from search_spaces.command.files import sha256
from search_spaces.structure.base import Structure
from search_spaces.structure.families.registry import is_known
from search_spaces.structure.layouts import Layouts
from search_spaces.structure.verify import describe
from search_spaces.timm_network.timm_models import create_timm

DIGITS_SIZE = 32


class Facts(TypedDict):
    """Of the `config.json` of a pruning or a retraining, as far as there are any.

    Args:
        all_data: the search split was trained on, too.
    """

    data_digest: NotRequired[str]
    all_data: NotRequired[bool]


@dataclass(frozen=True)
class Source:
    """
    Args:
        recipe: without classes where the data is to say them.
        weights: the folder or file that has them; None where timm's network is trained first.
        data: that the network was trained on if its run tells, else that of the flags.
        run: the run that the network lies in.
        digest: of the splits that it was trained with, if its run tells.
        all_data: it was trained on the search split, too.
        traced: its family is not known.
    """

    recipe: Recipe
    weights: Path | None
    data: DataConfig
    run: Path | None
    digest: str | None = None
    all_data: bool = False
    traced: bool = False

    def splits(self, data: Data) -> Data:
        """The data; without a search split, whose images are then trained on, where the network has seen it."""
        return data.all_but_test() if self.all_data and self.digest == data.splits.digest else data

    def check_classes(self, data: Data) -> None:
        """UserError if the network was trained on others."""
        classes = self.recipe.classes
        if classes and classes != data.classes:
            raise UserError(
                f"the network knows the classes {_some(classes)}, the data has {_some(data.classes)}; "
                "give --data with the classes that it was trained on, in the same order"
            )

    def check_splits(self, data: Data) -> None:
        """Says what the network was trained on, where that is more than the training images, or unknown."""
        if self.may_have_seen(data):
            print(
                f"WARNING: nothing says which images {self.weights} was trained on; if it has seen any of those held "
                "out here, all accuracies are too high: give --test-data with images that it has not seen, or train "
                "the network by nas.finetune and prune that run's",
                flush=True,
            )
        if not len(data.search):
            print(
                f"{self.weights} was trained on the search split, too: so is what is pruned of it, and all accuracies "
                "are of the test split",
                flush=True,
            )
        if self.digest not in (None, data.splits.digest):
            print(
                "WARNING: these are other splits, or other images, than the network was trained with; if it has seen "
                "any of the test images, all test accuracies are too high",
                flush=True,
            )

    def may_have_seen(self, data: Data) -> bool:
        """Whether the weights may have been trained on the test images.

        They may if nothing says what they were trained on, and the test images were drawn from those given, among which
        that may be: test images in a place of their own are kept apart by whoever made it.
        """
        return self.weights is not None and self.digest is None and data.test.source is data.train.source

    def sha256(self) -> str | None:
        """Of the weights."""
        if self.weights is None:
            return None
        return sha256(self.weights / WEIGHTS if self.weights.is_dir() else self.weights)

    def open(self, data: Data, seed: int, described: Layouts | None = None) -> tuple[Recipe, nn.Module, Structure]:
        """The network for this data, with its weights; fresh ones of the seed where it has none.

        Args:
            described: what a network of no known family has been found to be already.

        Raises:
            UserError: weights that do not fit, or of other classes than the data's; a network that cannot be described.
        """
        self.check_classes(data)
        recipe, weights = replace(self.recipe, classes=data.classes), self.weights
        if self.traced:
            recipe = replace(recipe, layouts=described or _describe(recipe))
        if weights is None:
            torch.manual_seed(seed)
            return recipe, *recipe.build()
        if weights.is_dir():
            return recipe, *recipes.load_prunable(recipe, weights)
        if recipe.model is not None:
            return recipe, *recipes.open_timm(recipe, weights)
        return recipes.open_winner(recipe, weights)


def find(
    model: str,
    checkpoint: str | None,
    image_size: int | None,
    data: DataConfig,
    *,
    named: bool,
    mean: tuple[float, ...] = (),
    std: tuple[float, ...] = (),
) -> Source:
    """
    Args:
        mean, std: of the checkpoint's images; empty: as its config or timm says.
        named: whether the flags name the data; if not, or if they name the same, its run's settings are taken.

    Raises:
        UserError: no such network or file; a family that cannot be pruned; flags that do not go together.
    """
    path = Path(model).expanduser()
    if not path.exists() or timm.is_model(model):
        found = _timm(model, checkpoint, image_size, data)
        return _normalized(found, mean, std)
    timms = {"--checkpoint": checkpoint, "--image-size": image_size, "--mean": mean or None, "--std": std or None}
    for name, value in timms.items():
        if value is not None:
            raise UserError(f"{name} is for timm's networks; {path} says its own: leave it out")
    run, config, digest = _run_of(path)
    if config is not None and not (named and config.data != data.data):
        data = config
    all_data = run is not None and _all_data(path, run)
    if (path / recipes.FILE).exists():
        return Source(recipes.read(path), path, data, run, digest, all_data)
    file = winner_file(path, "--model")
    if file.suffix != ".safetensors":
        raise UserError(f"--model {path} does not say which network it is of; give --model NAME --checkpoint {path}")
    recipe = recipes.winner_recipe(file)
    return Source(recipe, file, data, run, digest, all_data, traced=not is_known(recipe.original()))


def _timm(name: str, checkpoint: str | None, image_size: int | None, data: DataConfig) -> Source:
    weights = None if checkpoint is None else Path(checkpoint).expanduser()
    if weights is not None and not weights.is_file():
        raise UserError(f"--checkpoint {checkpoint!r} is no file; give the weights of {name}")
    size = image_size or (DIGITS_SIZE if weights is None and data.data == "digits" else None)
    recipe = recipes.timm_recipe(name, size, (), ours=weights is None)
    model = create_timm("--model", name, 2, recipe.options).eval()
    check_takes(model, name, (recipe.image_size, recipe.image_size), 2, ("--model", "--image-size"))
    return Source(recipe, weights, data, None, traced=not is_known(model))


def _describe(recipe: Recipe) -> Layouts:
    """Of a network of no known family; says what was found."""
    print(f"{recipe.name}: finding out what can be pruned, by running it without it", flush=True)
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        model = recipe.original()
    try:
        layouts, whole = describe(model, recipe.image_size)
    except UserError as error:
        raise UserError(f"{recipe.name}: {error}") from None
    print(f"{recipe.name}: {len(layouts.sizes)} dimensions, verified by running it", flush=True)
    if whole:
        some = ", ".join(whole[:3]) + (", …" if len(whole) > 3 else "")
        count = len(whole) + len(layouts.sizes)
        print(f"{len(whole)} of {count} stay whole, the network does not agree: {some}", flush=True)
    return layouts


def _normalized(source: Source, mean: tuple[float, ...], std: tuple[float, ...]) -> Source:
    """With the mean and deviation that its checkpoint was trained with."""
    if source.weights is None:
        if mean or std:
            raise UserError("--mean and --std are of a checkpoint; give --checkpoint too, or leave them out")
        return source
    mean, std = normalization(source.recipe.name, source.weights, mean, std, ("--mean", "--std"))
    return replace(source, recipe=replace(source.recipe, mean=mean, std=std))


def _run_of(path: Path) -> tuple[Path | None, DataConfig | None, str | None]:
    """The run that a network lies in, the data of that run and the digest of its splits."""
    for folder in path.resolve().parents:
        if (folder / "run.json").exists():
            info = runs.load_classes_info(folder)
            return folder, info.data, info.splits.digest
        if folder.name == "prune":  # of a network of timm: no run.json
            if not (path / "config.json").exists():
                return folder.parent, None, None
            digest = runs.begun_with(Facts, path).get("data_digest")
            return folder.parent, runs.begun(path, DataConfig), digest
    return None, None, None


def _all_data(path: Path, run: Path) -> bool:
    """Whether a network of the run, retrained, exported or pruned, was trained on the search split, too."""
    parts = path.resolve().relative_to(run.resolve()).parts
    folder = run.joinpath(*("retrain" if part == "export" else part for part in parts[:1]), *parts[1:2])
    return (folder / "config.json").exists() and runs.begun_with(Facts, folder).get("all_data", False)


def _some(names: tuple[str, ...]) -> str:
    return f"{', '.join(names[:4])}{', …' if len(names) > 4 else ''} ({len(names)})"
