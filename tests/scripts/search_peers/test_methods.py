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
        self.macs = list[int]()

    def call(self, function: Any, *args: Any) -> Any:
        self.macs.append(args[3])
        return copy.deepcopy(args[0])


def test_steps_are_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Given, "batches", [(torch.zeros(2, 3, 32, 32), torch.zeros(2))])
    model, child = timm.create_model("test_resnet", num_classes=3).eval(), Asked()
    whole = fvcore_macs(model, torch.zeros(1, 3, 32, 32))
    data: Any = None
    cut = TorchPruning(Given(Path(), model, 32, data, 8, 1, Path(), child))
    cut(0.7)
    assert child.macs == [int(0.8 * whole), int(0.7 * whole)]
    cut(0.45)
    assert child.macs[2:] == pytest.approx([0.64 * whole, 0.512 * whole, 0.45 * whole], abs=1)
    cut(0.9)
    assert child.macs[5:] == [int(0.9 * whole)], "no step is needed"
