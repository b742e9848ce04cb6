"""Files give the boxes that PyTorch gives, and say of themselves what a phone needs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nas.dense import export as files
from nas.detection import export
from nas.detection.export import CONFIDENCE, COORDINATES, DetectorFiles, ForVision, check_coreml, check_onnx
from nas.exporting import coreml
from nas.exporting.parity import example_images, normalized
from search_spaces import UserError
from search_spaces.dense.ssdlite import IOU
from tests.nas.detection.small import CLASSES, SIZE, detector, result

SHOWN = 0.25


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], dict[str, str]]:
    """Both files, timed by nobody; beside their folder the ONNX model before NMS."""
    import onnx

    with_nms = export.with_nms
    folder = tmp_path_factory.mktemp("files") / "export"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "onnx_latency", lambda *_: {"latency_ms": {"min": 1.0, "threads": 2, "busy": True}})
        patch.setattr(export, "with_nms", lambda raw: onnx.save(raw, folder.with_name("raw.onnx")) or with_nms(raw))
        found, failed = DetectorFiles(detector(), result(), SHOWN, threads=2).write(folder, ("onnx", "coreml"))
    return folder, found, failed


def test_both_are_written_and_agree(written: Any) -> None:
    folder, found, failed = written
    assert not failed and (folder / "classes.txt").read_text().split() == list(CLASSES)
    onnx, core_ml = found["onnx"], found["coreml"]
    assert onnx["differences"]["boxes"] < 0.01 and onnx["differences"]["scores"] < 1e-4 and onnx["same_boxes"] > 0.99
    assert 0 < max(core_ml["differences"].values()) < 0.02
    assert core_ml["outputs"] == [CONFIDENCE, COORDINATES] and core_ml["input"] == f"RGB {SIZE} x {SIZE}"
    assert min(onnx["bytes"], core_ml["bytes"]) > 1e5


def test_onnx_gives_what_decode_gives(written: Any) -> None:
    """Boxes within a pixel, scores within a thousandth: the surest ones of every image, in their order."""
    images = example_images(6, SIZE, seed=3)
    network, facts = detector(), result()
    with torch.inference_mode():
        expected = network.predict(normalized(images, facts["mean"], facts["std"]))
    for one, truth in zip(files.onnx_answers(written[0] / "model.onnx", facts)(images), expected, strict=True):
        assert set(one) == {"boxes", "scores", "labels"} and len(one["scores"]) == len(truth["scores"]) > 10
        assert (one["scores"] - truth["scores"]).abs().max() < 1e-3 and (one["scores"].diff() <= 0).all()
        assert export.num_same(one, truth) >= 0.99 * len(truth["scores"])
        assert torch.equal(one["labels"][:5], truth["labels"][:5])


@pytest.mark.parametrize(
    ("scores", "kept"),
    [
        ([[0.9, 0.8, 0.7], [0.6, 0.0, 0.95]], [(0.95, 1, 2), (0.9, 0, 0), (0.7, 0, 2), (0.6, 1, 0)]),
        ([[0.01] * 3] * 2, []),
    ],
)
def test_of_boxes_that_overlap_one_of_each_class_remains(
    scores: list[list[float]], kept: list[tuple[float, int, int]], tmp_path: Path
) -> None:
    """The second box lies on the first."""
    import onnx
    import onnxruntime

    boxes = np.array([[[0, 0, 10, 10], [1, 0, 11, 10], [20, 20, 30, 30]]], dtype=np.float32)
    text = """<ir_version: 10, opset_import: ["": 18]>
    raw (float[1, 3, 4] all, float[1, 2, 3] given) => (float[1, 3, 4] raw_boxes, float[1, 2, 3] raw_scores)
    { raw_boxes = Identity(all) raw_scores = Identity(given) }"""
    model = export.with_nms(onnx.parser.parse_model(text))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found = session.run(["boxes", "scores", "labels"], {"all": boxes, "given": np.array([scores], dtype=np.float32)})
    assert found[1].tolist() == pytest.approx([score for score, _, _ in kept])
    assert found[2].tolist() == [label for _, label, _ in kept]
    assert np.array_equal(found[0], boxes[0, [place for _, _, place in kept]])


def test_what_nms_leaves_is_what_decode_leaves() -> None:
    """Of PyTorch's own numbers, on which files are compared."""
    network, images = detector(), torch.randn(1, 3, SIZE, SIZE)
    with torch.inference_mode():
        found = export.after_nms(dict(zip(export.RAW, export.Scored(network)(images), strict=True)))
        (expected,) = network.predict(images)
    assert len(found["scores"]) > 10 and found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_onnx_says_how_it_is_used(written: Any) -> None:
    import onnx

    model = onnx.load(written[0] / "model.onnx")
    said = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(said["classes"]) == list(CLASSES) and json.loads(said["mean"]) == [0.5, 0.4, 0.3]
    assert (json.loads(said["score"]), json.loads(said["iou"])) == (SHOWN, IOU) and f"{SIZE} x {SIZE}" in said[
        "preprocessing"
    ]
    assert [node.op_type for node in model.graph.node].count("NonMaxSuppression") == 1


