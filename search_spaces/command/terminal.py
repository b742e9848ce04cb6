"""What reaches the terminal: aligned lines, values cut short, text that it can show, and nothing of libraries."""

from __future__ import annotations

import contextlib
import io
import logging
import re
import unicodedata
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

SHOWN = 60  # characters of a wrong value


def is_text(text: str) -> bool:
    """Whether a file and a terminal can hold it."""
    return text.isprintable() or not any(unicodedata.category(c) in ("Cc", "Cs") and c not in "\t\n" for c in text)


def shown(value: Any) -> str:
    """A value as a message has it: all of a short one."""
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


def reason(error: Exception) -> str:
    """What a library's error says, as part of a line: its first sentence."""
    return re.split(r"\n|\. ", str(error).strip())[0].rstrip(".") or type(error).__name__


def align(rows: Sequence[Sequence[str]], sides: str) -> str:
    """Each row as a line, its columns aligned left (`<`) or right (`>`)."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ([f"{cell:{side}{width}}" for cell, side, width in zip(row, sides, widths, strict=True)] for row in rows)
    return "\n".join("  ".join(line).rstrip() for line in lines)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps progress bars and warnings of libraries off the terminal; their errors are exceptions."""
    sink = io.StringIO()
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(sink), contextlib.redirect_stderr(sink), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
