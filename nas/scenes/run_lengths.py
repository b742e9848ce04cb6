"""The pixels of one object as run lengths, packed: COCO's form, which holds a mask in some hundred bytes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypedDict

import numpy as np


class RunLengths(TypedDict):
    """`size` is (height, width); `counts` are COCO's, packed in a string."""

    size: list[int]
    counts: str


def as_text(runs: dict[str, object]) -> RunLengths:
    """What the library packs into bytes, with a string in their place."""
    return {"size": list(runs["size"]), "counts": runs["counts"].decode()}  # type: ignore[call-overload, attr-defined]


def coco_masks() -> Any:
    """COCO's functions of run lengths: where classes alone are read, the library may be missing."""
    from faster_coco_eval import mask

    return mask


def is_whole(runs: RunLengths) -> bool:
    """Whether it can be unpacked, and its runs are as many pixels as it says: the library's other functions take less.

    Unlike unpacking, it takes some 30 µs for an object.
    """
    from faster_coco_eval import mask_api_new_cpp

    try:
        (plain,) = mask_api_new_cpp.toUncompressedRLE([runs])
    except (ValueError, RuntimeError):
        return False
    height, width = runs["size"]
    return bool(sum(plain["counts"]) == height * width)


def packed(masks: np.ndarray) -> list[RunLengths]:
    """
    Args:
        masks: (n, H, W), what is not 0 is inside.
    """
    columns = np.asfortranarray((masks != 0).astype(np.uint8).transpose(1, 2, 0))
    return [as_text(runs) for runs in coco_masks().encode(columns)]


def placed(window: np.ndarray, left: int, top: int, size: tuple[int, int]) -> RunLengths:
    """A mask (h, w) bool in an image of that (height, width), from (left, top) on; nothing is inside elsewhere.

    It is `packed` of the whole image, which takes its time by the window alone.
    """
    height, width = size
    edges = np.diff(np.pad(window, ((1, 1), (0, 0))).astype(np.int8), axis=0)
    columns, rows = edges.T.nonzero()
    places, times = np.unique((left + columns) * height + top + rows, return_counts=True)
    places = places[times == 1]  # what ends at the foot of a column goes on at the top of the next
    counts = np.diff(places, prepend=0, append=height * width).tolist()
    counts = counts[: len(counts) - (counts[-1] == 0)]
    return as_text(coco_masks().frPyObjects({"size": [height, width], "counts": counts}, height, width))


def unpacked(runs: Sequence[RunLengths], size: tuple[int, int]) -> np.ndarray:
    """(n, H, W) uint8, 1 inside, of masks that all have that (height, width)."""
    if not runs:
        return np.zeros((0, *size), dtype=np.uint8)
    return np.ascontiguousarray(coco_masks().decode(list(runs)).transpose(2, 0, 1))


def shrunk(runs: Sequence[RunLengths], size: tuple[int, int], to: tuple[int, int]) -> np.ndarray:
    """As `unpacked`, of another (height, width), by the nearest pixel: one after another, since a photo's fill the
    memory."""
    if to == size:
        return unpacked(runs, size)
    places = [
        ((np.arange(after) + 0.5) * before / after).astype(np.int64) for before, after in zip(size, to, strict=True)
    ]
    masks = np.zeros((len(runs), *to), dtype=np.uint8)
    for mask, one in zip(masks, runs, strict=True):
        mask[:] = coco_masks().decode([one])[..., 0][np.ix_(*places)]
    return masks