def test_core_ml_is_what_vision_takes(written: Any) -> None:
    spec = coreml.load_package(written[0] / "model.mlpackage").get_spec()
    program, nms = spec.pipeline.models
    assert program.WhichOneof("Type") == "mlProgram" and nms.WhichOneof("Type") == "nonMaximumSuppression"
    suppression = nms.nonMaximumSuppression
    assert list(suppression.stringClassLabels.vector) == list(CLASSES) and suppression.pickTop.perClass
    assert (suppression.iouThreshold, suppression.confidenceThreshold) == (IOU, SHOWN)
    inputs = {one.name: one.type for one in spec.description.input}
    assert inputs["image"].WhichOneof("Type") == "imageType" and not inputs["image"].isOptional
    assert inputs["iouThreshold"].isOptional and inputs["confidenceThreshold"].isOptional
    assert [one.name for one in spec.description.output] == ["confidence", "coordinates"]
    given = {one.name: one.type.multiArrayType for one in nms.description.input}
    assert {one.name for one in program.description.output} == given.keys()
    assert {one.dataType for one in given.values()} == {nms.description.input[0].type.multiArrayType.FLOAT32}
    rows = [one.type.multiArrayType.shapeRange.sizeRanges for one in nms.description.output]
    assert [(a.lowerBound, a.upperBound, b.upperBound) for a, b in rows] == [(0, -1, len(CLASSES)), (0, -1, 4)]
    assert json.loads(spec.description.metadata.userDefined["classes"]) == list(CLASSES)


def test_vision_is_given_middle_and_sides_as_shares() -> None:
    network, images = detector(), torch.randn(1, 3, SIZE, SIZE)
    with torch.inference_mode():
        confidence, coordinates = ForVision(network)(images)
        boxes, scores = network.scored(network(images))
    assert torch.equal(confidence, scores[0]) and coordinates.shape == (len(network.anchors), 4)
    middle, sides = (coordinates * SIZE).split(2, dim=1)
    assert torch.allclose(torch.cat((middle - sides / 2, middle + sides / 2), dim=1), boxes[0], atol=1e-4)


def test_files_of_another_network_are_refused(written: Any) -> None:
    folder, facts, other = written[0], result(), detector()
    with torch.no_grad():
        for parameter in other.heads.parameters():
            parameter.mul_(0.5)
    with pytest.raises(UserError, match=r"^ONNX Runtime's boxes differ from PyTorch's by .* of PyTorch's remain after"):
        check_onnx(folder / "model.onnx", folder.with_name("raw.onnx"), other, facts)
    with pytest.raises(UserError, match=r"^the Core ML program's confidences differ from PyTorch's by .*float16$"):
        check_coreml(folder / "model.mlpackage", other, facts)


def test_a_detector_that_finds_nothing_has_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No score is above the threshold, in PyTorch or in the file: they agree."""
    monkeypatch.setattr(files, "onnx_latency", lambda *_: {"latency_ms": {}})
    network = detector()
    with torch.no_grad():
        for head in network.heads:
            head.columns[-1].weight.mul_(0.01)  # type: ignore[index, union-attr]
            head.columns[-1].bias.view(-1, 5 + len(CLASSES))[:, 4] = 20  # type: ignore[index, union-attr]
    facts, failed = DetectorFiles(network, result(), SHOWN, threads=2).write(tmp_path / "export", ("onnx",))
    assert not failed and facts["onnx"]["same_boxes"] == 1


def test_a_file_that_cannot_be_written_leaves_the_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def broken(_: Path) -> Any:
        raise RuntimeError("no such\noperator")

    def fine(path: Path) -> Any:
        path.write_text("x")
        return {"differences": {"boxes": 1e-5}}

    writers: Any = {"onnx": fine, "coreml": broken}
    found, failed = files.write_files(tmp_path / "e", ("onnx", "coreml"), writers, result())
    assert set(found) == {"onnx"} and failed == {"coreml": "no such operator"}
    assert "model.onnx" in capsys.readouterr().out and (tmp_path / "e" / "model.onnx").exists()
    with pytest.raises(UserError, match=r"^not exported: coreml: no such operator; all else is written, leave these"):
        files.check_written(failed)
    files.check_written({})


def test_files_of_other_formats_stay(tmp_path: Path) -> None:
    def folder(path: Path) -> Any:
        path.mkdir()
        return {"differences": {}}

    def file(path: Path) -> Any:
        path.write_text("x")
        return {"differences": {}}

    writers: Any = {"onnx": file, "coreml": folder}
    first, _ = files.write_files(tmp_path / "e", ("coreml",), writers, result())
    then = result() | {"files": first}
    both, _ = files.write_files(tmp_path / "e", ("onnx",), writers, then)
    assert set(both) == {"onnx", "coreml"} and both["coreml"] == first["coreml"]
    assert (tmp_path / "e" / "model.mlpackage").is_dir() and (tmp_path / "e" / "model.onnx").exists()


def test_what_is_no_number_differs() -> None:
    assert files.differences({"x": torch.tensor([float("nan")])}, {"x": torch.tensor([1.0])}) == {"x": np.inf}
