"""What an unfinished measurement has taken so far: JSON lines beside the table, one for each round."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from latency_lut.protocol import Sample
from search_spaces import UserError


class Journal:
    """Appends rounds to `path`; whatever was there from the same settings is in `samples`.

    The file outlives a kill at any moment: a line that was cut off is dropped.

    Args:
        settings: all that the samples depend on, as JSON.

    Raises:
        UserError: the file is of other settings, which are named.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        self.path = path
        self.samples: dict[str, list[Sample]] = {}
        lines = self._complete_lines()
        if not lines:
            self._write("w", json.dumps({"settings": settings}))
            return
        try:
            self._read(lines, settings)
        except (ValueError, KeyError, TypeError, AttributeError):
            raise UserError(f"{path} is damaged; start over with --no-resume") from None

    def _complete_lines(self) -> list[str]:
        if not self.path.exists():
            return []
        content = self.path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if whole != content:
            with self.path.open("r+b") as file:
                file.truncate(len(whole))
        return whole.decode().splitlines()

    def _read(self, lines: list[str], settings: Mapping[str, Any]) -> None:
        before = json.loads(lines[0])["settings"]
        differing = [k for k in {**before, **settings} if before.get(k) != settings.get(k)]
        if differing:
            what = ", ".join(f"{k} {before.get(k)!r} (now {settings.get(k)!r})" for k in differing)
            raise UserError(f"{self.path} was begun with {what}; repeat that command, or start over with --no-resume")
        for line in lines[1:]:
            for name, (ms, wait_share) in json.loads(line).items():
                self.samples.setdefault(name, []).append(Sample(float(ms), wait_share))

    def append(self, samples: Mapping[str, Sample]) -> None:
        """Adds one round."""
        self._write("a", json.dumps({name: (s.ms, s.wait_share) for name, s in samples.items()}))

    def _write(self, mode: str, line: str) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open(mode, encoding="utf-8") as file:
                file.write(line + "\n")
        except OSError as error:
            raise UserError(f"cannot write {self.path}: {error.strerror or error}") from error
