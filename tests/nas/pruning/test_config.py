from __future__ import annotations

import pytest

from nas.exporting.files import FileConfig
from nas.pruning.config import Config
from search_spaces import UserError
from search_spaces.command import parse


def test_the_plan_names_each_training() -> None:
    assert Config(finetune_epochs=12).plan(dense_first=False) == "pruned to macs=0.5, then trained for 12 epochs"
    several = Config(target="latency=0.6", iterative=3, dense_epochs=9)
    assert several.plan(dense_first=True) == (
        "trained for 9 epochs, then pruned to latency=0.6 in 3 rounds, then trained for 30 epochs"
    )


def test_exports_have_the_settings_of_nas_export() -> None:
    config = Config(formats=("onnx", "litert"), precision=("float32", "int8"), max_drop=2.0, threads=4)
    config.check()
    same = FileConfig(formats=("onnx", "litert"), precision=("float32", "int8"), max_drop=2.0, threads=4)
    assert config.file_config() == same
    Config(formats=("coreml",), threads=2).check()  # which time the networks
    with pytest.raises(UserError, match="--keep-float is for --formats onnx --precision int8; leave it out"):
        Config(keep_float=("stem",)).check()
    with pytest.raises(UserError, match="--formats is 'timm'; choose from onnx, coreml, litert, executorch"):
        parse(Config, ["--formats", "timm"], "python -m nas.prune", "")
