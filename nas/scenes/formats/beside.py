"""Where a file lies that belongs to another: in a folder beside that one's."""

from __future__ import annotations

from pathlib import Path


def beside(path: Path, folder: str, other: str) -> Path | None:
    """The path with the last folder of that name called otherwise; None if it lies in no such folder."""
    *folders, name = path.parts
    if folder not in folders:
        return None
    last = len(folders) - 1 - folders[::-1].index(folder)
    return Path(*folders[:last], other, *folders[last + 1 :], name)
