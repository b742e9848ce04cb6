from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nas.proving.training import say_how_long
from search_spaces.command.files import write_json
from tests.nas.synthetic_run import add_retrain, add_search, make_run


def test_baselines_take_as_long_as_their_winners(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    add_search(tmp_path, space := make_run(tmp_path))
    add_retrain(tmp_path, space, ("winner-1", "winner-2"))  # of 0.8 minutes each
    write_json(tmp_path / "retrain/narrowed-winner-2/result.json", {})
    search: Any = SimpleNamespace(
        run_folder=tmp_path,
        whole=tmp_path,
        winners=["winner-1", "winner-2"],
        trained=lambda name: tmp_path / "retrain" / name,
    )
    say_how_long(search)
    said = capsys.readouterr().err
    assert said.startswith("3 networks to compare with, trained on ")
    assert said.endswith("as the winners were: about 2 minutes\n")
