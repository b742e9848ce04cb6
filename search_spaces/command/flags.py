"""What every command line of the project shares: a typed config from flags, and errors in one line."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import errno
import math
import numbers
import os
import shlex
import signal
import sys
import types
import typing
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar, TypeVar

from search_spaces.command import start
from search_spaces.command.terminal import is_text


class UserError(Exception):
    """A mistake that the user can mend. The message, one line, gives the value, the allowed range and the remedy."""


def flag(default: Any, help: str, **metadata: Any) -> Any:  # noqa: A002
    """A dataclass field that is a command-line flag.

    Args:
        metadata: `positional=True`, or bounds on a number: `minimum`, `above` (exclusive), `maximum`, `below`.
    """
    return dataclasses.field(default=default, metadata={"help": help, **metadata})


@dataclasses.dataclass(frozen=True)
class Flags:
    """A frozen dataclass whose fields are flags; its values are checked when it is built, by a command line or not.

    Raises:
        UserError: a value out of its flag's bounds, none of its choices, or a text that no file of ours can hold.
    """

    _given: ClassVar[frozenset[str] | None] = None  # fields that a command line gave, of what `parse` has returned

    def __post_init__(self) -> None:
        hints = typing.get_type_hints(type(self))
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            check_bounds(field, value)
            _check_choices(field, hints[field.name], value)
            _check_texts(field, value)


Config = TypeVar("Config", bound=Flags)


def given(config: Flags) -> frozenset[str]:
    """The fields that the command line gave, also where they are the defaults; those that differ if there was none."""
    if config._given is not None:
        return config._given
    return frozenset(f.name for f in dataclasses.fields(config) if getattr(config, f.name) != f.default)


def amend(config: Config, **changes: Any) -> Config:
    """`dataclasses.replace`, with the same fields given."""
    return _mark(dataclasses.replace(config, **changes), given(config))


def fill(config: Config, defaults: Config) -> Config:
    """The config, with the values of `defaults` in place of what was not given."""
    names = given(config)
    return _mark(dataclasses.replace(defaults, **{name: getattr(config, name) for name in names}), names)


def check_given(config: Config, begun: Config, where: Any, names: Sequence[str]) -> None:
    """What was begun goes on at other places of the network only if the command line names them again.

    The file that says how it was begun may be from someone else.

    Args:
        begun: with what it was.
        where: it lies, for the message.
        names: fields that are such places.

    Raises:
        UserError: one of them was given when it was begun, and is not now.
    """
    for field in dataclasses.fields(config):
        address = getattr(begun, field.name)
        if field.name in names and address is not None and field.name not in given(config):
            flag_name = _spelling(field)
            raise UserError(
                f"{where} was begun with {flag_name} {address}; give that again, for no file says what to connect to"
            )


def _mark(config: Config, names: frozenset[str]) -> Config:
    object.__setattr__(config, "_given", names)
    return config


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> typing.NoReturn:
        raise UserError(f"{message}; see {self.prog} --help")


def parse(config: type[Config], argv: Sequence[str] | None, prog: str, description: str) -> Config:
    """`argv` as an instance of `config`: one flag a field, `--like-this`; `given` knows which there were.

    Field types: int, float (finite), str, bool (`--x` / `--no-x`), Literal, any of these `| None`, and
    `tuple[one of these, ...]` (a flag that takes several values).

    Raises:
        UserError: an unknown flag, a value of the wrong type, not among the choices or out of bounds.
    """
    layout = argparse.RawDescriptionHelpFormatter
    parser = _Parser(prog=prog, description=description, formatter_class=layout, allow_abbrev=False)
    hints = typing.get_type_hints(config)
    for field in dataclasses.fields(config):
        _add(parser, field, hints[field.name])
    values = {name: tuple(v) if isinstance(v, list) else v for name, v in vars(parser.parse_args(argv)).items()}
    return _mark(config(**values), frozenset(values))


def settings(config: type[Config], **values: Any) -> Config:
    """An instance of `config` with these fields given, as by a command line.

    Args:
        values: of a flag that takes several, a list or tuple of them, or one. Paths and numbers may be given for texts,
            NumPy's numbers for Python's.

    Raises:
        UserError: no such field; a value of the wrong type, out of bounds or none of the choices.
    """
    names = {field.name: field for field in dataclasses.fields(config)}
    if unknown := next((name for name in values if name not in names), None):
        near = difflib.get_close_matches(unknown, names, 3)
        raise UserError(f"there is no setting {unknown!r}; choose from {', '.join(near or names)}")
    hints = typing.get_type_hints(config)
    held = {name: _held(_spelling(names[name]), hints[name], value) for name, value in values.items()}
    return _mark(config(**held), frozenset(held))


def _held(name: str, hint: Any, value: Any) -> Any:
    """As a field of that type holds it; UserError, with the name, if it cannot."""
    if typing.get_origin(hint) is tuple:
        several = value if isinstance(value, list | tuple) else (value,)
        return tuple(_held(name, typing.get_args(hint)[0], each) for each in several)
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        if value is None:
            return None
        hint = next(t for t in typing.get_args(hint) if t is not type(None))
    choices = typing.get_args(hint)  # of a Literal, whose values are checked when the config is built
    kind = type(choices[0]) if choices else hint
    is_bool = type(value).__name__ in ("bool", "bool_")  # NumPy's too, which is no number, where Python's is
    if kind is bool and is_bool:
        return bool(value)
    if kind is int and isinstance(value, numbers.Integral) and not is_bool:
        return int(value)
    if kind is float and isinstance(value, numbers.Real) and not is_bool and math.isfinite(value):
        return float(value)
    if kind is str and isinstance(value, str | os.PathLike | numbers.Real) and not is_bool:
        return str(value)
    if choices and not is_bool:
        return value
    raise UserError(f"{name} is {value!r}; give {_KINDS[kind]}")


def spell(module: str, config: Flags) -> str:
    """The command line of the module that parses into this config: what was given or is not default, as flags."""
    words, names, hints = ["python", "-m", module], given(config), typing.get_type_hints(type(config))
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if value == field.default and (field.name not in names or not _can_be_typed(hints[field.name], value)):
            continue
        name = _spelling(field)
        if isinstance(value, bool):
            words.append(name if value else name.replace("--", "--no-", 1))
            continue
        words += [] if field.metadata.get("positional") else [name]
        words += map(str, value) if isinstance(value, tuple) else ["none" if value is None else str(value)]
    return shlex.join(words)


def _can_be_typed(hint: Any, value: Any) -> bool:
    """Whether a flag can say so: of what is not there only that it is no number."""
    return bool({int, float} & {*typing.get_args(hint)}) if value is None else value != ()


def flags_given(config: Flags, of: type[Flags] | None = None) -> list[str]:
    """The flags that were given, in their order.

    Args:
        of: only those of this class, from which the config's class inherits.
    """
    return [_spelling(field) for field in dataclasses.fields(of or config) if field.name in given(config)]


def check_idle(config: Flags, names: Iterable[str], use: str) -> None:
    """UserError if one of these fields was given, where nothing reads them.

    Args:
        use: what they are for.
    """
    idle = [_spelling(field) for field in dataclasses.fields(config) if field.name in {*names} & given(config)]
    if idle:
        are, them = ("is", "it") if len(idle) == 1 else ("are", "them")
        raise UserError(f"{', '.join(idle)} {are} for {use}; leave {them} out")


def _spelling(field: dataclasses.Field[Any]) -> str:
    """A trailing underscore only keeps the field's name from being a keyword: `from_` is --from."""
    name = field.name.rstrip("_")
    return name if field.metadata.get("positional") else f"--{name.replace('_', '-')}"


