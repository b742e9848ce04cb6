"""--verify with a Core ML of which we say what it answers: its native library is replaced, all of coremltools runs."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from nas.data import Data
from nas.exporting import coreml
from nas.exporting import verify as verifying
from nas.exporting.export import Config, export, export_files
from nas.exporting.files import FileConfig
from search_spaces import UserError
from search_spaces.command import parse
from search_spaces.command.files import read_json, sha256, write_json
from tests.nas.exporting.small import SIZE, Network

FEW = 20


@dataclass(frozen=True)
class Winner(Network):
    name: str = "net"
    folder: Path = Path()


@dataclass
class FakeCoreML:
    """Core ML that predicts as the program says, but for what it adds to the first probability.

    Args:
        shown: the images that it was given.
    """

    bias: float = 0.0
    shown: list[Image.Image] = field(default_factory=list)

    def native_proxy(self) -> type:
        core = self

        class Proxy:
            """As coremlpython/CoreMLPython.mm of coremltools 9.0 has it."""

            def __init__(self, path: str, unit: str, function: str, hints: dict[str, str], asset: Any) -> None:
                assert path.endswith(".mlpackage") and (unit, function, hints, asset) == ("ALL", "", {}, None)
                import coremltools as ct

                package = ct.models.MLModel(path, skip_model_load=True)
                self.program = coreml._interpreted(package)

            def predict(self, data: dict[str, Any], state: None) -> dict[str, Any]:
                core.shown.append(data["image"])
                (probabilities,) = self.program(torch.from_numpy(np.array(data["image"])).permute(2, 0, 1)[None])
                named = {str(i): float(p) + core.bias * (i == 0) for i, p in enumerate(probabilities)}
                return {"classLabel": max(named, key=named.__getitem__), "classLabel_probs": named}

            @staticmethod
            def maximum_supported_specification_version() -> int:
                return 10

        return Proxy


@pytest.fixture(scope="module")
def exported(network: Network, data: Data, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a Core ML package that was exported on a machine that is no Mac."""
    run = tmp_path_factory.mktemp("run")
    (run / "model.safetensors").write_bytes(b"weights")
    place = run / "export/net"
    place.mkdir(parents=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(coreml, "on_apple", lambda: False)
        found = export_files(network, place, FileConfig(formats=("coreml",)), None, {})
    write_json(place / "result.json", {**found, "weights_sha256": sha256(run / "model.safetensors")})
    return run


@pytest.fixture
def core(exported: Path, network: Network, data: Data, monkeypatch: pytest.MonkeyPatch) -> FakeCoreML:
    """This machine is a Mac, to which the run and its images were copied."""
    core = FakeCoreML()
    monkeypatch.setattr(coreml, "on_apple", lambda: True)
    monkeypatch.setattr("coremltools.models.model._MLModelProxy", core.native_proxy())
    monkeypatch.setattr(verifying, "load_winners", lambda *_: [Winner(network.info, folder=exported)])
    few = replace(data, test=data.test.spread(FEW))
    monkeypatch.setattr(verifying, "load_images", lambda _: few)
    return core


def test_elsewhere_one_line_says_where_core_ml_runs(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coreml, "on_apple", lambda: False)
    with pytest.raises(UserError, match="--verify needs macOS, where Core ML runs: copy the run and its images"):
        export(Config(run=str(exported), verify=True))


def test_what_core_ml_answers_is_taken_down(
    exported: Path, core: FakeCoreML, capsys: pytest.CaptureFixture[str]
) -> None:
    before = read_json(exported / "export/net/result.json")["files"]["coreml"]
    assert before["executed_by"].startswith("PyTorch") and "test_accuracy" not in before
    (result,) = export(Config(run=str(exported), verify=True))
    facts = result["files"]["coreml"]
    assert facts["executed_by"] == "Core ML" and facts["test_images"] == FEW
    assert facts["test_accuracy_interval"][0] <= facts["test_accuracy"] <= facts["test_accuracy_interval"][1]
    assert facts["drop"] == 0 and 0 < facts["max_abs_diff"] < 0.01
    assert read_json(exported / "export/net/result.json") == result
    assert {(image.mode, image.size) for image in core.shown} == {("RGB", (SIZE, SIZE))}
    assert "executed by Core ML" in capsys.readouterr().out
    assert f"{100 * facts['test_accuracy']:.2f} %" in (exported / "export/net/README.md").read_text()


def test_a_core_ml_that_answers_otherwise_is_seen(exported: Path, core: FakeCoreML) -> None:
    core.bias = 0.5
    with pytest.raises(UserError, match=r"probabilities differ from PyTorch's by 0\.5"):
        export(Config(run=str(exported), verify=True))


def test_packages_of_other_weights_are_refused(exported: Path, core: FakeCoreML) -> None:
    path = exported / "model.safetensors"
    path.write_bytes(b"others")
    with pytest.raises(UserError, match=r"exported from other weights than .*; export it again"):
        export(Config(run=str(exported), verify=True))
    path.write_bytes(b"weights")


def test_flags_of_exports_are_idle() -> None:
    with pytest.raises(UserError, match=r"--formats is for exports, not for --verify"):
        parse(Config, ["--verify", "--formats", "onnx"], "python -m nas.export", "").check()
    parse(Config, ["--verify", "--max-drop", "2"], "python -m nas.export", "").check()
