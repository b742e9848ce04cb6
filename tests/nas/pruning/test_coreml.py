"""Pruned networks of several families as Core ML programs, executed operator by operator."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch

from nas.data import DataConfig, Splits
from nas.exporting.coreml import check_coreml, write_coreml
from nas.runs import ClassesRun
from search_spaces.deployed import deployed
from search_spaces.structure.families.registry import prepare
from search_spaces.structure.slicing import prune
from tests.contracts.pruning import split

SWIN = {"img_size": 32, "patch_size": 2, "window_size": 4, "depths": (2, 2), "num_heads": (2, 4), "embed_dim": 16}


@pytest.mark.parametrize(
    ("name", "size", "options"),
    [
        ("deit_tiny_distilled_patch16_224", 32, {"img_size": 32, "depth": 1}),
        pytest.param("mobilevit_xxs", 32, {}, marks=pytest.mark.heavy),
        pytest.param("swin_tiny_patch4_window7_224", 32, SWIN, marks=pytest.mark.heavy),
        pytest.param("efficientvit_m0", 64, {"depth": (1, 1, 1)}, marks=pytest.mark.heavy),
        pytest.param("mobileone_s0", 32, {}, marks=pytest.mark.heavy),
    ],
)
def test_a_pruned_network_becomes_a_core_ml_program(
    name: str, size: int, options: dict[str, Any], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=3, **options)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None
    with torch.no_grad():  # statistics of its own, or the sums of MobileOne's branches leave float16
        model.train()(torch.randn(8, 3, size, size))
    structure = prepare(model)
    prune(model, structure, split(structure, lambda _: True)[0])
    splits = Splits(1, 1, 1, (), "")
    info = ClassesRun(name, size, 3, ("a", "b", "c"), (0.5, 0.5, 0.5), (0.25, 0.25, 0.25), DataConfig(), splits)
    path = tmp_path / "model.mlpackage"
    write_coreml(deployed(model), path, info, "", {"name": name})
    parity, facts = check_coreml(path, deployed(model), info)
    assert parity.max_abs_diff < 0.01 and facts["num_classes"] == 3
