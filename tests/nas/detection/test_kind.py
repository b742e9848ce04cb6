"""nas.detect from images to a page, on a few small pictures; and what it refuses."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from nas import detect
from nas.dense.job import configure, train
from nas.detection import kind as kinds
from nas.detection.config import Config
from nas.detection.kind import Detection
from nas.runs.metrics import read_metrics
from search_spaces import UserError
from search_spaces.command import parse
from search_spaces.command.files import read_json, write_json
from tests.nas.scenes.folders import NAMES, coco_of, write_coco
from tests.nas.tiny import interrupt_at

FLAGS = (
    *("--data", "images", "--backbone", "mobileone-nano:smallest", "--image-size", "32", "--run", "r"),
    *("--epochs", "2", "--batch-size", "4", "--augment", "hflip", "--amp", "off"),
)
FILES = {"onnx": {"file": "model.onnx", "bytes": 1e6, "differences": {"boxes": 1e-5, "scores": 1e-7}}}


@pytest.fixture(scope="module", autouse=True)
def _no_files() -> Any:
    """Files take seconds and have tests of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kinds.DetectorFiles, "write", lambda *_: (FILES, {}))
        yield


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `images` and a finished run `r`, whose average of weights is that of the last steps."""
    folder = tmp_path_factory.mktemp("detect")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_coco(Path("images"), coco_of(24, per_image=2))
        detect.main([*FLAGS])
    return folder


@pytest.fixture
def here(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, in which the test runs."""
    shutil.copytree(trained, tmp_path / "copy", ignore=shutil.ignore_patterns(".lock"))
    monkeypatch.chdir(tmp_path / "copy")
    return Path("runs/r/detect")


def test_a_run_has_figures_weights_events_and_a_page(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = read_json(here / "result.json")
    assert result["classes"] == list(NAMES) and result["num_images"] == {"train": 14, "search": 5, "test": 5}
    assert result["files"] == FILES and result["epochs"] == 2
    for split in ("search", "test"):
        assert 0 <= result[split]["ap"] <= result[split]["ap50"] <= 1 and result[split]["num_objects"] == 10
    lines = read_metrics(here / "metrics.jsonl")
    assert [line["step"] for line in lines] == [3, 6] and all("ap" in line for line in lines)
    assert list((here / "tensorboard").glob("events*"))
    page = (here / "report.html").read_text()
    assert page.count("data:image/jpeg;base64") == 5 and "<script>" in page and "Precision and recall" in page
    detect.main(["--resume", "--run", "r", "--threads", "2"])
    assert "is trained" in capsys.readouterr().out and read_json(here / "result.json")["test"] == result["test"]


def test_two_halves_are_one_whole(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the network that it began with is gone: the checkpoint has its weights."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(trained / "images", "images")
    interrupt_at(monkeypatch, 4, detect.main, *FLAGS)
    assert not Path("runs/r/detect/result.json").exists()
    monkeypatch.setattr("nas.dense.job.find_start", lambda *_: pytest.fail("it is asked for"))
    detect.main(["--resume"])
    halves, whole = (load_file(folder / "runs/r/detect/model.safetensors") for folder in (tmp_path, trained))
    assert halves.keys() == whole.keys() and all(torch.equal(halves[name], whole[name]) for name in whole)


def test_a_part_of_a_batch_is_a_batch(here: Path) -> None:
    """What two processes with a part each, or one with both, have of a step."""
    config = configure(Detection(), parse(Config, [*FLAGS, "--run", "new", "--accumulation-steps", "2"], "", ""))
    train(Detection(), config)
    assert Path("runs/new/detect/result.json").exists()


def edited(change: Any) -> None:
    path = Path("images/annotations.json")
    coco = json.loads(path.read_text())
    change(coco)
    path.write_text(json.dumps(coco))


def test_changed_annotations_are_not_gone_on_with(here: Path) -> None:
    edited(lambda coco: coco["annotations"][3].update(bbox=[1, 1, 9, 9]))
    with pytest.raises(
        UserError, match=r"^images is not as it was when runs/r/detect was begun: it has other images, or"
    ):
        detect.main(["--resume"])


def test_moved_images_are_gone_on_with(here: Path) -> None:
    Path("images").rename("photos")
    with pytest.raises(UserError, match=r"images"):
        detect.main(["--resume"])
    detect.main(["--resume", "--data", "photos"])
    assert read_json(here / "config.json")["data"] == "photos"


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("result.json", lambda path: path.write_text("{"), r"result.json"),
        (
            "result.json",
            lambda path: put(path, "test", {"ap": 2}),
            r"result.json has no figures of boxes \(.*restore it",
        ),
        ("result.json", lambda path: put(path, "classes", ["cat"]), r"."),
        ("model.safetensors", lambda path: path.write_bytes(path.read_bytes()[:2000]), r"model.safetensors"),
    ],
)
def test_damaged_files_are_named(name: str, damage: Any, message: str, here: Path) -> None:
    damage(here / name)
    with pytest.raises(UserError, match=message) as caught:
        detect.main(["--resume"])
    assert "\n" not in str(caught.value)


