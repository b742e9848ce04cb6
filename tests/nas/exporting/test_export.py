"""Exports of a small retrained network, loaded as their users load them."""

from __future__ import annotations

import json
import math
import runpy
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import timm
import torch
from PIL import Image
from torch import Tensor, nn

from nas.data.batches import eval_transform
from nas.exporting import coreml, files
from nas.exporting import onnx as onnx_files
from nas.exporting.coreml import Classifier, check_coreml, load_program
from nas.exporting.export import Config, export
from nas.exporting.files import Exporter
from nas.exporting.mil import Interpreter
from nas.exporting.parity import compare, example_images, normalized
from nas.exporting.winner import Winner, load_winners
from nas.runs.checkpoint import load_tensors, save_tensors
from search_spaces import UserError, num_params
from search_spaces.command import settings
from search_spaces.command.files import read_json, write_json
from tests.nas.synthetic_run import MEAN, STD, add_retrain, make_run, trained_like
from tests.rounding import assert_equal_but_for_rounding, rounding

BUSY = True  # as the stopwatch says
CLASSES = ["Ærø", "b & <b>", "c, d"]
GUIDE = {"README.md", "predict_timm.py"}  # beside timm's files
SIZE = 64  # where attention of stage 3 is at stride 2
FIELDS = {  # of a network with every kind of block, but few of them: exports take seconds a block
    "width": [16, 24, 32, 48],
    "present": [[1, 0], [0, 1], [1, 0, 0], [0, 1, 0]],
    "expansion": [[2, 1], [1, 3], [2, 1, 1], [1, 4, 1]],
    "attention": [[], [], [1, 0, 0], [0, 1, 0]],
}


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    space = make_run(folder, SIZE, CLASSES)
    network = {"arch": space.to_json(space.arch(**FIELDS)), "accuracy": 0.9}
    write_json(folder / "search/result.json", {"winners": [{"name": name, **network} for name in ("one", "two")]})
    add_retrain(folder, space, ("one", "two"))
    return folder


@pytest.fixture(scope="module", autouse=True)
def _stopwatch() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "measure_file", lambda path, backend: (0.5 * backend.threads, 0.6 * backend.threads, BUSY))
        patch.setattr(files, "peak_memory", lambda path, backend: 1_000_000 * backend.threads)
        yield


@pytest.fixture(scope="module")
def exported(run_folder: Path) -> Path:
    """The folder of winner "one" in all formats."""
    export(Config(run=str(run_folder), winners=("one",), threads=2))
    return run_folder / "export" / "one"


@pytest.fixture(scope="module")
def winner(run_folder: Path) -> Winner:
    return load_winners(run_folder, ("one",))[0]


def images(count: int, size: int = SIZE) -> Tensor:
    return normalized(example_images(count, size, seed=1), MEAN, STD)


def test_a_winner_has_logits_that_a_wrong_export_would_change(winner: Winner) -> None:
    logits = winner.model()(images(8))
    assert logits.std(dim=0).max() > 0.05
    assert winner.arch.values != winner.space.smallest.values


@pytest.mark.parametrize("batch", [1, 2, 7])
def test_onnx_takes_any_batch(exported: Path, winner: Winner, batch: int) -> None:
    session = onnxruntime.InferenceSession(exported / "model.onnx", providers=["CPUExecutionProvider"])
    assert [i.name for i in session.get_inputs()] == ["images"]
    assert session.get_inputs()[0].shape[1:] == [3, SIZE, SIZE]
    assert isinstance(session.get_inputs()[0].shape[0], str)
    x = images(batch)
    (logits,) = session.run(["logits"], {"images": x.numpy()})
    model = winner.model()
    assert_equal_but_for_rounding(torch.from_numpy(logits), model(x).detach(), model)


def test_onnx_describes_itself_and_not_this_machine(exported: Path, winner: Winner) -> None:
    session = onnxruntime.InferenceSession(exported / "model.onnx", providers=["CPUExecutionProvider"])
    properties = session.get_modelmeta().custom_metadata_map
    assert json.loads(properties["classes"]) == CLASSES
    assert json.loads(properties["mean"]) == list(MEAN)
    assert json.loads(properties["std"]) == list(STD)
    assert properties["preprocessing"].startswith("upright RGB; the shorter side resized to 64 pixels (bicubic")
    assert properties["input"].startswith("pixels of 0 to 1, less mean, over std")
    assert winner.space.from_json(json.loads(properties["arch"])) == winner.arch
    content = (exported / "model.onnx").read_bytes()
    assert b"site-packages" not in content
    assert str(Path.cwd()).encode() not in content


