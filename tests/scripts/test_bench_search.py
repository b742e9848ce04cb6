from __future__ import annotations

from pathlib import Path

import pytest

from nas import train_supernet
from nas.evaluator import Evaluator
from scripts import bench_search
from scripts.bench_search import Config, bench_strategies
from search_spaces import SPACES
from search_spaces.files import read_json
from tests.nas.tiny import make_images, make_table, tiny_space


def test_strategies_share_what_was_evaluated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(SPACES, "tiny", tiny_space)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(bench_search, "AT", (10, 22))
    make_images(Path("images"))
    make_table(tiny_space()).save(Path("runs/tables/tiny.json"))
    train = "--space tiny --data images --epochs 1 --batch-size 8 --amp off --search-fraction 0.4 --run r"
    train_supernet.main(train.split())
    config = Config(run="r", strategies=("predictor", "slimming", "random"), seeds=(0, 1), budget=22)

    bench_strategies(config)
    printed = capsys.readouterr().out
    assert "tiny, 19 images; mean (least-most) over seeds (0, 1)" in printed
    assert "predictor at 22: " in printed and "overhead of all" in printed
    volumes = read_json(Path("runs/r/bench-search/result.json"))
    assert set(volumes) == {"predictor", "slimming", "random"}
    for name, at in volumes.items():
        assert [len(of_seeds) for of_seeds in at.values()] == [1 if name == "slimming" else 2] * 2
        assert all(0 < first <= last for first, last in zip(at["10"], at["22"], strict=True))

    monkeypatch.setattr(Evaluator, "accuracies", lambda *_: pytest.fail("evaluated again"))
    bench_strategies(config)
    assert read_json(Path("runs/r/bench-search/result.json")) == volumes
