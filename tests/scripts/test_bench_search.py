from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from nas.evaluation.evaluator import Evaluator
from nas.evaluation.racing import Finish
from scripts import bench_search
from scripts.bench_search import Config, bench_racing, bench_strategies
from search_spaces import Arch, num_params
from search_spaces.command.files import read_json

pytestmark = pytest.mark.usefixtures("supernet")


def invented(self: Evaluator, base: Arch, archs: Sequence[Arch], *precision: object) -> list[float]:
    """Accuracies that fall with the size, in no time."""
    return [0.9 - 5e3 / num_params(self.space, arch) for arch in archs]


@pytest.mark.heavy
def test_strategies_share_what_was_evaluated(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Evaluator, "accuracies", invented)
    monkeypatch.setattr(bench_search, "AT", (10, 22))
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


@pytest.mark.heavy
def test_races_are_compared_with_all_images(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = Config(run="r", num_images=19)
    bench_racing(config)
    assert "tiny, 19 images" in capsys.readouterr().out
    result = read_json(Path("runs/r/bench-search/racing.json"))
    assert result["same"] == 1 and result["hypervolumes"][0] == result["hypervolumes"][1] > 0
    assert 0 < result["image_forwards"]["run"] <= result["image_forwards"]["shared"]

    def worst(self: Evaluator, base: Arch, archs: Sequence[Arch], gains: Sequence[float]) -> list[Finish]:
        found = self.accuracies(base, archs)
        last = np.argmax([-a / g for a, g in zip(found, gains, strict=True)])
        return [Finish(a, 5 if i != last else 19, dropped=i != last) for i, a in enumerate(found)]

    monkeypatch.setattr(Evaluator, "race", worst)
    Path("runs/r/bench-search/study.log").unlink()
    bench_racing(config)
    printed = capsys.readouterr().out
    assert "; with a race Action(" in printed and "steps, 0." in printed and "MISSED" in printed
    assert read_json(Path("runs/r/bench-search/racing.json"))["same"] < 1
