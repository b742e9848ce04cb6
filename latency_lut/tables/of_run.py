"""The space, image size and number of classes that a run has, by --run, in place of a flag for each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self, TypedDict

from search_spaces import DEFAULT_SPACE, SearchSpace, UserError, get_space
from search_spaces.command import Flags, amend, flag, given
from search_spaces.command.folders import RUNS, run_folder
from search_spaces.command.typed import load_typed


class Networks(TypedDict):
    """What a run's `run.json` says of its networks; the whole file is `nas.runs.RunInfo`."""

    space: str
    image_size: int
    num_classes: int


def networks_of(run: str) -> Networks:
    """
    Args:
        run: a name under runs/, or a path.

    Raises:
        UserError: there is no such run.
    """
    path = run_folder(run) / "run.json"
    if not path.exists():
        raise UserError(f"no run {path.parent}: it has no {path.name}; see `ls {RUNS}`")
    found = load_typed(Networks, path, "restore it, or give --space, --image-size and --num-classes")
    return {"space": found["space"], "image_size": found["image_size"], "num_classes": found["num_classes"]}


def space_of(run: str) -> SearchSpace:
    """UserError if there is no such run."""
    found = networks_of(run)
    return get_space(found["space"], found["image_size"], found["num_classes"])


@dataclass(frozen=True)
class SpaceFlags(Flags):
    """The flags that name a space; commands inherit them."""

    run: str | None = flag(None, f"take space, image size and number of classes from this run, {RUNS}/<name> or a path")
    space: str | None = flag(None, f"search space (default: {DEFAULT_SPACE}); python -m search_spaces lists them")
    image_size: int | None = flag(None, "height and width of the images (default: the space's own)", minimum=1)
    num_classes: int | None = flag(None, "number of classes (default: the space's own)", minimum=1)

    def of_run(self) -> Self:
        """With what --run says written out, in place of it.

        Raises:
            UserError: no such run, or flags that say something else.
        """
        if self.run is None:
            return self
        found = networks_of(self.run)
        for name, theirs in found.items():
            if name in given(self) and (ours := getattr(self, name)) != theirs:
                spelled = f"--{name.replace('_', '-')}"
                raise UserError(f"{spelled} is {ours}, but {self.run} has {theirs}; leave {spelled} or --run out")
        return amend(self, run=None, **found)

    def search_space(self) -> SearchSpace:
        """Once --run is written out."""
        return get_space(self.space or DEFAULT_SPACE, self.image_size, self.num_classes)
