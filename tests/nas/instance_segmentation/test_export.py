"""The ONNX file finds what PyTorch finds, says what it is, and is refused where it finds something else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest
import torch

from nas.dense import export as files
from nas.exporting.parity import example_images, normalized
from nas.instance_segmentation.export import InstanceFiles, check_onnx
from search_spaces import UserError
from search_spaces.dense.maskrcnn import MaskRCNN, Sizes
from tests.nas.detection.small import SIZE, backbone, result


def network(seed: int = 0) -> MaskRCNN:
    """One that nothing has trained, whose scores are nevertheless apart; its branches are merged in the file."""
    torch.manual_seed(seed)
    made = MaskRCNN(backbone(), 3, Sizes(8, 40, 16, 6))
    with torch.no_grad():
        made.roi_heads.box_predictor.cls_score.weight.mul_(20)
    return made.eval()


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("files") / "export"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "onnx_latency", lambda *_: {"latency_ms": {"min": 1.0, "threads": 2, "busy": True}})
        made = InstanceFiles(network(), result(), example_images(8, SIZE), 0.4, threads=2)
        found, failed = made.write(folder, ("onnx",))
    assert not failed
    return folder / "model.onnx", found["onnx"]


def test_it_is_written_and_agrees(written: tuple[Path, dict[str, Any]]) -> None:
    path, facts = written
    assert facts["same"] == {"objects": 1} and facts["differences"].keys() == {"boxes", "scores", "masks"}
    assert facts["differences"]["boxes"] < 0.01 and facts["differences"]["masks"] < 1e-3
    properties = {one.key: one.value for one in onnx.load(path).metadata_props}
    assert properties["score"] == "0.4" and properties["classes"] == '["cat", "dog", "eel"]'
    assert not any(node.doc_string or node.metadata_props for node in onnx.load(path).graph.node)


def test_images_with_many_objects_and_with_few(written: tuple[Path, dict[str, Any]]) -> None:
    """Of any image, in the order of the scores: how many there are is no constant of the file."""
    images, facts = example_images(6, SIZE, seed=3), result()
    images[0] = 0
    with torch.inference_mode():
        expected = network().predict(normalized(images, facts["mean"], facts["std"]))
    for one, truth in zip(files.onnx_answers(written[0], facts)(images), expected, strict=True):
        assert len(one["scores"]) == len(truth["scores"]) and one["masks"].shape == (len(one["scores"]), 28, 28)
        assert torch.allclose(one["scores"], truth["scores"], atol=1e-4) and (one["scores"].diff() <= 0).all()
        assert one["labels"].tolist() == truth["labels"].tolist()
        assert torch.allclose(one["boxes"], truth["boxes"], atol=0.05)
    assert sum(len(truth["scores"]) for truth in expected) > 6


def test_the_file_of_another_network_is_refused(written: tuple[Path, dict[str, Any]]) -> None:
    with pytest.raises(
        UserError, match=r"^ONNX Runtime finds .* % of PyTorch's \d+ objects, 99 % must be within 1 pix"
    ):
        check_onnx(written[0], network(seed=1), result(), example_images(4, SIZE))
