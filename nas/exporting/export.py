"""Files of the retrained winners of a run, each compared with the network that it was made from."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from nas import runs
from nas.data import Data
from nas.exporting.figures import load_images
from nas.exporting.files import Exporter, FileConfig, failures
from nas.exporting.guide import write_guide
from nas.exporting.verify import verify
from nas.exporting.winner import Exportable, load_winners, winner_names
from nas.objective.precisions import Precision
from nas.runs.folders import WEIGHTS
from search_spaces import UserError
from search_spaces.command import check_idle, flag
from search_spaces.command.files import atomic_folder, read_json, sha256, write_json, write_text

# What --python needs to export, beside what measuring takes.
PACKAGES = ("markupsafe", "pandas", "safetensors")


@dataclass(frozen=True)
class Config(FileConfig):
    run: str | None = flag(None, "run under runs/ (default: the newest with a retrained winner)")
    winners: tuple[str, ...] = flag(
        (), "retrained networks to export, whole and narrowed-… too (default: all winners that were retrained)"
    )
    python: str | None = flag(None, "interpreter of another environment to export in, where a converter is installed")
    verify: bool = flag(False, "on a Mac: try the Core ML packages that were exported in Core ML, instead of exporting")

    def check(self, searched: tuple[Precision, ...] = ("float32",)) -> None:
        """UserError if there is nothing to write, or a flag has no effect on what there is.

        Args:
            searched: precisions that the networks were searched in.
        """
        if not self.verify:
            super().check(searched)
            return
        idle = {field.name for field in fields(FileConfig)} - {"max_drop"}
        check_idle(self, (*idle, "python"), "exports, not for --verify")


def export(config: Config) -> list[dict[str, Any]]:
    """Exports the winners, or tries what was exported, and returns their `result.json`."""
    if config.verify:
        config.check()
        return verify(config.run, config.winners, config.max_drop)
    folder = runs.find_run(config.run, "retrain/*/result.json", "python -m nas.retrain")
    if not (names := config.winners or winner_names(folder)):
        raise UserError(
            f"{folder} has no retrained winner; run nas.retrain, or name the fine-tuned one: --winners whole"
        )
    winners = load_winners(folder, names)
    config.check(tuple(winner.precision for winner in winners))
    data, results = load_images(folder), []
    for winner in winners:
        print(winner.name)
        weights, place = sha256(winner.folder / WEIGHTS), folder / "export" / winner.name
        before = _before(place, weights)
        with added_to(place, keep=bool(before)) as target:
            facts = {"command": runs.command_line(), "name": winner.name, "weights_sha256": weights}
            results.append({**facts, **export_files(winner, target, config, data, before, winner.precision)})
            if not results[-1]["files"]:
                raise UserError(f"nothing was exported: {failures(results[-1]['failed'])}")
            write_json(target / "result.json", results[-1])
        print(f"  in {place}")
    if failed := [f"{result['name']} as {failures(result['failed'])}" for result in results if result["failed"]]:
        raise UserError(f"not exported: {'; '.join(failed)}; all else is written, leave these out of --formats")
    return results


def export_files(
    network: Exportable,
    folder: Path,
    config: FileConfig,
    data: Data | None,
    before: Mapping[str, Any],
    searched: Precision = "float32",
) -> dict[str, Any]:
    """Writes files beside those that the folder has, with how to use them, and returns `files` and `failed` of all.

    Args:
        before: the same of the files that are there.
        searched: precision that the network was searched in.
    """
    write_text(folder / "classes.txt", "".join(f"{name}\n" for name in network.info.classes))
    found = Exporter(network, folder, config, data, searched).write()
    files = {**before.get("files", {}), **found["files"]}
    write_guide(folder, network, files)
    return {"files": files, "failed": found["failed"]}


@contextmanager
def added_to(folder: Path, *, keep: bool) -> Iterator[Path]:
    """A copy of a folder, or an empty one, that replaces it when the block ends without an error."""
    with atomic_folder(folder) as target:
        if keep:
            shutil.copytree(folder, target, dirs_exist_ok=True)
        yield target


def _before(folder: Path, weights: str) -> dict[str, Any]:
    """The result of an earlier export of the same weights; empty if there is none."""
    path = folder / "result.json"
    result = read_json(path) if path.exists() else {}
    same = isinstance(result, dict) and result.get("weights_sha256") == weights
    return result if same else {}
