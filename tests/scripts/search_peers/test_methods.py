"""Torch-Pruning goes to any share of the MACs by the same steps."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

from scripts.pruning_peers.child import Child
from scripts.search_peers.methods import Given, TorchPruning
from search_spaces.structure.fvcore_macs import fvcore_macs


class Asked(Child):
    """Takes down what is asked for, and leaves every network as it is."""

    def __init__(self) -> None:
        super().__init__(1.0)
        self.macs = list[list[int]]()

    def call(self, function: Any, *args: Any) -> Any:
        self.macs.append(args[3])
        return [copy.deepcopy(args[0]) for _ in args[3]]


def test_steps_are_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Given, "batches", [(torch.zeros(2, 3, 32, 32), torch.zeros(2))])
    model, child = timm.create_model("test_resnet", num_classes=3).eval(), Asked()
    whole = fvcore_macs(model, torch.zeros(1, 3, 32, 32))
    data: Any = None
    cut = TorchPruning(Given(Path(), model, 32, data, 8, 1, Path(), child))
    for share in (0.6, 0.3, 0.4, 0.9):
        cut(share)
    shares = [[0.7, 0.6], [0.49, 0.343, 0.3], [0.4], [0.9]]
    assert [[round(macs / whole, 3) for macs in asked] for asked in child.macs] == shares
