"""Where studies live, a file of their own or a database, and what can go wrong there, as one line.

A file is Optuna's journal: a trial is one line of it, in a database a hundred statements (for 30 choices).

An address of a database is recorded as it was given, so a password is never in it: `$NAME` stands for an environment
variable.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from search_spaces import UserError
from search_spaces.command.files import drop_torn_line, read_json_lines

if TYPE_CHECKING:
    from optuna.storages import BaseStorage

LOCK_SECONDS = 5.0  # to wait for another process that writes to a SQLite file; Optuna then tries some times more
# Of a disk, as the system, SQLite and servers of databases say it.
FULL = ("No space left", "Disk quota exceeded", "File too large", "disk is full", "disk I/O error", "table is full")
# What Optuna, or who reads its trials, raises on a journal of something else.
_NO_STUDY = (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError)
EXAMPLE = "give --storage 'postgresql://me:$PASSWORD@host/nas' or sqlite:///FILE"


def check_address(url: str) -> None:
    """UserError if a password would be recorded, or a variable that stands for it is not set."""
    from sqlalchemy import make_url
    from sqlalchemy.exc import ArgumentError

    if missing := [name for name in re.findall(r"\$\{?(\w+)", url) if name not in os.environ]:
        raise UserError(f"--storage names the environment variable {missing[0]}, which is not set; export it first")
    try:
        address = make_url(url)
    except ArgumentError:
        return  # `$NAME` may stand for all of it
    secrets = [address.password, *(value for name, value in address.query.items() if "pass" in name.lower())]
    if any(secret and "$" not in str(secret) for secret in secrets):
        raise UserError(
            "--storage has a password in it, which would be recorded; put it in an environment variable, and name that "
            "in single quotes, as in 'postgresql://me:$PASSWORD@host/nas'"
        )


def check_storage(url: str, new: str | None, moved: str | None = None) -> None:
    """
    Args:
        new: name of a study that must not be there.
        moved: name of one that must be.

    Raises:
        UserError: no database can be used there, or there is such a study, or is not.
    """
    import optuna

    with readable(url):
        names = optuna.get_all_study_names(open_storage(url))
    if new in names:
        raise UserError(f"{url} holds a study {new} already; search under another --name")
    if moved is not None and moved not in names:
        raise UserError(f"{url} holds no study {moved}, which the search was begun with; give the --storage that does")


def open_storage(place: str | Path) -> BaseStorage:
    """A path is a journal, made if it is missing; a text the address of a database. Raises what `readable` reads."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if isinstance(place, Path):
        return _open_journal(place)
    options = {"connect_args": {"timeout": LOCK_SECONDS}} if place.startswith("sqlite") else {}
    return optuna.storages.RDBStorage(os.path.expandvars(place), engine_kwargs=options)


def _open_journal(path: Path) -> BaseStorage:
    """Locked by the system, which forgets the lock of a killed process; Optuna's own waits 30 seconds for it."""
    from filelock import FileLock
    from optuna.storages.journal import JournalFileBackend, JournalStorage

    lock: Any = FileLock(path.with_name(f".{path.name}.lock"), thread_local=False)
    with lock:
        drop_torn_line(path)
        read_json_lines(path)  # Optuna would go on behind a last line of something else
    return JournalStorage(JournalFileBackend(str(path), lock))


@contextmanager
def readable(place: str | Path) -> Iterator[None]:
    """What a journal or a database can do wrong, as one line."""
    import optuna
    import sqlalchemy.exc

    failures = (optuna.exceptions.OptunaError, sqlalchemy.exc.SQLAlchemyError, ImportError, RuntimeError)
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"cannot use the study {place}: {reason}; {_remedy(error, reason)}") from None
    except failures as error:
        cause = error.__cause__ or error
        reason = (str(getattr(cause, "orig", None) or cause).splitlines() or [""])[0]
        shown = reason.replace(os.path.expandvars(place), str(place))
        raise UserError(f"cannot use the database {place}: {shown}; {_remedy(cause, reason)}") from None
    except _NO_STUDY as error:
        raise UserError(f"{place} holds no study of this version ({error}); search under another --name") from None


def _remedy(cause: BaseException, reason: str) -> str:
    import sqlalchemy.exc

    if isinstance(cause, sqlalchemy.exc.ArgumentError):  # no address, or of no kind of database that is known
        return EXAMPLE
    if isinstance(cause, ImportError):
        return "install the Python package that it names"
    if any(sign in reason for sign in FULL):
        return "free some space and go on with --resume, nothing is lost"
    if isinstance(cause, OSError):
        return "mend that and go on with --resume, nothing is lost"
    if "locked" in reason:
        return "end what holds it and go on with --resume, nothing is lost"
    if "unable to open" in reason:
        return "make its folder, and writable"
    if isinstance(cause, sqlalchemy.exc.OperationalError) and not _is_file(cause):
        return "start the server or mend the address, then go on with --resume, nothing is lost"
    return "it is damaged or another program's: restore it, or search under another --name"


def _is_file(error: BaseException) -> bool:
    import sqlite3

    return isinstance(getattr(error, "orig", None), sqlite3.Error)
