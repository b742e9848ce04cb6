"""Images that are one and the same, by their bytes or by their pixels, whatever their names.

A file is first judged by its size and its last bytes; it is read whole only if another agrees in these. Pixels are
compared of images that are held in memory anyway: copies that were encoded anew are found among these.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeVar

import numpy as np

TAIL_BYTES = 4096
_READERS = 8  # threads

Found = TypeVar("Found")
Sketch = tuple[int, bytes]  # how many bytes, and a hash of the last


class Candidate(NamedTuple):
    """An image whose content may have to be read."""

    sketch: Sketch | None
    content: Callable[[], bytes | None]
    pixels: bytes | None = None


class Marks(NamedTuple):
    """Hashes of an image that is held in memory; None of what was not encoded."""

    sketch: Sketch | None
    content: bytes | None
    pixels: bytes

    def candidate(self) -> Candidate:
        return Candidate(self.sketch, lambda: self.content, self.pixels)


def hashed(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=16).digest()


def sketch(num_bytes: int, tail: bytes) -> Sketch:
    return num_bytes, hashed(tail)


def marks(content: bytes | None, pixels: np.ndarray) -> Marks:
    seen = hashed(repr(pixels.shape).encode() + pixels.tobytes())
    if content is None:
        return Marks(None, None, seen)
    return Marks(sketch(len(content), content[-TAIL_BYTES:]), hashed(content), seen)


def in_threads(function: Callable[[int], Found], count: int) -> list[Found]:
    """The function of 0, 1, … `count` - 1, which waits for the disk most of the time."""
    with ThreadPoolExecutor(_READERS) as pool:
        return list(pool.map(function, range(count), chunksize=256))


def content_keys(candidates: Sequence[Candidate]) -> list[list[Hashable]]:
    """Of each image, keys of which it shares one with its copies."""
    times = Counter(candidate.sketch for candidate in candidates)
    keys: list[list[Hashable]] = []
    for candidate in candidates:
        found: list[Hashable] = [] if candidate.pixels is None else [("pixels", candidate.pixels)]
        if candidate.sketch is not None and times[candidate.sketch] > 1:
            content = candidate.content()
            found += [] if content is None else [("content", content)]
        keys.append(found)
    return keys


def grouped(keys: Sequence[Sequence[Hashable]]) -> np.ndarray:
    """(n,) the group of each: those that share a key, directly or through others; numbered in order."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    first: dict[Hashable, int] = {}
    pairs = [(i, first.setdefault(key, i)) for i, found in enumerate(keys) for key in found]
    rows, columns = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    graph = coo_matrix((np.ones(len(rows), dtype=np.int8), (rows, columns)), shape=(len(keys), len(keys)))
    return connected_components(graph, directed=False)[1].astype(np.int64)
