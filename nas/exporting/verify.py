"""Core ML packages in Core ML itself: exported anywhere, tried on a Mac, with what they reach taken down in the run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nas import runs
from nas.exporting import coreml
from nas.exporting.figures import accuracies, load_images
from nas.exporting.files import say
from nas.exporting.guide import write_guide
from nas.exporting.winner import load_winners
from nas.runs.folders import WEIGHTS
from search_spaces import UserError
from search_spaces.command.files import read_json, sha256, write_json


def verify(run: str | None, winners: Sequence[str], max_drop: float) -> list[dict[str, Any]]:
    """Predicts with every package of a run and returns the `result.json`, in which its figures replace earlier ones.

    Args:
        winners: none stands for all that were exported.
        max_drop: points of test accuracy that a file may lose unwarned.

    Raises:
        UserError: this is no Mac; there is no package, or not of the weights that the run has now; a probability
            differs by more than rounding explains.
    """
    if not coreml.on_apple():
        raise UserError(
            "--verify needs macOS, where Core ML runs: copy the run and its images to a Mac, and give it there"
        )
    folder = runs.find_run(run, "export/*/*.mlpackage", "python -m nas.export --formats coreml")
    names = tuple(winners) or tuple(sorted({path.parent.name for path in folder.glob("export/*/*.mlpackage")}))
    data, results = load_images(folder), []
    for winner in load_winners(folder, names):
        print(winner.name)
        place = folder / "export" / winner.name
        result = read_json(place / "result.json")
        if result["weights_sha256"] != sha256(winner.folder / WEIGHTS):
            raise UserError(f"{place} was exported from other weights than {winner.folder} has; export it again")
        for name, facts in result["files"].items():
            if facts["format"] == "coreml":
                path, model = place / facts["file"], winner.model()
                parity, found = coreml.check_coreml(path, model, winner.info, facts["precision"])
                facts |= {**vars(parity), **found}
                if data is not None and len(data.test):
                    answers = {name: coreml.answers(path, winner.info)}
                    facts |= accuracies(answers, model, data.test, winner.info).get(name, {})
                say(path, facts, max_drop)
        write_json(place / "result.json", result)
        write_guide(place, winner, result["files"])
        results.append(result)
    return results
