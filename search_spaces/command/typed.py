"""JSON into frozen dataclasses, with everything that does not fit listed."""

from __future__ import annotations

import dataclasses
import sys
import types
import typing
from typing import Any, TypeVar

T = TypeVar("T")


def read_typed(hint: type[T], value: Any, where: str) -> T:
    """`value`, from JSON, as the type `hint`: a dataclass of dataclasses, dicts, tuples, numbers, texts, `X | None`.

    Raises:
        ValueError: one line with every place that has another shape, is not finite, or that its dataclass refuses with
            a ValueError.
    """
    problems: list[str] = []
    result = _read(hint, value, where, problems)
    if problems:
        raise ValueError("; ".join(problems))
    return typing.cast(T, result)


def _read(hint: Any, value: Any, where: str, problems: list[str]) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin is typing.Literal and value in arguments:
        return value
    if origin in (types.UnionType, typing.Union):
        return None if value is None else _read(arguments[0], value, where, problems)
    if dataclasses.is_dataclass(hint) and isinstance(value, dict):
        return _read_fields(hint, value, where, problems)
    if origin is dict and isinstance(value, dict):
        return {name: _read(arguments[1], item, f"{where}.{name}", problems) for name, item in value.items()}
    if origin is tuple and isinstance(value, list):
        return tuple(_read(arguments[0], item, f"{where}.{i}", problems) for i, item in enumerate(value))
    if hint is float and type(value) in (int, float) and abs(value) <= sys.float_info.max:  # not NaN either
        return float(value)
    if hint in (int, str, bool) and type(value) is hint:
        return value
    problems.append(f"{where} is {value!r}, not a valid {getattr(origin or hint, '__name__', hint)}")
    return None


def _read_fields(hint: Any, value: dict[str, Any], where: str, problems: list[str]) -> Any:
    known, before = typing.get_type_hints(hint), len(problems)
    hints = {field.name: known[field.name] for field in dataclasses.fields(hint)}
    missing, unknown = hints.keys() - value.keys(), value.keys() - hints.keys()
    problems += [f"{where} has no {name}" for name in hints if name in missing]
    problems += [f"{where} has an unknown {name}" for name in value if name in unknown]
    fields = {n: _read(hints[n], item, f"{where}.{n}", problems) for n, item in value.items() if n in hints}
    if len(problems) > before:
        return None
    try:
        return hint(**fields)
    except ValueError as error:
        problems.append(f"{where}: {error}")
        return None
