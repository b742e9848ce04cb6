"""Ways in which a file that someone sent can be another than the one that a command expects."""

from __future__ import annotations

import copy
import json
import struct
from collections.abc import Iterator, Sequence
from typing import Any

Input = tuple[str, bytes | None]  # a name for people, and what the file then holds; None stands for a folder

MISSING = object()
NAN, HUGE, NEGATIVE = float("nan"), 10**30, -(10**15)
CONTROL = "\x1b[31mred\x00"
PATH = "../../../elsewhere"
DEEP = "[" * 100_000

# By the type of a value: what it may not be. None is of a field that may be null.
WRONG: dict[type, list[Any]] = {
    bool: ["yes", 3, None, MISSING],
    int: [{"a": 1}, NAN, "12", HUGE, None, NEGATIVE, MISSING],
    float: ["12", NAN, NEGATIVE, [1.0], HUGE, MISSING, None],
    str: [3, CONTROL, None, MISSING, ["a"], "\ud800"],
    list: ["abc", 3, MISSING, [[[]]], None, {}],
    dict: [[1], "abc", MISSING, None, 3],
    type(None): [{"a": 1}, ["x"]],
}
LINES = ("garbage", DEEP, "[]", "3", "null", "1" * 5000)
WHOLE: list[bytes | None] = [b"", None, b"\xff\xfe\x80", DEEP.encode(), b"1" * 5000, b"[]", b"3", b'{"a": 1}']


def spell(value: Any) -> str:
    return "missing" if value is MISSING else repr(value)[:30]


def damaged(content: bytes, fields: str, number: Iterator[int]) -> Iterator[Input]:
    """Names and contents of a JSON file: two that are no such file at all, and one for each field.

    Args:
        fields: by dots, "name:path" where the value names a file, "name?" where it may be missing or null.
        number: goes on from file to file, so that in the end every way of being wrong has been taken.
    """
    yield "cut", content[: len(content) // 2]
    yield other(number)
    document = json.loads(content)
    for field in fields.split():
        for value in _values(document, field, number):
            changed = put(document, _place(field), value)
            yield f"{field}={spell(value)}", json.dumps(changed).encode()


def damaged_lines(content: bytes, fields: str, number: Iterator[int]) -> Iterator[Input]:
    """The same of a log, whose fields begin with the number of their line."""
    lines = content.decode().splitlines()

    def joined(line: int, text: str) -> bytes:
        return "".join(f"{t}\n" for t in [*lines[:line], text, *lines[line + 1 :]]).encode()

    for _ in range(3):
        text = LINES[next(number) % len(LINES)]
        yield f"line 2 is {text[:9]}", joined(1, text)
    yield other(number, WHOLE[1:])  # a log may be empty
    for field in fields.split():
        line, _, inside = field.partition(".")
        document = json.loads(lines[int(line)])
        for value in _values(document, inside, number):
            yield f"{field}={spell(value)}", joined(int(line), json.dumps(put(document, _place(inside), value)))


def damaged_tensors(content: bytes, fields: str, number: Iterator[int]) -> Iterator[Input]:
    """The same of a safetensors file, whose fields are those of the JSON in its header."""
    length = struct.unpack("<Q", content[:8])[0]
    header, tensors = json.loads(content[8 : 8 + length]), content[8 + length :]

    def written(**changes: Any) -> bytes:
        text = json.dumps({k: v for k, v in {**header, **changes}.items() if v is not None}).encode()
        return struct.pack("<Q", len(text)) + text + tensors

    yield "cut", content[:-100]
    yield "a header without end", struct.pack("<Q", 2**60) + content[8:]
    yield other(number)
    last = [name for name in header if name != "__metadata__"][-1]
    yield "a tensor less", written(**{last: None})
    yield "a tensor under another name", written(**{last: None, f"../{last}": header[last]})
    yield "a tensor outside", written(**{last: {**header[last], "shape": [10**9, 10**9]}})
    yield "no number", content[: 8 + length] + b"\xff" * len(tensors)
    info = json.loads(header["__metadata__"]["info"])
    text = LINES[next(number) % len(LINES)]
    yield f"info={text[:9]}", written(__metadata__={"info": text})
    for field in fields.split():
        for value in _values(info, field, number):
            changed = json.dumps(put(info, _place(field), value))
            yield f"{field}={spell(value)}", written(__metadata__={"info": changed})


def other(number: Iterator[int], contents: Sequence[bytes | None] = WHOLE) -> Input:
    """A file of something else."""
    content = contents[next(number) % len(contents)]
    return "a folder" if content is None else f"the file is {content[:9]!r}", content


def put(document: Any, place: list[str | int], value: Any) -> Any:
    document = copy.deepcopy(document)
    where = document
    for step in place[:-1]:
        where = where[step]
    if value is MISSING:
        del where[place[-1]]
    else:
        where[place[-1]] = value
    return document


def _place(field: str) -> list[str | int]:
    return [int(step) if step.isdigit() else step for step in field.partition(":")[0].rstrip("?").split(".")]


def _values(document: Any, field: str, number: Iterator[int]) -> list[Any]:
    """A value that the field may not have; a name of a file is tried as a path, too."""
    value = document
    for step in _place(field):
        value = value[step]
    wrong = [v for v in WRONG[type(value)] if not (field.endswith("?") and (v is None or v is MISSING))]
    return [wrong[next(number) % len(wrong)], *([PATH] if field.endswith(":path") else [])]
