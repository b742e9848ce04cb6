from __future__ import annotations

from nas.pruning.config import Config


def test_the_plan_names_each_training() -> None:
    assert Config(finetune_epochs=12).plan(dense_first=False) == "pruned to macs=0.5, then trained for 12 epochs"
    several = Config(target="latency=0.6", iterative=3, dense_epochs=9)
    assert several.plan(dense_first=True) == (
        "trained for 9 epochs, then pruned to latency=0.6 in 3 rounds, then trained for 30 epochs"
    )
