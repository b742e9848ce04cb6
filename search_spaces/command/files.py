"""Artifacts are files: written whole or not at all, read with one clear line when they are not what they should be."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from search_spaces.command import UserError

if TYPE_CHECKING:
    from filelock import BaseFileLock

_NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP}  # a file system that knows none


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, to write one file to; it becomes `path` when the block ends without an error.

    Raises:
        UserError: the disk is full or the folder cannot be written; `path` is as it was.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with _told(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            with temporary.open("r+b") as file:  # Windows flushes only what is open for writing
                os.fsync(file.fileno())
            temporary.replace(path)
    finally:
        with suppress(OSError):
            temporary.unlink()


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """An empty temporary folder beside `folder` that replaces it when the block ends without an error.

    What a killed process has left of writing `folder` is removed, or put back where it had moved the old one away.

    Raises:
        UserError: the disk is full or the folder cannot be written; `folder` is as it was.
    """
    temporary, old = (folder.with_name(f".{folder.name}.{os.getpid()}.{kind}") for kind in ("tmp", "old"))
    with _told(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        drop_leftovers(folder.parent, folder.name)
        temporary.mkdir()
        lock = try_lock(temporary / _LOCK)
        try:
            yield temporary
            _remove_lock(lock, temporary)
            if folder.exists():
                folder.rename(old)
            temporary.rename(folder)
        finally:
            _remove_lock(lock, temporary)
            if old.exists() and not folder.exists():
                old.rename(folder)
            shutil.rmtree(old, ignore_errors=True)
            shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def _told(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"cannot write {path}: {reason}; make room or give another folder, nothing is lost") from error


_LOCK = ".lock"  # in a temporary folder: held by the process that writes it


def _remove_lock(lock: BaseFileLock | None, folder: Path) -> None:
    if lock is not None:
        lock.release()
    (folder / _LOCK).unlink(missing_ok=True)


def drop_leftovers(folder: Path, name: str | None = None) -> None:
    """Removes from the folder what killed processes were writing there, and puts back what they had moved away.

    A process id may be taken again, in a container it often is, so it does not tell whether a process is alive.

    Args:
        name: only what was to become this file, or this folder if no process is still writing it; None: all, by one who
            knows that no other process writes in the folder.
    """
    kind = re.compile(rf"\.({'.+' if name is None else re.escape(name)})\.\d+\.(tmp|old)")
    for path in list(folder.iterdir()):
        if (match := kind.fullmatch(path.name)) is None or (name is not None and _is_held(path)):
            continue
        if match[2] == "old" and not (folder / match[1]).exists():
            path.rename(folder / match[1])
        elif path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _is_held(folder: Path) -> bool:
    """Whether a process writes this temporary folder."""
    if not (folder / _LOCK).exists():
        return False
    if (lock := try_lock(folder / _LOCK)) is None:
        return True
    lock.release()
    return False


def try_lock(path: Path) -> BaseFileLock | None:
    """Locks the file, made if it is missing, until the lock is released or this process ends, however it ends.

    On a file system without locks there is one that keeps nobody out.

    Returns:
        None if another process holds it.

    Raises:
        OSError: the file cannot be made.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(path, thread_local=False, fallback_to_soft=False)  # a soft lock would outlive a kill
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
    return lock


def sha256(path: Path) -> str:
    """Of the file's bytes, as hexadecimal digits. UserError if it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None


def slug(text: str) -> str:
    """The text as a part of a file's name."""
    return re.sub(r"[^\w.]+", "-", text).strip("-")


def write_text(path: Path, text: str) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, data: Any) -> None:
    """Raises ValueError on NaN and infinity, which are no JSON."""
    write_text(path, json.dumps(data, indent=1, allow_nan=False) + "\n")


def read_json(path: Path, *, nan: bool = False) -> Any:
    """Raises UserError if the file is missing, unreadable or not JSON (NaN and infinity are not, unless `nan`)."""
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"), parse_constant=None if nan else _no_constant)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is not JSON: it is not a text file") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON: {error}") from None


_TORN = (b"{", b"[", b"\0")  # begins a line that was not written whole; NUL is what a loss of power leaves


def drop_torn_line(path: Path) -> None:
    """Cuts off what a kill or a full disk has left of a log's last line, if there is such a file.

    What is no beginning of a line of JSON stays, for its reader to refuse.
    """
    if not path.exists():
        return
    with path.open("r+b") as file:
        content = file.read()
        end = content.rfind(b"\n") + 1
        if content[end:].startswith(_TORN):
            file.truncate(end)


def read_json_lines(path: Path) -> list[Any]:
    """The lines of a log, none if there is no file; the last is left out if a kill has cut it.

    Raises:
        UserError: it cannot be read, or a line is not JSON.
    """
    if not path.exists():
        return []
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is no log: it is not a text file; restore it or move it away") from None
    if not lines[-1] or lines[-1].encode().startswith(_TORN):
        lines.pop()
    return [_json_line(path, number, line) for number, line in enumerate(lines, 1)]


def _json_line(path: Path, number: int, line: str) -> Any:
    try:
        return json.loads(line, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}, line {number}, is not JSON ({error}); restore it or cut the line") from None


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no number")
