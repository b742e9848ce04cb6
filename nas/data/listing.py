"""What a folder or .tar holds: its images, and what is left out, with the reason. One set of rules for both."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import TypeVar

from tqdm import tqdm

from nas.data.classes import shown
from nas.data.pixels import HEIF, extensions
from nas.distributed import process
from search_spaces import UserError

# What editors, archivers and network drives leave behind, in small letters; what begins with a dot is hidden anyway.
SYSTEM_FOLDERS = {"@eadir", "@tmp", "@recycle", "@recently-snapshot", "@sharesnap", "@sharebin"}
SYSTEM_FOLDERS |= {"#recycle", "#snapshot", "~snapshot", "$recycle.bin", "lost+found"}
SYSTEM_FOLDERS |= {"system volume information", "found.000", "network trash folder", "temporary items"}
SYSTEM_FOLDERS |= {"__macosx", "__pycache__"}

ANNOTATIONS = "val_annotations.txt"  # TinyImageNet's: the classes of the images beside it or in folders there

T = TypeVar("T")
Span = tuple[int, int]  # first byte in the .tar, and how many


@dataclass(frozen=True)
class Listing:
    """Paths are relative to `inside`, with slashes.

    Args:
        root: the folder or .tar.
        inside: the folder within it that is listed; empty for all of it.
        images: each with its place in the .tar; None in a folder.
        left_out: what is not read, each with the reason; folders end with a slash.
        folders: those that are read.
        annotations: texts that say the classes of images, each with its place in the .tar (`nas.data.annotations`).
    """

    root: Path
    inside: str = ""
    images: dict[str, Span | None] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    folders: set[str] = field(default_factory=set)
    annotations: dict[str, Span | None] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.root}/{self.inside}" if self.inside else str(self.root)

    def add(self, path: str, span: Span | None = None) -> None:
        """A file."""
        folder, _, name = path.rpartition("/")
        if not self.add_folder(folder):
            return
        suffix = PurePosixPath(name).suffix.lower()
        if name.startswith("."):
            if suffix in extensions():
                self.left_out[path] = "hidden"
        elif suffix in extensions():
            self.left_out.pop(path, None)  # a .tar's later member of a name replaces the earlier one
            self.images[path] = span
        elif name == ANNOTATIONS:
            self.annotations[path] = span
        else:
            self.left_out[path] = suffix or "without extension"

    def add_folder(self, path: str) -> bool:
        """Whether its files are read."""
        parts = path.split("/") if path else []
        for depth, part in enumerate(parts, start=1):
            if part.startswith(".") or part.lower() in SYSTEM_FOLDERS:
                reason = "hidden" if part.startswith(".") else "of a system, not of people"
                self.left_out["/".join(parts[:depth]) + "/"] = reason
                return False
        self.folders.update("/".join(parts[:depth]) for depth in range(1, len(parts) + 1))
        return True

    def within(self, folder: str) -> Listing:
        """What one of its folders holds."""
        inside = f"{self.inside}/{folder}" if self.inside else folder
        folders = set(_below(dict.fromkeys(self.folders), folder))
        images, left_out, texts = (_below(p, folder) for p in (self.images, self.left_out, self.annotations))
        return Listing(self.root, inside, images, left_out, folders, texts)

    def content(self, path: str) -> bytes:
        """Of a text in `annotations`."""
        span = self.annotations[path]
        return (self.root / self.inside / path).read_bytes() if span is None else read_span(self.root, span)

    def leave_out(self, paths: list[str], reason: str) -> None:
        """Images that are not to be read after all."""
        for path in paths:
            del self.images[path]
            self.left_out[path] = reason

    def top_folders(self) -> list[str]:
        """Folders at the top that have images, or folders with images."""
        return sorted({path.partition("/")[0] for path in self.images if "/" in path})

    def empty_folders(self) -> list[str]:
        """Folders without an image in or below them; not those within such folders."""
        filled = {str(parent) for path in self.images for parent in PurePosixPath(path).parents}
        empty = self.folders - filled
        return sorted(path for path in empty if path.rpartition("/")[0] not in empty)

    def summary(self) -> str:
        """What is left out, by reasons."""
        return ", ".join(_counted(self.left_out))

    def tell(self) -> None:
        """One line on what is left out, if anything is: a phone's photographs would else be missing without a word."""
        parts = [f"left out {self.summary()}"] if self.left_out else []
        if empty := self.empty_folders():
            parts.append(f"folders without images: {some(empty)}")
        if parts:
            if not set(HEIF) & set(extensions()) and set(HEIF) & set(self.left_out.values()):
                parts.append("pip install pillow-heif reads .heic")
            parts.append(f"images end in {', '.join(extensions())}")
            warn(f"{self.name}: {'; '.join(parts)}")


def _below(paths: dict[str, T], folder: str) -> dict[str, T]:
    """Those in the folder, as paths from it."""
    start = f"{folder}/"
    return {path.removeprefix(start): value for path, value in paths.items() if path.startswith(start)}


def _counted(left_out: dict[str, str]) -> Iterator[str]:
    """E.g. 2 .heic (phone/1.heic, phone/2.heic), the most frequent reasons first."""
    counts = Counter(left_out.values())
    for reason, count in counts.most_common(8):
        paths = [path for path, why in left_out.items() if why == reason]
        yield f"{count} {reason} ({some(sorted(paths), 2)})"
    if len(counts) > 8:
        yield "…"


def read_span(tar: Path, span: Span) -> bytes:
    """A part of the .tar, opened anew: an open file cannot be shared with processes that load images."""
    start, count = span
    with tar.open("rb") as file:
        file.seek(start)
        return file.read(count)


def some(names: list[str], count: int = 5) -> str:
    """A few of the names, on one line."""
    return ", ".join(map(shown, names[:count])) + (", …" if len(names) > count else "")


def warn(text: str) -> None:
    """One line on standard error, of one process; progress bars stay whole."""
    if process.is_primary():
        tqdm.write(f"warning: {text}", file=sys.stderr)


def list_folder(root: Path) -> Listing:
    """
    Raises:
        UserError: a folder that cannot be opened.
    """
    listing = Listing(root)
    _walk(listing, root, "", frozenset())
    return _sorted(listing)


def _walk(listing: Listing, folder: Path, relative: str, above: frozenset[tuple[int, int]]) -> None:
    try:
        status = folder.stat()
        with os.scandir(folder) as found:
            entries = list(found)
    except OSError as error:
        raise UserError(f"cannot open the folder {folder}: {error.strerror}; mend it or move it away") from None
    here = (status.st_dev, status.st_ino)
    if here in above:
        listing.left_out[f"{relative}/"] = "links to a folder that they lie in"
        listing.folders.discard(relative)
        return
    for entry in entries:
        path = f"{relative}/{entry.name}" if relative else entry.name
        if entry.is_dir():
            if listing.add_folder(path):
                _walk(listing, Path(entry.path), path, above | {here})
        elif entry.is_file():
            listing.add(path)
        elif not entry.name.startswith("."):
            listing.left_out[path] = "links to nothing" if entry.is_symlink() else "no files"


def _sorted(listing: Listing) -> Listing:
    """In one order on every machine; a folder's own is that of its file system."""
    return replace(
        listing, images=dict(sorted(listing.images.items())), left_out=dict(sorted(listing.left_out.items()))
    )
