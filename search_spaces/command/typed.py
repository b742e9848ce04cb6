"""JSON into frozen dataclasses and typed dicts, with everything that does not fit listed: the reader of every file.

A dataclass has exactly its fields, of which those that are None or () unless given may be left out. A `TypedDict` says
what a reader takes of an object that may hold more; it stays a dict. `Annotated[type, check, …]` allows only some
values of a type.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import sys
import types
import typing
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired, TypeVar

from search_spaces.command.files import read_json, read_json_lines
from search_spaces.command.flags import UserError
from search_spaces.command.terminal import SHOWN, is_text, shown

T = TypeVar("T")
Check = Callable[[Any], None]  # ValueError on a value that is not allowed: "is 3; give a number from 0 to 1"
LARGEST_INT = 2**63 - 1  # what numpy, databases and other programs can hold
MOST = 20  # problems that are listed


@dataclasses.dataclass(frozen=True)
class Within:
    """Numbers from `least` to `most`."""

    least: float
    most: float

    def __call__(self, value: float) -> None:
        if not self.least <= value <= self.most:
            raise ValueError(f"is {value}; give a number from {self.least:g} to {self.most:g}")


Fraction = Annotated[float, Within(0, 1)]
Amount = Annotated[float, Within(0, 1e15)]
Positive = Annotated[float, Within(1e-12, 1e15)]
Count = Annotated[int, Within(0, 1e15)]


def load_typed(hint: type[T], path: Path, remedy: str) -> T:
    """The JSON file as the type `hint`.

    Raises:
        UserError: it cannot be read, or holds something else; the message names the file, each place and its value.
    """
    return _told(hint, read_json(path), path.name, path, remedy)


def load_typed_lines(hint: type[T], path: Path, remedy: str) -> list[T]:
    """The lines of a log as the type `hint`, none if there is no file. UserError as `load_typed`."""
    lines = enumerate(read_json_lines(path), 1)
    return [_told(hint, line, f"line {number}", path, remedy) for number, line in lines]


def _told(hint: type[T], value: Any, where: str, path: Path, remedy: str) -> T:
    try:
        return read_typed(hint, value, where)
    except ValueError as error:
        raise UserError(f"{path} is not of this version ({error}); {remedy}") from None


def read_typed(hint: type[T], value: Any, where: str) -> T:
    """`value`, from JSON, as the type `hint`: of dataclasses, typed dicts, dicts, tuples, lists, numbers, texts,
    `Literal`, `X | None`.

    Texts hold no control characters but tabs and line breaks: they reach terminals.

    Raises:
        ValueError: one line with every place that has another shape, is not finite, or that its dataclass or check
            refuses with a ValueError (or UserError).
    """
    problems: list[str] = []
    result = _read(hint, value, where, problems)
    if problems:
        more = [f"and {len(problems) - MOST} more"] if len(problems) > MOST else []
        raise ValueError("; ".join([*problems[:MOST], *more]))
    return typing.cast(T, result)


def _read(hint: Any, value: Any, where: str, problems: list[str]) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin is Annotated:
        return _read_checked(arguments[0], arguments[1:], value, where, problems)
    if origin is Literal:
        return _read_literal(arguments, value, where, problems)
    if origin in (types.UnionType, typing.Union):
        return None if value is None else _read(arguments[0], value, where, problems)
    if isinstance(value, dict):
        if dataclasses.is_dataclass(hint):
            return _read_fields(hint, value, where, problems)
        if typing.is_typeddict(hint):
            return _read_keys(hint, value, where, problems)
        if origin in (dict, collections.abc.Mapping):
            return {name: _read(arguments[1], item, _inside(where, name), problems) for name, item in value.items()}
    if origin in (tuple, list) and isinstance(value, list):
        return origin(_read(arguments[0], item, f"{where}.{i}", problems) for i, item in enumerate(value))
    if _is_plain(hint, value):
        return float(value) if hint is float else value
    problems.append(f"{where} is {shown(value)}, not a valid {getattr(origin or hint, '__name__', hint)}")
    return None


def _is_plain(hint: Any, value: Any) -> bool:
    """Whether it is a number or text of this type."""
    if hint is float:
        return type(value) in (int, float) and abs(value) <= sys.float_info.max  # not NaN either
    if type(value) is not hint:
        return False
    if hint is int:
        return bool(abs(value) <= LARGEST_INT)
    return hint is bool or (hint is str and is_text(value))


def _inside(where: str, name: str) -> str:
    """The place of that name in an object."""
    return f"{where}.{_key(name)}"


def _key(name: str) -> str:
    return name if name.isprintable() and len(name) <= 3 * SHOWN else shown(name)


def _read_checked(hint: Any, checks: tuple[Check, ...], value: Any, where: str, problems: list[str]) -> Any:
    before = len(problems)
    result = _read(hint, value, where, problems)
    for check in checks if len(problems) == before else ():
        try:
            check(result)
        except ValueError as error:
            problems.append(f"{where} {error}")
    return result


def _read_literal(choices: tuple[Any, ...], value: Any, where: str, problems: list[str]) -> Any:
    if value not in choices:
        problems.append(f"{where} is {shown(value)}; choose from {', '.join(map(str, choices))}")
    return value


@cache
def _hints(hint: Any) -> Mapping[str, Any]:
    return typing.get_type_hints(hint, include_extras=True)


def _read_keys(hint: Any, value: dict[str, Any], where: str, problems: list[str]) -> dict[str, Any]:
    result = dict(value)
    for name, of in _hints(hint).items():
        optional = typing.get_origin(of) is NotRequired
        if name in value:
            of = typing.get_args(of)[0] if optional else of
            result[name] = _read(of, value[name], _inside(where, name), problems)
        elif not optional:
            problems.append(f"{where} has no {name}")
    return result


def _read_fields(hint: Any, value: dict[str, Any], where: str, problems: list[str]) -> Any:
    before = len(problems)
    hints = {field.name: _hints(hint)[field.name] for field in dataclasses.fields(hint)}
    needed = [field.name for field in dataclasses.fields(hint) if field.default not in (None, ())]
    problems += [f"{where} has no {name}" for name in needed if name not in value]
    problems += [f"{where} has an unknown {_key(name)}" for name in value if name not in hints]
    fields = {n: _read(hints[n], item, _inside(where, n), problems) for n, item in value.items() if n in hints}
    if len(problems) > before:
        return None
    try:
        return hint(**fields)
    except (ValueError, UserError) as error:
        problems.append(f"{where}: {error}")
        return None
