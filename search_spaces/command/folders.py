"""Where runs lie, and what may be the name of a folder in its place, also of one that someone sent."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

from search_spaces.command.flags import UserError
from search_spaces.command.terminal import shown

RUNS = Path("runs")
MOST_BYTES = 200  # of a name: file systems take 255, and files of a stage have longer names than its folder


def run_folder(name: str) -> Path:
    """`runs/<name>`, or the path itself if it is one. UserError if it can be neither."""
    if "/" not in name:
        check_name("--run", name)
        return RUNS / name
    if not name.isprintable() or max(len(part.encode()) for part in Path(name).parts) > MOST_BYTES:
        raise UserError(f"--run is {name[:80]!r}; give a name under {RUNS}/, or a path of printable, shorter names")
    return Path(name)


def check_name(flag: str, name: str | None) -> None:
    """UserError if the name that the flag gives cannot be a folder's in its place."""
    if name is not None:
        try:
            _check_name(name)
        except ValueError as error:
            raise UserError(f"{flag} {error}") from None


def _check_name(name: str) -> None:
    if not re.fullmatch(r"[\w-][\w.-]*", name) or len(name.encode()) > MOST_BYTES:
        raise ValueError(
            f"is {shown(name)}; give letters, digits, dots (not the first) and dashes, {MOST_BYTES} at most"
        )


Name = Annotated[str, _check_name]  # of a folder or file in its place, also from files that someone sent
