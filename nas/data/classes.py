"""Names of classes: what may be one, in which order they stand, and files that list them."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from search_spaces import UserError


def composed(path: str) -> str:
    """In composed characters: macOS decomposes them in the names of files, others do not."""
    return unicodedata.normalize("NFC", path)


def class_name(folder: str) -> str:
    """The name of a class as a folder spells it, in composed characters."""
    return composed(folder)


def in_order(names: Iterable[str]) -> tuple[str, ...]:
    """By code points, as torchvision's ImageFolder has them: the same on every machine, whatever its locale."""
    return tuple(sorted(set(names)))


def shown(text: str) -> str:
    """On one line, and such that every terminal and text file can hold it."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def check_class_names(names: Iterable[str], where: str) -> None:
    """
    Args:
        where: the folder or file that the names are from, for the message.

    Raises:
        UserError: a name that a list with one name a line cannot hold.
    """
    for name in names:
        if problem := _problem(name):
            raise UserError(f"{where} has a class '{shown(name)}', whose name {problem}; rename it")


def _problem(name: str) -> str | None:
    if not name.strip():
        return "is empty"
    if any(unicodedata.category(c) == "Cs" for c in name):
        return "is not UTF-8"
    if len(name.splitlines()) > 1 or any(unicodedata.category(c) == "Cc" for c in name):
        return "holds a line break or another control character"
    return None


def read_classes(file: str, flag: str = "--classes") -> tuple[str, ...]:
    """The classes of a network in the order of its outputs.

    Args:
        file: a text with a name on each line; or JSON: a list of names, their `class_to_idx`, or names by number.
        flag: that gave it, for the messages.

    Raises:
        UserError: no such file; a name twice, or none; numbers that are not 0, 1, 2, …
    """
    path = Path(file).expanduser()
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"{flag} {file} is not UTF-8; give a text with one class a line, or JSON") from None
    except OSError as error:
        raise UserError(f"{flag} {file}: {error.strerror}; give a text with one class a line, or JSON") from None
    found = _from_json(f"{flag} {file}", text) if text.lstrip()[:1] in ("[", "{") else text.rstrip().split("\n")
    names = tuple(map(class_name, found))
    check_class_names(names, f"{flag} {file}")
    if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
        raise UserError(f"{flag} {file} has '{shown(twice[0])}' twice; name each class once")
    return names


def _from_json(where: str, text: str) -> list[str]:
    remedy = 'give a list of names, or {"name": number, …} with numbers from 0'
    try:
        raw = json.loads(text)
    except ValueError as error:
        raise UserError(f"{where} is no JSON ({error}); {remedy}") from None
    names = _by_number(raw) if isinstance(raw, dict) else raw
    if not names or not all(isinstance(name, str) for name in names):
        raise UserError(f"{where} is no list of classes; {remedy}")
    return list(names)


def _by_number(raw: dict[str, Any]) -> list[Any]:
    """Of {name: number} or {number: name}; nothing if it is neither."""
    numbers = {n: name for name, n in raw.items()} if all(type(n) is int for n in raw.values()) else _keys(raw)
    return [numbers[n] for n in range(len(raw))] if set(numbers) == set(range(len(raw))) else []


def _keys(raw: dict[str, Any]) -> dict[int, Any]:
    return {int(key): name for key, name in raw.items() if key.isascii() and key.isdigit()}
