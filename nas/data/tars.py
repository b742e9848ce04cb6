"""What a .tar holds, and .tar files within it: by the rules of folders, its links followed as if it were unpacked."""

from __future__ import annotations

import posixpath
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO

from nas.data.classes import shown
from nas.data.listing import Listing, Span
from search_spaces import UserError

MAX_LINKS = 40  # one after another, as in Linux
_PACKED = {
    b"\x1f\x8b": "gzip",
    b"BZ": "bzip2",
    b"\xfd7": "xz",
    b"PK": "zip",
    b"\x28\xb5": "zstd",
    b"7z": "7-Zip",
    b"Ra": "RAR",
}


@dataclass
class _Members:
    """By path from the .tar's root; the later member of a path replaces the earlier one, as when it is unpacked."""

    files: dict[str, Span] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)  # to a path
    folders: dict[str, None] = field(default_factory=dict)
    strange: dict[str, str] = field(default_factory=dict)  # path: reason

    def replace_by(self, path: str) -> None:
        for kind in (self.files, self.links, self.folders, self.strange):
            kind.pop(path, None)


def list_tar(root: Path) -> Listing:
    """
    Raises:
        UserError: no .tar, a compressed one, or one that is cut off.
    """
    members = _Members()
    try:
        with root.open("rb") as file:
            _check_packed(root, file.read(2))
            file.seek(0)
            _read(root, file, "", 0, members)
    except OSError as error:
        raise UserError(f"cannot read {root}: {error.strerror or error}") from None
    except (tarfile.TarError, ValueError, EOFError) as error:
        raise UserError(f"cannot read {root}: {shown(str(error))}; it is damaged or no .tar: copy it again") from None
    listing = Listing(root)
    for path in members.folders:
        listing.add_folder(path)
    listing.left_out.update(members.strange)
    for path, span in members.files.items():
        listing.add(path, span)
    _add_links(listing, members)
    return replace(
        listing, images=dict(sorted(listing.images.items())), left_out=dict(sorted(listing.left_out.items()))
    )


def _check_packed(root: Path, start: bytes) -> None:
    if kind := _PACKED.get(start):
        raise UserError(
            f"{root} is compressed ({kind}); unpack it, and give the folder or a .tar that is not compressed"
        )


def _read(root: Path, file: IO[bytes], above: str, offset: int, members: _Members) -> None:
    """
    Args:
        above: the folder that stands for this .tar; empty for the outermost.
        offset: of this .tar in the outermost.
    """
    with tarfile.open(fileobj=file, mode="r:") as tar:
        for member in tar:
            path = _path(above, member.name)
            if path is None:
                members.strange[shown(member.name)] = "outside the .tar"
                continue
            members.replace_by(path)
            span = (offset + member.offset_data, member.size)
            if member.isdir():
                members.folders[path] = None
            elif member.issym():
                members.links[path] = posixpath.join(posixpath.dirname(path), member.linkname)
            elif member.islnk():
                members.links[path] = posixpath.join(above, member.linkname)
            elif member.sparse or not member.isreg():
                members.strange[path] = "no files"
            elif path.lower().endswith(".tar") and not posixpath.basename(path).startswith("."):
                inner = tar.extractfile(member)
                assert inner is not None
                _read(root, inner, path[:-4], span[0], members)
            else:
                members.files[path] = span
        _check_end(root, file, tar.offset)


def _path(above: str, name: str) -> str | None:
    """From the outermost root; None if it leads out."""
    path = posixpath.normpath(posixpath.join(above, name.lstrip("/")))
    return None if path.startswith("..") else path.removeprefix("./") if path != "." else ""


def _check_end(root: Path, file: IO[bytes], offset: int) -> None:
    """UserError if the .tar is cut off where a member ends, or another follows it: tarfile says nothing of either."""
    file.seek(offset)
    rest = file.read(2**20)
    if not rest.startswith(bytes(tarfile.BLOCKSIZE)):
        raise UserError(f"{root} has no end, so a part of it may be missing; copy it again")
    if rest.strip(b"\0"):
        raise UserError(f"{root} goes on behind its end; join .tar files by tar --concatenate, not by cat")


# ---- links


def _add_links(listing: Listing, members: _Members) -> None:
    """Links as what they lead to; what leads out of the .tar is left out."""
    for path, target in members.links.items():
        found = _resolve(target, members.links)
        if found in members.files:
            listing.add(path, members.files[found])
        elif found is None or not (below := list(_below(found, members))):
            listing.left_out[path] = "links to what the .tar lacks"
        elif found == "." or f"{path}/".startswith(f"{found}/"):
            listing.left_out[f"{path}/"] = "links to a folder that they lie in"
        else:
            for inner, span in below:
                listing.add(f"{path}/{inner}", span)


def _resolve(path: str, links: dict[str, str]) -> str | None:
    """Where a path leads, every link on the way followed; None if out of the .tar, or in a circle."""
    for _ in range(MAX_LINKS):
        if path.startswith("/"):
            return None
        path = posixpath.normpath(path)
        parts = path.split("/")
        link = next((p for n in range(1, len(parts) + 1) if (p := "/".join(parts[:n])) in links), None)
        if link is None:
            return None if path.startswith("..") else path
        path = links[link] + path[len(link) :]
    return None


def _below(folder: str, members: _Members) -> Iterator[tuple[str, Span]]:
    """Files in and below a folder, links to files among them, by their path from it."""
    start = "" if folder == "." else f"{folder}/"
    for path, span in members.files.items():
        if path.startswith(start):
            yield path.removeprefix(start), span
    for path, target in members.links.items():
        if path.startswith(start) and (found := _resolve(target, members.links)) in members.files:
            yield path.removeprefix(start), members.files[found]
