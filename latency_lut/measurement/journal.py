"""What an unfinished measurement has taken so far: JSON lines beside the result, one for each visit to a graph."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, TypedDict

from latency_lut.backends.base import Backend
from latency_lut.backends.protocol import Sample, Settings
from search_spaces import UserError
from search_spaces.command.files import drop_torn_line, read_json_lines, try_lock
from search_spaces.command.typed import read_typed


class Begun(TypedDict):
    """The first line."""

    settings: dict[str, Any]


def _check_sample(sample: list[float | None]) -> None:
    """ValueError unless it is the fields of a `Sample`."""
    if len(sample) != 3:
        raise ValueError(f"has {len(sample)} numbers, not 3")
    ms, wait_share, mean_ms = sample
    if ms is None or mean_ms is None or min(ms, mean_ms) <= 0:
        raise ValueError(f"has times {ms} and {mean_ms}, not above 0")  # of any length: it may have been stopped
    if wait_share is not None and wait_share < 0:
        raise ValueError(f"has a wait_share of {wait_share}; it is at least 0")  # threads wait side by side: above 1


Taken = Annotated[list[float | None], _check_sample]


class Journal:
    """Appends samples to `path`; whatever was there from the same settings is in `samples`.

    The file outlives a kill at any moment: a line that was cut off is dropped.

    Args:
        settings: all that the samples depend on, as JSON.

    Raises:
        UserError: the file is of other settings, which are named.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        self.path = path
        self.samples: dict[str, list[Sample]] = {}
        try:
            if len(lines := self._complete_lines()) > 1:  # else nothing was measured, whatever the settings
                self._read(lines, settings)
                return
        except ValueError as error:
            raise UserError(f"{path} is damaged ({error}); delete it to start over") from None
        self._write("w", json.dumps({"settings": settings}))

    @classmethod
    @contextmanager
    def kept(
        cls, out: Path, resume: bool, facts: Mapping[str, Any], backend: Backend, settings: Settings
    ) -> Iterator[Journal]:
        """The journal of what becomes `out`: beside it until the block ends without an error.

        Args:
            resume: False to start over.
            facts: what the samples depend on besides backend and settings.
        """
        path = out.with_name(f"{out.name}.partial")
        with _alone(path):
            if not resume:
                path.unlink(missing_ok=True)
            yield cls(path, {**facts, **backend.facts(), **asdict(backend.describe()), **asdict(settings)})
            path.unlink(missing_ok=True)

    def _complete_lines(self) -> list[Any]:
        drop_torn_line(self.path)
        return read_json_lines(self.path)

    def _read(self, lines: list[Any], settings: Mapping[str, Any]) -> None:
        before = read_typed(Begun, lines[0], "line 1")["settings"]
        differing = [k for k in {**before, **settings} if before.get(k) != settings.get(k)]
        if differing:
            what = ", ".join(f"{k} {before.get(k)!r} (now {settings.get(k)!r})" for k in differing)
            raise UserError(f"{self.path} was begun with {what}; go on with that, or start over with --no-resume")
        for number, line in enumerate(lines[1:], 2):
            for name, samples in read_typed(dict[str, list[Taken]], line, f"line {number}").items():
                self.samples.setdefault(name, []).extend(Sample(*sample) for sample in samples)  # type: ignore[arg-type]

    def append(self, name: str, samples: Sequence[Sample]) -> None:
        """Adds the samples of one visit."""
        self._write("a", json.dumps({name: [(s.ms, s.wait_share, s.mean_ms) for s in samples]}))

    def _write(self, mode: str, line: str) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open(mode, encoding="utf-8") as file:
                file.write(line + "\n")
        except OSError as error:
            raise _unwritable(self.path, error) from error


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """No other process measures into the file meanwhile; UserError if one does, or if the folder cannot be written."""
    beside = path.with_name(f".{path.name}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = try_lock(beside)
    except OSError as error:
        raise _unwritable(path, error) from error
    if lock is None:
        raise UserError(f"another process measures into {path}; wait for it")
    with lock:
        try:
            yield
        finally:
            with suppress(OSError):  # Windows removes no open file
                beside.unlink()


def _unwritable(path: Path, error: OSError) -> UserError:
    return UserError(f"cannot write {path}: {error.strerror or error}")
