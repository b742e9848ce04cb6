"""The images of scenes: each in the orientation of the size that its annotations give."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from PIL import Image

from nas.data.duplicates import in_threads
from nas.data.listing import Listing, some, warn
from nas.data.pixels import CORRUPT, Header, why_unreadable
from nas.data.sources import Decoded, Files, Skipped, files, held
from nas.scenes.formats.coco import Size
from search_spaces import UserError


@dataclass(frozen=True)
class Pictures:
    """Images by row.

    Args:
        turns: by path, of images that lie as they are stored: what brings them there from upright.
    """

    source: Files | Decoded
    turns: Mapping[str, Image.Transpose]

    def __len__(self) -> int:
        return len(self.source.labels)

    def image(self, row: int) -> Image.Image:
        image = self.source.image(row)
        turn = self.turns.get(self.source.paths[row])
        return image if turn is None else image.transpose(turn)

    def name(self, row: int) -> str:
        return self.source.name(row)


def open_pictures(
    listing: Listing,
    sizes: Mapping[str, Size],
    white_level: float | None,
    skipped: Skipped,
    of: str,
    upright: bool = False,
) -> Pictures:
    """The images of the listing, decoded if they fit in memory; those of another size are left out and told.

    Args:
        sizes: (width, height) in pixels that each image has, upright or as stored, by what is known of it.
        of: what says so, for the message: "the annotations".
        upright: what is known is of all images upright.

    Raises:
        UserError: no image is left.
    """
    headers = dict(zip(listing.images, _headers(_files(listing, white_level)), strict=True))
    known = {path: header for path, header in headers.items() if header is not None}
    wrong = [path for path, header in known.items() if sizes[path] not in (header.size, header.upright_size)]
    tried = len(listing.images)
    listing.leave_out(wrong, f"of another size than {of}")
    listing.tell()
    if not listing.images:
        raise UserError(f"{listing.name}: all {tried} images are of another size than {of}; give those they were of")
    turned = {path: known[path] for path in listing.images if path in known and known[path].turn is not None}
    turns = {} if upright else _turns(turned, sizes, listing.name, of)
    source = held(_files(listing, white_level), listing.name, skipped)
    assert isinstance(source, Files | Decoded)
    return Pictures(source, turns)


def _turns(turned: Mapping[str, Header], sizes: Mapping[str, Size], where: str, of: str) -> dict[str, Image.Transpose]:
    """What turns images back that are to lie as they are stored, by path.

    A half turn, a mirror image and a square have one size either way: they lie as all do whose sizes tell.
    """
    as_stored = {path for path, header in turned.items() if header.size == sizes[path]}
    as_seen = {path for path, header in turned.items() if header.upright_size == sizes[path]}
    unclear = as_stored & as_seen
    all_stored, all_seen = as_seen == unclear, as_stored == unclear  # of those whose sizes tell
    if unclear and all_stored == all_seen:
        warn(
            f"{where}: {len(unclear)} images are noted as turned or mirrored (EXIF), and no size says whether {of} are "
            f"of them as stored ({some(sorted(unclear), 2)}): they are taken as of the upright images"
        )
    back = as_stored if all_stored and not all_seen else as_stored - unclear
    return {path: turn for path in back if (turn := turned[path].turn_back) is not None}


def upright_sizes(listing: Listing) -> dict[str, Size]:
    """(width, height) in pixels of its images by path, without the corrupt ones."""
    headers = zip(listing.images, _headers(_files(listing, None)), strict=True)
    return {path: header.upright_size for path, header in headers if header is not None}


def _files(listing: Listing, white_level: float | None) -> Files:
    """With one class for all: what is on an image is said elsewhere."""
    return files(listing, np.zeros(len(listing.images), dtype=np.int64), ("",), white_level)


def _headers(found: Files) -> list[Header | None]:
    """None of a corrupt image, which is told when it is to be read."""

    def header(position: int) -> Header | None:
        try:
            return found.header(position)
        except CORRUPT as error:
            why_unreadable(error)
            return None

    return in_threads(header, len(found.paths))
