"""The files that a pruned network is exported as."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from nas import runs
from nas.data import Data
from nas.exporting.export import added_to, export_files
from nas.exporting.files import failures
from nas.exporting.matrix import FORMATS, Cell, cells, concerns
from nas.exporting.winner import file_metadata
from nas.pruning.config import Config
from nas.pruning.recipe import Network, Recipe, load_network
from search_spaces import UserError
from search_spaces.command.files import write_json
from search_spaces.deployed import deployed


def finished(config: Config, folder: Path, data: Data, result: dict[str, Any], changed: Mapping[str, Any]) -> None:
    """Exports a finished pruning, if it lacks a file that is asked for, or has it by other settings.

    Args:
        changed: settings that are not as recorded.
    """
    asked, _impossible = cells(config.formats, config.precision)
    every = [Cell(form, precision) for form, kind in FORMATS.items() for precision in kind.precisions]
    files, path = result["export"]["files"], folder / "result.json"
    if stale := [cell.name for cell in every if cell.name in files and any(concerns(n, cell) for n in changed)]:
        result["export"]["files"] = files = {name: facts for name, facts in files.items() if name not in stale}
        write_json(path, result)  # before the settings, so that a kill costs nothing but writing them again
    runs.record(folder, dict(changed))
    if all(cell.name in files for cell in asked):
        print(f"{folder} is finished: nothing to do")
        return
    test_accuracy = None if result["may_have_seen_test"] else result["accuracy"]["finetuned"]["test"]
    exported = export(load_network(folder), folder, config, data, test_accuracy, result["export"])
    result["export"] = exported
    write_json(path, result)
    check_exported(folder, exported)


def export(
    network: Network, folder: Path, config: Config, data: Data, test_accuracy: float | None, before: Mapping[str, Any]
) -> dict[str, Any]:
    """Adds files to the export folder and returns what is known of all in it, `before` that of what is there already.

    Args:
        test_accuracy: None where it may be of images that the network has seen: then files are not tried on them.
    """
    shipped = _Shipped(network, _run_info(network.recipe, config, data), test_accuracy)
    if test_accuracy is None:
        data = replace(data, test=data.test.spread(0))
    with added_to(folder / "export", keep=(folder / "export").exists()) as target:
        return export_files(shipped, target, config.file_config(), data, before)


def check_exported(folder: Path, exported: dict[str, Any]) -> None:
    if exported["failed"]:
        failed = failures(exported["failed"])
        raise UserError(f"{folder} is finished, but not exported as {failed}; --formats can leave that out")


def _run_info(recipe: Recipe, config: Config, data: Data) -> runs.RunInfo:
    count, where = len(recipe.classes), config.data_config()
    return runs.ClassesRun(
        recipe.name, recipe.image_size, count, recipe.classes, recipe.mean, recipe.std, where, data.splits
    )


@dataclass(frozen=True)
class _Shipped:
    """What nas.export writes files of."""

    network: Network
    info: runs.RunInfo
    test_accuracy: float | None

    def model(self) -> nn.Module:
        return deployed(self.network.model)

    @property
    def description(self) -> str:
        reached = self.test_accuracy
        tested = "" if reached is None else f", top-1 {100 * reached:.2f} % on its test images"
        info = self.info
        return f"pruned {info.space}, classifier of {info.num_classes} classes, {info.image_size} px{tested}"

    @property
    def metadata(self) -> dict[str, str]:
        sizes = self.network.structure.sizes
        return file_metadata(f"pruned {self.info.space}", self.info, self.test_accuracy, sizes=sizes)
