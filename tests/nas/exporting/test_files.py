"""Files in other precisions: what they answer, what they lose, and what costs it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from nas import runs
from nas.data import Data
from nas.exporting import coreml, files
from nas.exporting import onnx as onnx_files
from nas.exporting.export import added_to, export_files
from nas.exporting.figures import accuracies
from nas.exporting.files import Exporter, FileConfig
from nas.exporting.matrix import Cell, cells
from nas.exporting.parity import example_images
from search_spaces import UserError
from search_spaces.command import parse
from tests.nas.exporting.small import SIZE, Network
from tests.nas.unreadable import unreadable


@pytest.fixture(autouse=True)
def _stopwatch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "measure_file", lambda path, backend: (0.5, 0.6, False))
    monkeypatch.setattr(files, "peak_memory", lambda path, backend: 2_500_000)


def test_a_file_is_named_by_its_format_and_unusual_precision() -> None:
    possible, impossible = cells(("onnx", "timm", "onnx"), ("float32", "int8"))
    assert [cell.file for cell in possible] == ["model.onnx", "model-int8.onnx", "model.safetensors"]
    assert list(impossible) == ["timm-int8"] and "weights to train further" in impossible["timm-int8"]
    assert [cell.name for cell in cells(("coreml", "onnx"), ())[0]] == ["coreml", "onnx"]
    searched = cells(("coreml", "onnx", "timm"), (), "int8")[0]
    assert [cell.name for cell in searched] == ["coreml-int8", "onnx-int8", "timm"], "timm has no int8"
    assert [cell.name for cell in cells(("onnx",), ("float32",), "int8")[0]] == ["onnx"], "what is asked for"
    assert Cell("coreml", "float32").file == "model-float32.mlpackage"
    palettes, impossible = cells(("onnx", "coreml", "litert"), ("palettized",))
    assert [cell.file for cell in palettes] == ["model-palettized.mlpackage"]
    assert set(impossible.values()) == {"weights that are places in a table are Core ML's alone"}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--formats", "timm", "--precision", "int8"], r"none of these files can be: timm-int8: .*give another --prec"),
        (["--keep-float", "stem"], r"--keep-float is for --formats onnx --precision int8; leave it out"),
        (["--calibration-images", "9"], r"--calibration-images is for --precision int8; leave it out"),
        (["--formats", "coreml", "--threads", "2"], r"--threads is for --formats onnx, litert, executorch"),
        (["--precision", "int9"], r"int9"),
    ],
)
def test_flags_that_do_nothing_are_refused(flags: list[str], message: str) -> None:
    with pytest.raises((UserError, SystemExit), match=message):
        parse(FileConfig, flags, "python -m nas.export", "").check()


def test_each_file_has_the_accuracy_of_its_own_answers(
    exported: tuple[Path, dict[str, Any]], network: Network, data: Data
) -> None:
    folder, result = exported
    model, info = network.model(), network.info
    images = torch.stack([example_images(1, SIZE, seed)[0] for seed in range(4)])
    for name, facts in result.items():
        got = onnx_files.answers(folder / facts["file"], info)(images)
        assert 0 <= facts["test_accuracy"] <= 1 and facts["test_images"] == len(data.test)
        low, high = facts["test_accuracy_interval"]
        assert low <= facts["test_accuracy"] <= high
        with torch.inference_mode():
            wanted = model((images.float() / 255 - 0.5) / 0.5).numpy()
        difference = np.abs(got - wanted).max() / np.abs(wanted).max()
        assert difference < {"onnx": 1e-4, "onnx-float16": 0.02, "onnx-int8": 0.2}[name]
        assert difference > {"onnx": -1, "onnx-float16": 1e-6, "onnx-int8": 1e-4}[name], (
            "the precision that is asked for"
        )
    assert result["onnx"]["drop"] == 0
    drop = 100 * (result["onnx"]["test_accuracy"] - result["onnx-int8"]["test_accuracy"])
    assert result["onnx-int8"]["drop"] == pytest.approx(drop)
    facts_kept = {entry.key: entry.value for entry in onnx.load(folder / "model-int8.onnx").metadata_props}
    assert facts_kept["name"] == "net"


def test_a_module_can_stay_float_and_an_unknown_one_is_named(network: Network, data: Data, tmp_path: Path) -> None:
    config = FileConfig(
        formats=("onnx",), precision=("int8",), keep_float=("body",), calibration_images=8, max_drop=100
    )
    Exporter(network, tmp_path, config, data).write()
    nodes = {node.name: node for node in onnx.load(tmp_path / "model-int8.onnx").graph.node}
    taken = {
        name: [source.endswith("DequantizeLinear_Output") for source in node.input] for name, node in nodes.items()
    }
    assert not any(taken["body.1/Conv"]) and any(taken["stem/Conv"])
    found = Exporter(network, tmp_path, replace(config, keep_float=("tail",)), data).write()
    assert "--keep-float is 'tail'" in found["failed"]["onnx-int8"] and "body.1" in found["failed"]["onnx-int8"]


def test_what_loses_too_much_is_said_and_its_layer_named(
    network: Network, data: Data, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One channel of the stem has values a thousand times those of the others, which int8 rounds away."""
    monkeypatch.setattr(files, "_lost", lambda facts, max_drop: facts.get("precision") == "int8")
    config = FileConfig(formats=("onnx",), precision=("int8",), calibration_images=32, max_drop=0)
    result = Exporter(replace(network, factor=1000.0), tmp_path, config, data).write()
    (worst, share), *others = result["files"]["onnx-int8"]["blame"]["shares"].items()
    assert worst == "body.1" and share > 0.2 and all(other < share / 2 for _, other in others)
    out = capsys.readouterr().out
    assert "WARNING: it loses more than 0 points" in out and "--keep-float body.1" in out


