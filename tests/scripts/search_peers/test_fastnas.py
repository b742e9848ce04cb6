"""FastNAS finds widths to prune in a network of timm, and goes on with the sensitivities that it has measured."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from scripts.search_peers.fastnas import NORM_BATCHES, FastNas
from search_spaces.structure.fvcore_macs import fvcore_macs
from tests.scripts.search_peers.test_plain import IMAGE, lite

pytest.importorskip("modelopt", reason="an extra: pip install -e '.[peers]'")
pytest.importorskip("torchprofile")


@pytest.mark.slow
def test_it_prunes_to_a_share_of_the_macs(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, scored = lite(), list[nn.Module]()

    def score(network: nn.Module) -> float:
        scored.append(network)
        return float(network(torch.ones(2, 3, 32, 32)).sum())

    batches = [torch.randn(2, 3, 32, 32) for _ in range(NORM_BATCHES)]
    search = FastNas(model, score, batches, IMAGE, 8, tmp_path / "fastnas.pth")
    whole = fvcore_macs(model, IMAGE)
    smaller = search.cut(0.5)
    assert 0.2 * whole < fvcore_macs(smaller, IMAGE) <= 0.51 * whole
    assert smaller(torch.ones(2, 3, 32, 32)).shape == (2, 3)
    measured = len(scored)
    assert fvcore_macs(search.cut(0.3), IMAGE) <= 0.31 * whole
    assert len(scored) == measured, "sensitivities are of the network, whatever is asked for"
