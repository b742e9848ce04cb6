"""What the study of searched backbones says, and which random networks it takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scripts.ranking import backbones
from scripts.ranking.backbones import KINDS, Config, Trained, _random, as_text, study
from search_spaces import Arch, CostTable, UserError, get_space


def test_leads_are_means_of_differences_of_one_seed() -> None:
    figures = {"searched": (0.5, 0.7), "narrowed": (0.4, 0.5), "random": (0.45, 0.7)}
    found = [Trained(seed, 0.6, kind, figures[kind][seed], 1.0, 1.5 + seed) for seed in (0, 1) for kind in KINDS]
    _, searched, narrowed, random = as_text(Config(shares=(0.6,)), found).splitlines()
    assert searched.split() == ["0.6", "searched", "60.0", "±", "10.0", "1.000", "2.000"]
    assert narrowed.split()[-3:] == ["15.0", "±", "5.0"]  # 10 and 20 points
    assert random.split()[-3:] == ["2.5", "±", "2.5"]


def test_a_study_of_other_settings_is_not_taken_for_this_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    seeds = list[int]()

    def trained(_: Config, seed: int) -> list[Trained]:
        seeds.append(seed)
        return []

    monkeypatch.setattr(backbones, "_of_seed", trained)
    study(config := Config(seeds=(0,)))
    study(replace(config, seeds=(0, 1), shares=(0.5,)))
    assert seeds == [0, 0, 1], "more of the same"
    others: tuple[dict[str, Any], ...] = (
        {"space": "mobilevit-nano"},
        {"epochs": 3},
        {"budget": 9},
        {"init": "x"},
        {"supernet_epochs": 1},
    )
    for other in others:
        ((name, value),) = other.items()
        message = f"{name} was {getattr(config, name)!r}, now {value!r}"
        with pytest.raises(UserError, match=rf"^cannot resume runs/studies/backbones-detect with .*: {message}$"):
            study(replace(config, **other))
    study(replace(config, task="segment", epochs=3))
    Path("runs/old-detect-0").mkdir()
    with pytest.raises(UserError, match=r"^runs/old-detect-0 is there, but .* is not; give another --name$"):
        study(replace(config, name="old"))


def test_a_random_network_is_as_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    space = get_space("mobileone-nano+ssdlite", 64, 3)
    table = CostTable(space, lambda block: block.macs)

    def ms(archs: Sequence[Arch]) -> np.ndarray:
        return np.asarray(table(space.encode(archs)) / 1e6)

    limit = float(ms([space.largest])[0]) / 2
    drawn = _random(space, ms, limit, 0)
    assert 0.95 * limit <= ms([drawn])[0] <= limit and drawn == _random(space, ms, limit, 0)
    monkeypatch.setattr(backbones, "TRIES", 200)
    with pytest.raises(UserError, match=r"^no random network of mobileone-nano\+ssdlite takes 95 to 100 % of 0.100 ms"):
        _random(space, ms, 0.1, 0)
