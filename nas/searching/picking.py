"""The end of a search: picks its winners and writes `result.json`, in its folder of the run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nas import runs
from nas.evaluation.intervals import interval, interval_of
from nas.objective.figure import classifies
from nas.objective.goals import LIMITS
from nas.searching.result import Json, as_text, evaluations, frame, objective_of, read_result
from nas.searching.winners import Answers, name_winners, pick_winners, recommend
from search_spaces import SearchSpace, UserError
from search_spaces.command import Flags
from search_spaces.command.files import write_json, write_text

# A search is a function of its settings and asks its study first, so these may change.
AMENDABLE = (*LIMITS, "min_accuracy", "winners", "budget")


@contextmanager
def put_back(folder: Path) -> Iterator[None]:
    """Where winners have been picked before, a UserError within it leaves the settings that they were picked with.

    A kill leaves the new ones, so that resuming goes on with them.
    """
    before = read_result(folder) if (folder / "result.json").exists() else None
    try:
        yield
    except UserError as error:
        if before is None or not before["winners"]:
            raise
        runs.restore(folder, before["command"], before["settings"])
        kept = ", ".join(winner["name"] for winner in before["winners"])
        raise UserError(f"{error}; nothing has changed, its winners are still {kept}") from None


def is_finished(folder: Path, config: Flags) -> bool:
    """Whether winners have been picked with these settings."""
    path = folder / "result.json"
    settings = read_result(folder).get("settings") if path.exists() else None  # none: winners are not picked yet
    return settings == {n: list(v) if isinstance(v := getattr(config, n), tuple) else v for n in AMENDABLE}


def pick(config: Any, folder: Path, space: SearchSpace, result: Json, answers: Answers) -> None:
    """Writes the result and says which winners there are.

    Limits that no network meets lose nothing: they leave the result that there is, or else one without winners.

    Args:
        config: of the search, with `AMENDABLE` fields.

    Raises:
        UserError: no network is within the limits.
    """
    path = folder / "result.json"
    before = read_result(folder) if path.exists() else {"winners": [], "earlier_winners": []}
    earlier = [*before["winners"], *before["earlier_winners"]]
    if not before["winners"]:
        _write(folder, {**result, "winners": [], "earlier_winners": earlier})
    objective, points = objective_of(result), result.get("trajectory") or result["evaluations"]
    chosen = pick_winners(
        points,
        objective,
        config.min_accuracy,
        config.winners,
        answers,
        1 / space.num_classes if classifies(space.name) else 0.0,
        _beside(folder, space),
    )
    prefix = "winner" if folder.name == "search" else f"{folder.name}-winner"
    winners = name_winners(chosen, earlier, prefix)
    if classifies(space.name):
        ends = [interval(winner["accuracy"], result["num_images"]) for winner in winners]
    else:
        ends = [interval_of(scores) for scores in answers(winners)]
    names = [winner["name"] for winner in winners]
    others = [winner for winner in earlier if winner["name"] not in names]
    result |= {
        "command": runs.command_of(folder),
        "winners": [{**w, "accuracy_interval": of} for w, of in zip(winners, ends, strict=True)],
        "earlier_winners": others,
        "recommended": recommend(winners, points, objective, answers, result["num_images"]),
        "settings": {name: getattr(config, name) for name in AMENDABLE},
    }
    _write(folder, result)
    print(as_text(result, folder))
    if others:
        print(f"no longer winners, what was trained of them stays: {', '.join(w['name'] for w in others)}")


def _write(folder: Path, result: Json) -> None:
    write_json(folder / "result.json", result)
    write_text(folder / "result.csv", frame(evaluations(result)).to_csv(index=False))


def _beside(folder: Path, space: SearchSpace) -> Json | None:
    """The arch of the fine-tuned network, which the run has beside its winners; None if it has none."""
    whole = folder.parent / "retrain" / runs.WHOLE / "result.json"
    return space.to_json(space.largest) if whole.exists() else None
