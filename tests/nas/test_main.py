"""`python -m nas` and `mobile-nas`: every command is listed, and found by its short name."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import pytest

from nas import __main__ as listing
from search_spaces import UserError

ROOT = Path(__file__).parents[2]


def test_every_command_is_there() -> None:
    assert all(importlib.util.find_spec(module) for module in listing.ALL)
    commands = {
        f"{folder}.{path.stem}"
        for folder in ("nas", "latency_lut")
        for path in (ROOT / folder).glob("*.py")
        if '__name__ == "__main__"' in path.read_text(encoding="utf-8") and path.stem != "__main__"
    }
    assert commands == set(listing.ALL) - {"search_spaces"}


@pytest.mark.parametrize(("name", "module"), [("search", "nas.search"), ("latency_lut.build", "latency_lut.build")])
def test_a_command_is_called_by_its_name(monkeypatch: pytest.MonkeyPatch, name: str, module: str) -> None:
    called: list[list[str]] = []
    monkeypatch.setattr(os, "name", "posix")

    def become(_: str, command: list[str]) -> None:
        called.append(command)
        sys.exit()

    monkeypatch.setattr(os, "execv", become)
    with pytest.raises(SystemExit):
        listing.main([name, "--run", "a b"])
    assert called == [[sys.executable, "-m", module, "--run", "a b"]]


def test_another_name_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match=r"there is no command 'serch'; choose from search_spaces, .*search, "):
        listing.main(["serch"])
    listing.main([])
    assert "python -m nas.train_supernet" in capsys.readouterr().out