def test_core_ml_int8_has_int8_weights_and_nearly_the_answers(network: Network, tmp_path: Path) -> None:
    path = tmp_path / "model.mlpackage"
    coreml.write_coreml(network.model(), path, replace_classes(network), "", network.metadata, "int8")
    parity, facts = coreml.check_coreml(path, network.model(), replace_classes(network), "int8")
    assert 0 < parity.max_abs_diff < 0.02
    kinds = [op.op_type for op in coreml.load_program(coreml.load_package(path)).functions["main"].operations]
    assert "constexpr_affine_dequantize" in kinds
    assert facts["executed_by"] == "PyTorch, operator by operator"


def test_core_ml_palettized_has_64_values_a_tensor_and_nearly_the_answers(
    network: Network, data: Data, tmp_path: Path
) -> None:
    """Its file is a fraction of the float16 one, for weights of 6 bits."""
    some = replace(data, test=data.test.spread(30))
    config = FileConfig(formats=("coreml", "onnx"), precision=("float16", "palettized"), max_drop=100)
    found = Exporter(network, tmp_path, config, some).write()
    assert set(found["files"]) == {"coreml", "onnx-float16", "coreml-palettized"} and not found["failed"]
    facts = found["files"]["coreml-palettized"]
    assert facts["file"] == "model-palettized.mlpackage" and facts["test_images"] == 30
    assert 0 < facts["max_abs_diff"] < 0.05
    operators = coreml.load_program(coreml.load_package(tmp_path / facts["file"])).functions["main"].operations
    palettes = [op for op in operators if op.op_type == "constexpr_lut_to_dense"]
    assert palettes and all(op.lut.val.shape == (64,) for op in palettes)
    weights = sum(int(np.prod(op.shape.val)) for op in palettes)
    saved = found["files"]["coreml"]["bytes"] - facts["bytes"]
    assert 2 * weights * 0.5 < saved < 2 * weights * 0.63, "6 of 16 bits are left, palettes and descriptions beside"


def test_core_ml_float32_has_no_other_numbers(network: Network, tmp_path: Path) -> None:
    path = tmp_path / "model-float32.mlpackage"
    coreml.write_coreml(network.model(), path, replace_classes(network), "", network.metadata, "float32")
    parity, facts = coreml.check_coreml(path, network.model(), replace_classes(network), "float32")
    assert parity.max_abs_diff < 1e-5 and facts["weights"] == "float32"


def replace_classes(network: Network) -> runs.RunInfo:
    return replace(network.info, classes=tuple("0123456789"))


def test_without_images_no_file_is_int8_and_none_has_an_accuracy(network: Network, tmp_path: Path) -> None:
    config = FileConfig(formats=("onnx",), precision=("float32", "int8"))
    result = Exporter(network, tmp_path, config, None).write()
    assert "test_accuracy" not in result["files"]["onnx"]
    assert "calibrated on training images" in result["failed"]["onnx-int8"]
    assert {path.name for path in tmp_path.iterdir()} == {"model.onnx"}


def test_a_second_export_adds_to_the_first(network: Network, data: Data, tmp_path: Path) -> None:
    place, config = tmp_path / "export", FileConfig(formats=("onnx",), calibration_images=8, max_drop=100)
    with added_to(place, keep=False) as target:
        first = export_files(network, target, config, None, {})
    with added_to(place, keep=True) as target:
        both = export_files(network, target, replace(config, precision=("int8",)), data, first)
    assert list(both["files"]) == ["onnx", "onnx-int8"]
    made = {path.name for path in place.iterdir() if path.suffix not in (".md", ".py", ".kt")}
    assert made == {"classes.txt", "model.onnx", "model-int8.onnx"}
    assert json.dumps(both)


def test_fewer_calibration_images_than_asked_for_are_said(
    network: Network, data: Data, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few: Any = replace(data, train=unreadable(data.train, 6, range(1)))
    config = FileConfig(formats=("onnx",), precision=("int8",), max_drop=100)
    found = Exporter(network, tmp_path, config, few).write()
    assert "5 training images to calibrate int8 on, 256 were asked for" in capsys.readouterr().out
    assert found["files"]["onnx-int8"]["calibration_images"] == 5


@pytest.mark.parametrize("count", [1, 257])
def test_int8_is_calibrated_on_exactly_so_many_images(
    count: int, network: Network, data: Data, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    formats: Any = ("onnx", "coreml")
    config = FileConfig(formats=formats, precision=("int8",), calibration_images=count, max_drop=100)
    found = Exporter(network, tmp_path, config, replace(data, test=data.test.spread(8))).write()
    counts = {name: facts.get("calibration_images") for name, facts in found["files"].items()}
    assert counts == {"onnx-int8": count, "coreml-int8": count if coreml.on_apple() else None}
    assert not found["failed"] and "to calibrate int8 on" not in capsys.readouterr().out


def test_a_batch_of_corrupt_test_images_costs_no_file(
    network: Network, data: Data, capsys: pytest.CaptureFixture[str]
) -> None:
    model, seen = network.model(), []

    def answers(batch: torch.Tensor) -> np.ndarray:
        assert len(batch)
        seen.append(len(batch))
        with torch.inference_mode():
            return np.asarray(model((batch.float() / 255 - 0.5) / 0.5))

    found = accuracies({"file": answers}, model, unreadable(data.test, 80, range(64, 80)), network.info)
    assert (seen, found["file"]["test_images"], found["file"]["drop"]) == ([64], 64, 0)
    assert accuracies({"file": answers}, model, unreadable(data.test, 80, range(80)), network.info) == {}
    assert "files are not tried on test images: none of 80 can be read" in capsys.readouterr().err
