"""Images that must not be parted: copies of one another, and what the user's expression says belongs together."""

from __future__ import annotations

import re
from collections.abc import Hashable, Sequence

import numpy as np

from nas.data.duplicates import Candidate, content_keys, grouped
from nas.data.listing import some, warn
from nas.data.named import Named
from nas.data.sources import Source
from search_spaces import UserError


def groups_of(
    source: Source, labels: np.ndarray, test: Source | None, group_by: str | None, allow_duplicates: bool, name: str
) -> tuple[np.ndarray, np.ndarray]:
    """(n,) the group of each training image, and (n,) whether it is a copy of a test image.

    What is found is told.

    Args:
        name: of the data, for messages.

    Raises:
        UserError: no path matches `group_by`.
    """
    count = len(labels)
    paths = [] if group_by is None else _path_keys(source, group_by, name)
    contents: list[list[Hashable]] = [[] for _ in range(count + (len(test.labels) if test else 0))]
    if not allow_duplicates:
        contents = content_keys([*_candidates(source), *(_candidates(test) if test else [])])
    same = grouped(contents)
    tested = np.isin(same[:count], same[count:])
    _tell_copies(source, same[:count], labels, name)
    if tested.any():
        found = [source.name(i) for i in np.flatnonzero(tested)[:6]]
        warn(
            f"{name}: left out {tested.sum()} training images that are copies of test images ({some(found, 2)}); "
            "--allow-duplicates keeps them"
        )
    if not paths:
        return same[:count], tested
    if test is not None:
        _tell_shared(paths, test, group_by or "", name)
    return grouped([[*a, *b] for a, b in zip(contents[:count], paths, strict=True)]), tested


def _candidates(source: Source) -> Sequence[Candidate]:
    """None are copies where nothing is known of the content: a named data set that is too large for memory."""
    found = [] if isinstance(source, Named) else source.candidates()
    return found or [Candidate(None, lambda: None)] * len(source.labels)


def _tell_copies(source: Source, same: np.ndarray, labels: np.ndarray, name: str) -> None:
    firsts, first, number = np.unique(same, return_index=True, return_inverse=True)
    if len(firsts) == len(same):
        return
    copies = np.setdiff1d(np.arange(len(same)), first)
    example = copies[0]
    pair = f"{source.name(example)} of {source.name(first[number[example]])}"
    other = labels != labels[first[number]]
    conflict = (
        f"; {other.sum()} of them lie in another class, such as {source.name(other.argmax())}" if other.any() else ""
    )
    warn(
        f"{name}: {len(copies)} of {len(same)} images are copies of others ({pair}){conflict}; "
        "copies stay on one side of every split"
    )


def _path_keys(source: Source, group_by: str, name: str) -> list[list[Hashable]]:
    assert not isinstance(source, Named)
    found = [re.search(group_by, path) for path in source.paths]
    keys: list[list[Hashable]] = [[match.groups() or match[0]] if match else [] for match in found]
    matched = sum(map(bool, keys))
    if not matched:
        raise UserError(f"--group-by {group_by!r} matches no path of {name}, such as {source.name(0)}; mend it")
    if matched < len(keys):
        lone = [source.name(i) for i, key in enumerate(keys) if not key]
        warn(f"{name}: --group-by does not match {len(lone)} paths ({some(lone, 2)}); each is a group of its own")
    return keys


def _tell_shared(paths: list[list[Hashable]], test: Source, group_by: str, name: str) -> None:
    """The test images are given, so their groups cannot be kept from training; the user must know."""
    tested = {match.groups() or match[0] for path in getattr(test, "paths", ()) if (match := re.search(group_by, path))}
    if shared := tested & {key for keys in paths for key in keys}:
        warn(f"{name}: {len(shared)} groups of --group-by are among the training and the test images")
