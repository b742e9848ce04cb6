from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

from nas import segment
from nas.dense.job import configure
from nas.dense.kind import load_trained
from nas.dense.result import read_result
from nas.runs.checkpoint import load_tensors
from nas.segmentation.export import SegmenterFiles
from nas.segmentation.kind import Segmentation
from nas.training.trainer import Trainer
from search_spaces import UserError
from search_spaces.command import settings
from tests.nas.conftest import made_once
from tests.nas.scenes.folders import HEIGHT, WIDTH, write_masks

SIZE = 32
ARGS = ("--data", "photos", "--image-size", str(SIZE), "--backbone", "mobileone-nano:smallest", "--batch-size", "4")
QUICK = ("--epochs", "2", "--augment", "none", "--amp", "off", "--checkpoint-seconds", "0")
ONNX = ("--formats", "onnx")
SEGMENT = Path("runs/r/segment")


def train_once(folder: Path) -> None:
    """Makes `photos` there, and `runs/r`, in which a segmenter is trained."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_masks(Path("photos"), 20)
        segment.main([*ARGS, *QUICK, *ONNX, "--run", "r"])


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_once(tmp_path_factory, "segmented", train_once)


@pytest.fixture
def trained(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy, in which the process is."""
    folder = tmp_path / "copy"
    shutil.copytree(made, folder)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def no_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is exported: that takes longer than a short training."""
    monkeypatch.setattr(SegmenterFiles, "write", lambda *_: ({}, {}))


def test_a_run_has_figures_files_events_and_a_page(trained: Path) -> None:
    result = read_result(SEGMENT)
    test = result["test"]
    counts = np.array(test["confusion"])
    assert result["classes"] == ["0", "1", "2"] and counts.shape == (3, 3)
    assert counts.sum() == result["num_images"]["test"] * HEIGHT * WIDTH
    known = [one for one in test["iou"] if one is not None]
    assert test["miou"] == pytest.approx(np.mean(known))
    assert test["pixel_accuracy"] == pytest.approx(np.trace(counts) / counts.sum())
    lines = [json.loads(line) for line in (SEGMENT / "metrics.jsonl").read_text().splitlines()]
    assert [0 <= line["miou"] <= 1 for line in lines if "miou" in line] == [True, True]
    assert list(SEGMENT.glob("**/events.out.tfevents*"))
    page = (SEGMENT / "report.html").read_text()
    assert page.count('<img src="data:image/png;base64,') == 3 * result["num_images"]["test"]
    assert f"mIoU {100 * test['miou']:.1f} %" in page and "export/model.onnx" in page and "does not count" in page


def test_the_onnx_file_gives_the_class_of_each_pixel(trained: Path) -> None:
    import onnxruntime

    facts = read_result(SEGMENT)["files"]["onnx"]
    assert facts["differences"]["logits"] < 1e-3 and facts["same"]["pixels"] > 0.999 and facts["latency_ms"]["min"] > 0
    path = SEGMENT / "export/model.onnx"
    session = onnxruntime.InferenceSession(path)
    (output,) = session.get_outputs()
    assert (output.name, output.type, output.shape) == ("classes", "tensor(uint8)", [1, SIZE, SIZE])
    network, _ = load_trained(Segmentation(), SEGMENT)
    x = torch.randn(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = network(x).argmax(dim=1)
    (found,) = session.run(None, {"images": x.numpy()})
    assert (found == expected.numpy()).mean() > 0.99
    facts = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    assert json.loads(facts["classes"]) == ["0", "1", "2"] and facts["image_size"] == str(SIZE)


@pytest.mark.usefixtures("no_files")
def test_trained_in_two_halves_equals_trained_in_one(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, fit = Trainer._one, Trainer.fit

    def stop(self: Any, *batch: Any) -> None:
        if self.step == 4:
            raise KeyboardInterrupt
        one(self, *batch)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_one", stop)
        with pytest.raises(KeyboardInterrupt):
            segment.main([*ARGS, *QUICK, "--run", "halves"])
    started: list[int] = []

    def spied(self: Any, description: str) -> None:
        started.append(self.step)
        fit(self, description)

    monkeypatch.setattr(Trainer, "fit", spied)
    segment.main(["--resume", "--run", "halves"])
    assert started == [4]
    halves, whole = (load_tensors(Path(f"runs/{run}/segment/model.safetensors"))[0] for run in ("halves", "r"))
    assert halves.keys() == whole.keys() and all(torch.equal(halves[name], whole[name]) for name in whole)
    assert read_result(Path("runs/halves/segment"))["test"] == read_result(SEGMENT)["test"]


def test_a_finished_run_writes_other_files(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (SEGMENT / "report.html").unlink()
    segment.main(["--resume", "--run", "r", "--formats", "coreml"])
    printed = capsys.readouterr().out
    assert "is trained" in printed and printed.endswith("next: open runs/r/segment/report.html\n")
    files = read_result(SEGMENT)["files"]
    facts = files["coreml"]
    assert set(files) == {"onnx", "coreml"}, "what was there stays"
    assert facts["outputs"] == ["classes"] and facts["same"]["pixels"] > 0.98
    assert (SEGMENT / "report.html").exists() and (SEGMENT / "export/model.onnx").exists()
    import coremltools as ct

    spec = ct.models.MLModel(str(SEGMENT / "export/model.mlpackage"), skip_model_load=True).get_spec()
    (output,) = spec.description.output
    assert output.name == "classes" and list(output.type.multiArrayType.shape) == [1, SIZE, SIZE]
    assert output.type.multiArrayType.dataType == ct.proto.FeatureTypes_pb2.ArrayFeatureType.INT32
    labels = json.loads(spec.description.metadata.userDefined["com.apple.coreml.model.preview.params"])["labels"]
    assert labels == ["0", "1", "2"]


# ---- mistakes


def test_changed_masks_are_refused(trained: Path) -> None:
    Image.fromarray(np.ones((HEIGHT, WIDTH), dtype=np.uint8)).save("photos/masks/3.png")
    with pytest.raises(UserError, match=r"photos is not as it was when runs/r/segment was begun: it has other images"):
        segment.main(["--resume", "--run", "r"])


@pytest.mark.usefixtures("no_files")
def test_moved_images_are_taken_down(trained: Path) -> None:
    Path("photos").rename("elsewhere")
    segment.main(["--resume", "--run", "r", "--data", "elsewhere"])
    assert json.loads((SEGMENT / "config.json").read_text())["data"] == "elsewhere"


@pytest.mark.parametrize("damage", ['{"space"', '{"space": "mobileone-nano"}'])
def test_a_damaged_result_is_one_line(trained: Path, damage: str) -> None:
    (SEGMENT / "result.json").write_text(damage)
    with pytest.raises(
        UserError, match=r"runs/r/segment/result.json is not .*restore it, or train again|JSON"
    ) as error:
        segment.main(["--resume", "--run", "r"])
    assert "\n" not in str(error.value)


def test_figures_of_something_else_are_one_line(trained: Path) -> None:
    result = json.loads((SEGMENT / "result.json").read_text())
    result["test"]["confusion"].pop()
    (SEGMENT / "result.json").write_text(json.dumps(result))
    with pytest.raises(UserError, match=r"result.json has figures of other classes than its 3; restore it"):
        segment.main(["--resume", "--run", "r"])
    del result["search"]["miou"]
    (SEGMENT / "result.json").write_text(json.dumps(result))
    with pytest.raises(UserError, match=r"result.json has no figures of masks \(.*miou"):
        segment.main(["--resume", "--run", "r"])


def test_other_settings_are_refused_on_resume(trained: Path) -> None:
    with pytest.raises(UserError, match="cannot resume runs/r/segment with other settings: image_size was 32, now 64"):
        segment.main(["--resume", "--run", "r", "--image-size", "64"])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--batch-size", "1"], "--batch-size is 1; give a number at least 2"),
        (["--batch-size", "4", "--accumulation-steps", "4"], "needs 2 images"),
        (["--batch-size", "64"], "--batch-size 64 is more than the 12 training images; lower it"),
        (["--image-size", "16"], "--image-size is 16; give a number at least 32"),
        (["--image-size", "33", "--backbone", "efficientvit-nano:smallest"], "33"),
        (["--backbone", "nowhere:s0"], "nowhere"),
    ],
)
def test_settings_that_cannot_be(trained: Path, flags: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        segment.main([*ARGS, *QUICK, "--run", "bad", *flags])
    assert "\n" not in str(error.value)


@pytest.mark.usefixtures("no_files")
def test_a_class_that_no_test_image_has_is_left_out(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One mask of 20 has it, and its image is trained on."""
    for i in range(20):
        mask = np.asarray(Image.open(f"photos/masks/{i}.png"))
        Image.fromarray(np.minimum(mask, 1)).save(f"photos/masks/{i}.png")
    Image.fromarray(np.full((HEIGHT, WIDTH), 2, dtype=np.uint8)).save("photos/masks/0.png")
    segment.main([*ARGS, *QUICK, "--epochs", "1", "--run", "rare"])
    assert "2" in capsys.readouterr().err
    test = read_result(Path("runs/rare/segment"))["test"]
    assert test["iou"][2] in (None, 0.0) and np.array(test["confusion"])[2].sum() == 0


def test_recipes_follow_the_images() -> None:
    kind = Segmentation()
    photos = configure(kind, settings(kind.config, data="photos"))
    assert (photos.image_size, photos.epochs, photos.augment) == (512, 50, "published")
    assert photos.lr * 128 / 1024 == pytest.approx(9e-4)  # MobileViT's Appendix D
    scenes = configure(kind, settings(kind.config, epochs=3))
    assert scenes.image_size <= 128 and scenes.epochs == 3