def put(path: Path, name: str, value: Any) -> None:
    write_json(path, {**read_json(path), name: value})


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--batch-size", "99"), r"^--batch-size 99 is more than the 14 training images; lower it$"),
        (("--image-size", "33"), r"33"),
        (("--image-size", "8"), r"^--image-size is 8; give a number at least 32"),
        (("--backbone", "resnet"), r"resnet"),
        (("--backbone", "mobileone-nano:huge"), r"huge"),
        (("--backbone", "mobileone-nano:smallest", "--init", "nowhere.safetensors"), r"nowhere"),
        (("--data", "nowhere"), r"nowhere"),
        (("--formats", "tflite"), r"--formats"),
        (("--run", "r"), r"^runs/r/detect exists; go on with it by --resume, or make another with --run$"),
        (("--clip-grad", "0", "--clip-mode", "agc"), r"^--clip-mode is for --clip-grad above 0; leave it out$"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(flags: tuple[str, ...], message: str, here: Path) -> None:
    with pytest.raises(UserError, match=message) as caught:
        detect.main([*FLAGS, "--run", "new", *flags])
    assert "\n" not in str(caught.value) and not Path("runs/new").exists()


def test_splits_without_objects_are_refused(here: Path) -> None:
    edited(lambda coco: coco.update(annotations=coco["annotations"][:1]))
    with pytest.raises(UserError, match=r"^images: none of the \d+ images of the \w+ split has an object"):
        detect.main([*FLAGS, "--run", "new"])


def test_too_few_images_are_refused(here: Path) -> None:
    edited(lambda coco: coco.update(images=coco["images"][:2], annotations=coco["annotations"][:4]))
    with pytest.raises(UserError, match=r"^images has 2 images, too few for a train, a search and a test split"):
        detect.main([*FLAGS, "--run", "new"])


def test_recipes_are_of_the_images() -> None:
    kind = Detection()
    published, embedded = (configure(kind, parse(Config, flags, "", "")) for flags in (["--data", "x"], []))
    assert (published.epochs, published.image_size, published.augment) == (200, 320, "ssd")
    assert published.lr * 128 / 1024 == pytest.approx(9e-4) and published.weight_decay == 0.01
    assert embedded.image_size < 320 and embedded.epochs < 100
    assert configure(kind, parse(Config, ["--image-size", "64", "--epochs", "3"], "", "")).image_size == 64


def test_names_in_a_page_are_text(here: Path) -> None:
    result = read_json(here / "result.json")
    evil = "<script>alert(1)</script>"
    put(here / "result.json", "classes", [evil, result["classes"][1]])
    put(here / "result.json", "command", evil)
    detect.main(["--resume", "--run", "r"])
    page = (here / "report.html").read_text()
    assert evil not in page and "&lt;script&gt;alert(1)" in page and not re.search(r"<(img|a)[^>]*onerror", page)