def test_result_states_what_was_measured(exported: Path) -> None:
    result = read_json(exported / "result.json")
    assert result["name"] == "one"
    onnx_file, coreml_file, timm_file = (result["files"][name] for name in ("onnx", "coreml", "timm"))
    assert onnx_file["latency_ms"] == {"min": 1.0, "median": 1.2, "threads": 2, "busy": BUSY}
    assert onnx_file["peak_memory_bytes"] == 2_000_000
    assert 0 < onnx_file["max_abs_diff"] < onnx_files.TOLERANCE["float32"] / 10
    assert 0 < coreml_file["max_abs_diff"] < coreml.TOLERANCE / 10
    assert timm_file["max_abs_diff"] == 0
    assert onnx_file["bytes"] == (exported / "model.onnx").stat().st_size
    assert (exported / "classes.txt").read_text(encoding="utf-8").splitlines() == CLASSES


def test_a_busy_machine_is_named(
    exported: Path, winner: Winner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def copied(_: nn.Module, path: Path, *others: Any) -> None:
        shutil.copy(exported / "model.onnx", path)

    monkeypatch.setattr(onnx_files, "write_onnx", copied)
    Exporter(winner, tmp_path, Config(formats=("onnx",)), None).write()
    assert "0.500 ms (1 thread); WARNING: the machine was busy" in capsys.readouterr().out


def test_timm_loads_it_without_us(exported: Path, winner: Winner) -> None:
    assert "search_spaces" not in (exported / "model.py").read_text()
    module = runpy.run_path(str(exported / "model.py"))
    model = module["create_model"]()
    timm.models.load_checkpoint(model, str(exported / "model.safetensors"))
    assert torch.equal(model.eval()(images(3)), winner.model()(images(3)))
    assert (module["IMAGE_SIZE"], module["MEAN"], module["STD"]) == (SIZE, MEAN, STD)


def test_the_sample_for_timm_says_what_a_photo_shows(
    exported: Path, winner: Winner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    image = Image.fromarray(example_images(1, 2 * SIZE)[0].permute(1, 2, 0).numpy())
    image.save(tmp_path / "photo.png")
    monkeypatch.syspath_prepend(exported)
    monkeypatch.delitem(sys.modules, "model", raising=False)
    runpy.run_path(str(exported / "predict_timm.py"))["main"](str(tmp_path / "photo.png"))
    monkeypatch.delitem(sys.modules, "model")
    pixels = torch.as_tensor(eval_transform(SIZE)(image))[None]
    shares = winner.model()(normalized(pixels, MEAN, STD))[0].softmax(0)
    expected = [f"{shares[i]:7.2%}  {CLASSES[i]}" for i in shares.argsort(descending=True)]
    assert capsys.readouterr().out.splitlines() == expected


def test_core_ml_package_is_a_classifier_of_images_in_half_precision(exported: Path, winner: Winner) -> None:
    import coremltools as ct

    package = ct.models.MLModel(str(exported / "model.mlpackage"), skip_model_load=True)
    assert sorted(p.name for p in (exported / "model.mlpackage").iterdir()) == ["Data", "Manifest.json"]
    description = package.get_spec().description
    image = description.input[0].type.imageType
    rgb = type(image).ColorSpace.Value("RGB")
    assert (image.width, image.height, image.colorSpace) == (SIZE, SIZE, rgb)
    assert [output.name for output in description.output] == ["classLabel", "classLabel_probs"]
    operations = load_program(package).functions["main"].operations
    (classify,) = [op for op in operations if op.op_type == "classify"]
    assert list(classify.classes.val) == CLASSES
    halves = [op for op in operations if op.op_type in ("conv", "linear", "matmul")]
    assert {str(op.outputs[0].dtype) for op in halves} == {str(ct.converters.mil.mil.types.fp16)}
    assert winner.space.from_json(json.loads(package.user_defined_metadata["arch"])) == winner.arch
    facts = read_json(exported / "result.json")["files"]["coreml"]
    parameters = sum(p.numel() for p in winner.model().parameters())
    assert facts["precision"] == "float16" == facts["weights"]
    assert 0.9 * parameters < facts["num_weights"] <= parameters  # normalization is folded into convolutions


def test_mil_program_gives_the_probabilities_of_the_network(exported: Path, winner: Winner) -> None:
    """Everything from pixels on: scale, normalization, attention at stride 2, every operator."""
    facts = read_json(exported / "result.json")["files"]["coreml"]
    assert facts["max_abs_diff"] < 0.01
    assert "PyTorch" in facts["executed_by"] or sys.platform == "darwin"
    other = trained_like(winner.space, winner.arch, seed=9)
    with pytest.raises(UserError, match=r"differ from PyTorch's by .* allowed is"):
        check_coreml(exported / "model.mlpackage", other, winner.info)


def test_unknown_mil_operator_is_named() -> None:
    op = SimpleNamespace(op_type="cumsum", inputs={}, outputs=[SimpleNamespace(shape=())], name="op")
    program = SimpleNamespace(functions={"main": SimpleNamespace(inputs={}, operations=[op], outputs=[])})
    with pytest.raises(NotImplementedError, match="cumsum"):
        Interpreter(program)({})


def test_on_apple_core_ml_predicts(exported: Path, winner: Winner, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for `MLModel.predict`, after its documentation: a PIL image in, a dict of probabilities out."""
    import coremltools as ct

    class Predicting(ct.models.MLModel):  # type: ignore[misc]
        def __init__(self, path: str, skip_model_load: bool) -> None:
            assert not skip_model_load
            super().__init__(path, skip_model_load=True)

        def predict(self, data: dict[str, object]) -> dict[str, object]:
            pixels = np.asarray(data["image"])
            assert pixels.shape == (SIZE, SIZE, 3)
            assert pixels.dtype == np.uint8
            x = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 255
            with torch.no_grad():
                probabilities = Classifier(winner.model(), winner.info)(x)[0].tolist()
            reverse = dict(reversed(list(zip(CLASSES, probabilities, strict=True))))
            return {"classLabel": max(reverse, key=reverse.__getitem__), "classLabel_probs": reverse}

    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(ct.models, "MLModel", Predicting)
    parity, facts = check_coreml(exported / "model.mlpackage", winner.model(), winner.info)
    assert parity.max_abs_diff < rounding(winner.model())
    assert facts["executed_by"] == "Core ML"


def test_an_export_that_differs_is_refused_and_leaves_the_last_one(
    exported: Path, run_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {p: p.stat().st_mtime_ns for p in exported.rglob("*")}

    def corrupt(model: nn.Module, path: Path, *args: object) -> None:
        proto = onnx.load(exported / "model.onnx")
        weight = max(proto.graph.initializer, key=lambda tensor: len(tensor.raw_data))
        weight.raw_data = (1.1 * onnx.numpy_helper.to_array(weight)).tobytes()
        onnx.save(proto, path)

    monkeypatch.setattr(onnx_files, "write_onnx", corrupt)
    with pytest.raises(UserError, match=r"not exported: one as onnx \(.* logits differ"):
        export(Config(run=str(run_folder), winners=("one",), formats=("onnx",)))
    after = {p: p.stat().st_mtime_ns for p in exported.rglob("*")}
    told = {exported / name for name in ("result.json", "classes.txt", "README.md")}
    told |= {path for path in exported.iterdir() if path.suffix in (".kt", ".swift") or path.name.startswith("predict")}
    assert {p: t for p, t in after.items() if p not in told} == {p: t for p, t in before.items() if p not in told}
    assert [p.name for p in exported.parent.iterdir()] == ["one"]


def test_a_format_that_fails_costs_that_format_alone(run_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(_: nn.Module, path: Path, *__: object) -> None:
        path.mkdir()
        raise RuntimeError("Failed to convert the program. Please …") from NotImplementedError("MIL operator cumsum")

    monkeypatch.setattr(coreml, "write_coreml", unknown)
    with pytest.raises(UserError, match=r"not exported: two as coreml \(MIL operator cumsum\); all else is written"):
        export(Config(run=str(run_folder), winners=("two",), formats=("coreml", "timm")))
    found = {path.name for path in (run_folder / "export/two").iterdir()} - GUIDE
    assert found == {"classes.txt", "model.py", "model.safetensors", "result.json"}
    assert read_json(run_folder / "export/two/result.json")["failed"] == {"coreml": "MIL operator cumsum"}
    shutil.rmtree(run_folder / "export/two")


def test_an_interrupted_export_leaves_nothing(run_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(path: Path, *_: object) -> None:
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr("nas.exporting.timm.save_tensors", interrupt)
    with pytest.raises(KeyboardInterrupt):
        export(Config(run=str(run_folder), winners=("two",), formats=("timm",)))
    assert not list(run_folder.glob("export/*two*"))


def test_formats_not_asked_for_are_not_written(run_folder: Path) -> None:
    (result,) = export(Config(run=str(run_folder), winners=("two",), formats=("timm",)))
    assert set(result["files"]) == {"timm"} and not result["failed"]
    written = {p.name for p in (run_folder / "export/two").iterdir()} - GUIDE
    assert written == {"classes.txt", "model.py", "model.safetensors", "result.json"}


@pytest.mark.heavy
def test_opset_is_kept_or_refused(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 32), nn.Flatten()).eval()
    onnx_files.write_onnx(model, tmp_path / "m.onnx", 32, {}, 18)
    proto = onnx.load(tmp_path / "m.onnx")
    assert [entry.version for entry in proto.opset_import if entry.domain == ""] == [18]
    with pytest.raises(UserError, match="--opset"):
        onnx_files.write_onnx(model, tmp_path / "m.onnx", 32, {}, 99)


def test_mistakes_have_one_line_with_the_remedy(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match=r"no retrained 'three'; choose from one, two, or run nas.retrain"):
        export(Config(run=str(run_folder), winners=("three",)))
    with pytest.raises(UserError, match="--formats is empty"):
        export(Config(run=str(run_folder), formats=()))
    make_run(tmp_path / "runs/new")
    with pytest.raises(UserError, match=r"python -m nas.retrain"):
        export(Config(run=str(tmp_path / "runs/new")))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"python -m nas.retrain"):
        export(Config())


def test_flags_of_int8_are_for_winners_that_were_searched_in_int8(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their files are int8 without --precision, so these flags have an effect."""
    add_retrain(tmp_path, make_run(tmp_path), ("one",))
    given = settings(Config, run=str(tmp_path), calibration_images=8, keep_float=["stem"])
    with pytest.raises(UserError, match="--keep-float is for --formats onnx --precision int8; leave it out"):
        export(given)
    path = tmp_path / "retrain/one/result.json"
    write_json(path, {**read_json(path), "precision": "int8"})
    written: dict[str, Any] = {"files": {"onnx-int8": {}}, "failed": {}}
    monkeypatch.setattr("nas.exporting.export.export_files", lambda *_: written)
    assert export(given)[0]["files"] == written["files"]
    with pytest.raises(UserError, match="--calibration-images is for --precision int8; leave it out"):
        export(settings(Config, run=str(tmp_path), precision=["float32"], calibration_images=8))


def test_truncated_weights_are_named(tmp_path: Path) -> None:
    space = make_run(tmp_path)
    add_retrain(tmp_path, space, ("one",))
    path = tmp_path / "retrain/one/model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(UserError, match=r"model.safetensors is truncated"):
        export(Config(run=str(tmp_path), formats=("timm",)))


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    space = make_run(tmp_path)
    add_retrain(tmp_path, space, ("one", "two"))
    tensors, info = load_tensors(tmp_path / "retrain/two/model.safetensors")
    save_tensors(tmp_path / "retrain/one/model.safetensors", tensors, info)
    with pytest.raises(UserError, match=r"another space or size"):
        export(Config(run=str(tmp_path), winners=("one",), formats=("timm",)))


def test_no_number_is_no_parity(winner: Winner) -> None:
    x = images(2)
    parity = compare(lambda _: np.full((2, 3), np.nan), winner.model(), [x])
    assert parity.max_abs_diff == float("inf")


def test_tolerances_are_far_from_what_is_measured(exported: Path) -> None:
    result = read_json(exported / "result.json")
    assert result["files"]["onnx"]["max_abs_diff"] < onnx_files.TOLERANCE["float32"] / 10
    assert result["files"]["coreml"]["max_abs_diff"] < coreml.TOLERANCE / 10


def test_a_network_with_branches_is_exported_without_them(tmp_path: Path) -> None:
    """ONNX holds the deployed convolutions alone, timm's file what was trained; both compute the same."""
    space = make_run(tmp_path, 32, CLASSES, "mobileone-nano")
    add_retrain(tmp_path, space, ("one",))
    (result,) = export(Config(run=str(tmp_path), formats=("onnx", "timm")))
    assert result["files"]["timm"]["max_abs_diff"] == 0
    folder = tmp_path / "export/one"
    graph = onnx.load(folder / "model.onnx").graph
    assert {node.op_type for node in graph.node}.isdisjoint({"BatchNormalization", "Add"})
    (winner,) = load_winners(tmp_path, ())
    weights = [weight.dims for weight in graph.initializer if weight.data_type == onnx.TensorProto.FLOAT]
    assert sum(map(math.prod, weights)) == num_params(space, winner.arch)
    trained = winner.trained_model()
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    logits = session.run(None, {"images": images(3, 32).numpy()})[0]
    torch.testing.assert_close(torch.from_numpy(logits), trained(images(3, 32)).detach(), rtol=1e-3, atol=1e-3)
    assert {name.rpartition(".")[2] for name in load_tensors(folder / "model.safetensors")[0]} >= {"running_mean"}
