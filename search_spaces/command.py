"""What every command line of the project shares: a typed config from flags, and errors in one line."""

from __future__ import annotations

import argparse
import dataclasses
import sys
import types
import typing
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

Config = TypeVar("Config")


class UserError(Exception):
    """A mistake that the user can mend. The message, one line, gives the value, the allowed range and the remedy."""


def flag(default: Any, help: str, **metadata: Any) -> Any:  # noqa: A002
    """A dataclass field that is a command-line flag.

    Args:
        metadata: `positional=True`, or bounds on a number: `minimum`, `above` (exclusive), `maximum`, `below`.
    """
    return dataclasses.field(default=default, metadata={"help": help, **metadata})


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> typing.NoReturn:
        raise UserError(f"{message}; see {self.prog} --help")


def parse(config: type[Config], argv: Sequence[str] | None, prog: str, description: str) -> Config:
    """`argv` as an instance of the dataclass `config`: one flag a field, `--like-this`, checked against its bounds.

    Field types: int, float, str, bool (`--x` / `--no-x`), Literal, any of these `| None`, and tuples of one (a flag
    that takes several values).
    """
    parser = _Parser(prog=prog, description=description, allow_abbrev=False)
    hints = typing.get_type_hints(config)
    for field in dataclasses.fields(config):  # type: ignore[arg-type]
        _add(parser, field, hints[field.name])
    values = vars(parser.parse_args(argv))
    for field in dataclasses.fields(config):  # type: ignore[arg-type]
        if isinstance(values[field.name], list):
            values[field.name] = tuple(values[field.name])
        check_bounds(field, values[field.name])
    return config(**values)


def _add(parser: argparse.ArgumentParser, field: dataclasses.Field[Any], hint: Any) -> None:
    name = f"--{field.name.replace('_', '-')}"
    options: dict[str, Any] = {"default": field.default, "help": field.metadata["help"].replace("%", "%%")}
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        hint = next(t for t in typing.get_args(hint) if t is not type(None))
    if typing.get_origin(hint) is tuple:
        options["nargs"] = "*"
        hint = typing.get_args(hint)[0]
    if hint is bool:
        parser.add_argument(name, action=argparse.BooleanOptionalAction, **options)
        return
    if typing.get_origin(hint) is typing.Literal:
        options["choices"] = typing.get_args(hint)
        hint = type(options["choices"][0])
    if field.default not in (None, "", ()):
        options["help"] += f" (default: {field.default})"
    if field.metadata.get("positional"):
        options.setdefault("nargs", "?")
        parser.add_argument(field.name, type=hint, **options)
        return
    parser.add_argument(name, type=hint, **options)


_BOUNDS: dict[str, tuple[str, Callable[[float, float], bool]]] = {
    "minimum": ("at least", lambda value, bound: value >= bound),
    "above": ("above", lambda value, bound: value > bound),
    "maximum": ("at most", lambda value, bound: value <= bound),
    "below": ("below", lambda value, bound: value < bound),
}


def check_bounds(field: dataclasses.Field[Any], value: Any) -> None:
    """UserError if a number lies outside the bounds of its flag (NaN lies outside all)."""
    bounds = {k: v for k, v in field.metadata.items() if k in _BOUNDS}
    if value is None or not bounds:
        return
    if not all(_BOUNDS[k][1](value, bound) for k, bound in bounds.items()):
        allowed = " and ".join(f"{_BOUNDS[k][0]} {bound}" for k, bound in bounds.items())
        raise UserError(f"--{field.name.replace('_', '-')} is {value}; give a number {allowed}")


def run(main: Callable[[], None]) -> typing.NoReturn:
    """Calls `main` and exits: 0, 2 with one line for a user's mistake, 130 for Ctrl-C."""
    try:
        main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted; what was written is complete, the same command with --resume goes on", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # the reader of our output, `head` say, has left
        sys.stderr.close()
        sys.exit(1)
    sys.exit(0)
