"""What is known of a trained network of a kind: `result.json` in the folder of its stage, and its weights."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, TypeVar

from nas.runs import Mean, Std
from nas.runs.results import Ending
from search_spaces import SearchSpace, UserError, get_space
from search_spaces.command.typed import Count, load_typed, read_typed

REMEDY = "restore it, or train again"

Split = Literal["search", "test"]
Figures = TypeVar("Figures")


class DenseResult(Ending):
    """
    Args:
        space, arch: of the backbone, for images of `image_size` pixels.
        search, test: figures on these splits, of the kind.
        files: what was exported, by format.
    """

    command: str
    space: str
    arch: dict[str, Any]
    image_size: Count
    classes: list[str]
    mean: list[Mean]
    std: list[Std]
    num_images: dict[str, Count]
    num_params: Count
    search: dict[str, Any]
    test: dict[str, Any]
    files: dict[str, Any]


def read_result(folder: Path) -> DenseResult:
    return load_typed(DenseResult, folder / "result.json", REMEDY)


def typed_figures(kind: type[Figures], of: str, result: DenseResult, split: Split, path: Path) -> Figures:
    """What `result.json`, at that path, says of a split.

    Args:
        of: what the figures are of, for the message.

    Raises:
        UserError: it is none of that kind.
    """
    try:
        return read_typed(kind, result[split], f"{path.name}: {split}")
    except ValueError as error:
        raise UserError(f"{path} has no figures of {of} ({error}); {REMEDY}") from None


def check_classes(counts: Iterable[int], result: DenseResult, path: Path) -> None:
    """UserError unless figures have as many entries each as there are classes."""
    count = len(result["classes"])
    if {*counts} != {count}:
        raise UserError(f"{path} has figures of other classes than its {count}; {REMEDY}")


def space_of(name: str, image_size: int, num_classes: int) -> SearchSpace:
    """The space of a network: of backbones, or of networks with a head for so many classes."""
    return get_space(name, image_size, num_classes if "+" in name else None)
