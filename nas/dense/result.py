"""What is known of a trained network of a kind: `result.json` in the folder of its stage, and its weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nas.runs import Mean, Std
from nas.runs.results import Ending
from search_spaces import SearchSpace, get_space
from search_spaces.command.typed import Count, load_typed

WEIGHTS = "model.safetensors"
REMEDY = "restore it, or train again"


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


def space_of(result: DenseResult) -> SearchSpace:
    return get_space(result["space"], result["image_size"])