def _add(parser: argparse.ArgumentParser, field: dataclasses.Field[Any], hint: Any) -> None:
    options: dict[str, Any] = {"default": argparse.SUPPRESS, "help": field.metadata["help"].replace("%", "%%")}
    optional = typing.get_origin(hint) in (types.UnionType, typing.Union)
    if optional:
        hint = next(t for t in typing.get_args(hint) if t is not type(None))
    if hint is bool:
        parser.add_argument(_spelling(field), action=argparse.BooleanOptionalAction, **options)
        return
    positional = field.metadata.get("positional")
    if typing.get_origin(hint) is tuple:
        options["nargs"] = "*" if positional else "+"
        options["action"] = _Several
        hint = typing.get_args(hint)[0]
    elif positional:
        options["nargs"] = "?"
    if typing.get_origin(hint) is typing.Literal:
        options["metavar"] = "{" + ",".join(map(str, typing.get_args(hint))) + "}"
    if field.default not in (None, "", ()):
        default = " ".join(map(str, field.default)) if isinstance(field.default, tuple) else field.default
        options["help"] += f" (default: {default})".replace("%", "%%")
    if not positional:
        options["dest"] = field.name
    parser.add_argument(_spelling(field), type=_converter(_spelling(field), hint, optional), **options)


class _Several(argparse.Action):
    """Values of a flag that is given once or several times."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        setattr(namespace, self.dest, [*getattr(namespace, self.dest, ()), *values])


def _converter(name: str, hint: Any, optional: bool) -> Callable[[str], Any]:
    """From text; numbers that may be left out can be taken back by "none", as a limit of a search that goes on."""
    choices = typing.get_args(hint)  # of a Literal
    kind = type(choices[0]) if choices else hint
    allowed = f"choose from {', '.join(map(str, choices))}" if choices else f"give {_KINDS[kind]}"

    def convert(text: str) -> Any:
        if optional and kind in (int, float) and text.lower() == "none":
            return None
        try:
            value = kind(text)
        except ValueError:
            raise UserError(f"{name} is {text!r}; {allowed}") from None
        if (choices and value not in choices) or (kind is float and not math.isfinite(value)):
            raise UserError(f"{name} is {text!r}; {allowed}")
        return value

    return convert


_KINDS = {int: "a whole number", float: "a finite number", str: "a text", bool: "True or False"}

_BOUNDS: dict[str, tuple[str, Callable[[float, float], bool]]] = {
    "minimum": ("at least", lambda value, bound: value >= bound),
    "above": ("above", lambda value, bound: value > bound),
    "maximum": ("at most", lambda value, bound: value <= bound),
    "below": ("below", lambda value, bound: value < bound),
}


def check_bounds(field: dataclasses.Field[Any], value: Any) -> None:
    """UserError if a number, or one of several, lies outside the bounds of its flag (NaN lies outside all)."""
    bounds = {k: v for k, v in field.metadata.items() if k in _BOUNDS}
    if value is None or not bounds:
        return
    for number in value if isinstance(value, tuple) else (value,):
        if not all(_BOUNDS[k][1](number, bound) for k, bound in bounds.items()):
            allowed = " and ".join(f"{_BOUNDS[k][0]} {bound}" for k, bound in bounds.items())
            raise UserError(f"{_spelling(field)} is {number}; give a number {allowed}")


def _check_choices(field: dataclasses.Field[Any], hint: Any, value: Any) -> None:
    """UserError if a Literal has another value."""
    while typing.get_origin(hint) in (types.UnionType, typing.Union, tuple):
        hint = typing.get_args(hint)[0]
    if value is None or typing.get_origin(hint) is not typing.Literal:
        return
    choices = typing.get_args(hint)
    for each in value if isinstance(value, tuple) else (value,):
        if each not in choices:
            raise UserError(f"{_spelling(field)} is {each!r}; choose from {', '.join(map(str, choices))}")


def _check_texts(field: dataclasses.Field[Any], value: Any) -> None:
    """UserError if a text is none that a file can hold: what is given is recorded, and read again by later commands."""
    for each in value if isinstance(value, tuple) else (value,):
        if isinstance(each, str) and not is_text(each):
            raise UserError(
                f"{_spelling(field)} is {each!r}, which is not UTF-8 or has control characters; rename what it names"
            )


def run(main: Callable[[], None], after_interrupt: str = "start it again") -> typing.NoReturn:
    """Calls `main` and exits: 0; 2, with one line, for what the user can mend; 130 for Ctrl-C.

    Args:
        after_interrupt: how to go on after Ctrl-C, e.g. "go on with --resume".
    """
    start.stay_offline()  # also what was not started by `python -m`
    signal.signal(signal.SIGINT, signal.default_int_handler)
    code, message = _ended(main, after_interrupt)  # and what an error held, open files say, is free
    if code:
        _leave(code, message)
    sys.exit(0)


def _ended(main: Callable[[], None], after_interrupt: str) -> tuple[int, str]:
    """The exit code of `main`, and what to say."""
    try:
        main()
        sys.stdout.flush()
    except UserError as error:
        return 2, f"error: {error}"
    except KeyboardInterrupt:
        return 130, f"interrupted; the files written so far are whole: {after_interrupt}"
    except BrokenPipeError:  # the reader of our output, `head` say, has left
        return 1, ""
    except OSError as error:
        if error.errno not in _ENVIRONMENT:
            raise
        place = f"{error.filename or 'output':.100}"
        return 2, f"error: {place}: {error.strerror}; {_ENVIRONMENT[error.errno]}"
    except (MemoryError, RuntimeError) as error:
        if not _out_of_memory(error):
            raise
        return 2, "error: out of memory; give a smaller --batch-size, --image-size or space"
    return 0, ""


_ENVIRONMENT = {
    errno.ENOSPC: "free some space and go on",
    errno.EDQUOT: "free some space and go on",
    errno.EFBIG: "write to another disk, or raise the limit of a file (ulimit -f)",
    errno.EIO: "the disk fails, or is no longer there: use another",
    errno.EROFS: "write to another folder",
    errno.EMFILE: "raise the limit (ulimit -n), or give fewer --num-workers",
    errno.ENFILE: "end other programs, or give fewer --num-workers",
    errno.EACCES: "change its permissions or give another path",
    errno.ENAMETOOLONG: "give a shorter name or path",
    errno.ELOOP: "its links lead in a circle; give another path",
}


def _leave(code: int, message: str) -> typing.NoReturn:
    try:
        sys.stdout.flush()
    except OSError:  # what is left in the buffer would raise once more at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if message:
        line = " ".join(message.splitlines())
        print("".join(c if c.isprintable() else ascii(c)[1:-1] for c in line), file=sys.stderr)
    sys.exit(code)


def _out_of_memory(error: Exception) -> bool:
    """True also for torch's errors: on CUDA a class of its own, on a CPU a RuntimeError with a fixed text."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or "DefaultCPUAllocator: can't allocate memory" in str(error)
    )
