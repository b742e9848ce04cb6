"""What can be exported, and the retrained winners of a run, read and checked."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NotRequired, Protocol, TypedDict

from torch import nn

from nas import runs
from nas.data.pixels import preprocessing
from nas.networks.weights import check_finite
from nas.objective.precisions import Precision, precision_of
from nas.runs.baselines import ARCHS
from nas.runs.checkpoint import load_module, load_tensors
from nas.runs.folders import WEIGHTS
from nas.runs.results import REMEDY, TrainedResult
from search_spaces import Arch, SearchSpace, UserError
from search_spaces.command.typed import load_typed
from search_spaces.deployed import deployed


class Exportable(Protocol):
    """A network with its weights, and what every file made of it says of itself."""

    @property
    def info(self) -> runs.RunInfo: ...

    @property
    def description(self) -> str: ...

    @property
    def metadata(self) -> dict[str, str]: ...

    def model(self) -> nn.Module:
        """Deployed, in evaluation mode; a new one at every call, since exporters leave traces."""


@dataclass(frozen=True)
class Winner:
    """A retrained network of a run: `retrain/<name>/` read and checked.

    Args:
        all_data: it was trained on the search split, too: only test images say how good it is.
        precision: that it was searched in.
    """

    name: str
    folder: Path
    info: runs.RunInfo
    space: SearchSpace
    arch: Arch
    test_accuracy: float
    all_data: bool
    precision: Precision = "float32"

    def model(self) -> nn.Module:
        return deployed(self.trained_model())

    def trained_model(self) -> nn.Module:
        """As its family's own class holds it, with what only training needs."""
        path = self.folder / WEIGHTS
        model = self.space.build(self.arch)
        load_module(model, tensors := load_tensors(path)[0], path)
        check_finite(tensors, path)
        return model.eval()

    @property
    def description(self) -> str:
        return (
            f"{self.space.name} classifier of {self.info.num_classes} classes, {self.info.image_size} px, "
            f"top-1 {100 * self.test_accuracy:.2f} % on its test images"
            f"{', trained on all others' if self.all_data else ''}"
        )

    @cached_property
    def metadata(self) -> dict[str, str]:
        return file_metadata(self.name, self.info, self.test_accuracy, arch=self.space.to_json(self.arch))


def file_metadata(name: str, info: runs.RunInfo, test_accuracy: float | None, **own: Any) -> dict[str, str]:
    """What every exported file says of itself.

    Args:
        test_accuracy: None if none is known.
        own: what kinds of networks have of their own, as JSON.
    """
    return {
        "name": name,
        "classes": json.dumps(info.classes, ensure_ascii=False),
        "image_size": str(info.image_size),
        "preprocessing": preprocessing(info.image_size),
        "mean": json.dumps(info.mean),
        "std": json.dumps(info.std),
        **{key: json.dumps(value) for key, value in own.items()},
        **({} if test_accuracy is None else {"test_accuracy": f"{test_accuracy:.4f}"}),
    }


class _Begun(TypedDict):
    """Of `retrain/<name>/config.json`: the file that a network was taken from, if from none of a search."""

    archs: NotRequired[str | None]


def winner_names(folder: Path) -> tuple[str, ...]:
    """What nas.retrain has trained of a run: neither the fine-tuned network nor baselines of winners."""
    found = (path.parent for path in sorted(folder.glob("retrain/*/result.json")))
    return tuple(path.name for path in found if path.name != runs.WHOLE and not _is_baseline(path))


def _is_baseline(folder: Path) -> bool:
    if not (folder / "config.json").exists():
        return False
    archs = runs.begun_with(_Begun, folder).get("archs")
    return archs is not None and Path(archs).parts[-2:] == Path(ARCHS).parts


def load_winners(folder: Path, names: tuple[str, ...]) -> list[Winner]:
    """The retrained networks of a run, all or those named.

    Raises:
        UserError: one was not retrained.
    """
    info = runs.load_classes_info(folder)
    space = info.search_space()
    found = sorted(path.parent.name for path in folder.glob("retrain/*/result.json"))
    if missing := [name for name in names if name not in found]:
        raise UserError(f"{folder} has no retrained {missing[0]!r}; choose from {', '.join(found)}, or run nas.retrain")
    winners = []
    for name in names or found:
        path = folder / "retrain" / name / "result.json"
        result = load_typed(TrainedResult, path, REMEDY)
        try:
            arch = space.from_json(result["arch"])
        except UserError as error:
            raise UserError(f"{path}: {error}") from None
        more = (result.get("all_data", False), precision_of(result))
        winners.append(Winner(name, path.parent, info, space, arch, result["test_accuracy"], *more))
    return winners
