"""The study of simulated int8, with figures in place of networks."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from typing import Any

import pytest

from scripts.ranking import int8
from search_spaces.command.files import read_json


@pytest.mark.usefixtures("supernet")
def test_it_ranks_what_a_search_foresees_by_what_files_reach(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    networks = count()

    def invented(*_: Any) -> dict[str, Any]:
        i = next(networks)
        figures = {"float32": 0.9 - 0.01 * (i // 2), "simulated int8": 0.8 - 0.01 * i, "file": 0.805 - 0.01 * i}
        return {"arch": {}, **figures, "float32_s": 1.0, "int8_s": 1.5}

    monkeypatch.setattr(int8, "_of_network", invented)
    int8.main(["--run", "r", "--count", "8", "--num-images", "6"])
    found = read_json(Path("runs/studies/int8-r/result.json"))
    assert found["num_images"] == 6 and len(found["networks"]) == 8 and found["time_ratio"] == 1.5
    simulated, float32 = (found["predictors"][name] for name in ("simulated int8", "float32"))
    assert simulated["kendall"]["value"] == 1 > float32["kendall"]["value"]
    assert simulated["mean_abs_points"] == pytest.approx(0.5)
    out = capsys.readouterr().out
    assert "8 networks on 6 test images; τ of at least 0.9: reached; int8 takes 1.50 of the time of float32" in out
