"""nas.instances from images to a page, on a few small pictures; and what it refuses."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from nas import instances
from nas.dense.job import configure
from nas.dense.kind import load_trained
from nas.instance_segmentation import kind as kinds
from nas.instance_segmentation.config import Config
from nas.instance_segmentation.kind import Instances
from nas.runs.metrics import read_metrics
from search_spaces import UserError
from search_spaces.command import parse
from search_spaces.command.files import read_json, write_json
from search_spaces.dense.maskrcnn import Sizes
from tests.nas.scenes.folders import NAMES, coco_of, outlined_coco, write_coco
from tests.nas.tiny import interrupt_at

FLAGS = (
    *("--data", "images", "--backbone", "efficientformerv2-nano:smallest", "--image-size", "32", "--run", "r"),
    *("--epochs", "2", "--batch-size", "4", "--augment", "hflip", "--amp", "off", "--lr", "0.1"),
    *("--head-width", "8", "--proposals", "20", "--samples", "8", "--detections", "5"),
)
FILES = {"onnx": {"file": "model.onnx", "bytes": 1e6, "differences": {"boxes": 1e-5, "scores": 1e-7, "masks": 1e-6}}}


@pytest.fixture(scope="module", autouse=True)
def _no_files() -> Any:
    """Files take seconds and have tests of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kinds.InstanceFiles, "write", lambda *_: (FILES, {}))
        yield


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `images` and a finished run `r`."""
    folder = tmp_path_factory.mktemp("instances")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_coco(Path("images"), outlined_coco(24, per_image=2))
        instances.main([*FLAGS])
    return folder


@pytest.fixture
def here(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, in which the test runs."""
    shutil.copytree(trained, tmp_path / "copy", ignore=shutil.ignore_patterns(".lock"))
    monkeypatch.chdir(tmp_path / "copy")
    return Path("runs/r/instances")


def test_a_run_has_figures_weights_events_and_a_page(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = read_json(here / "result.json")
    assert result["classes"] == list(NAMES) and result["num_images"] == {"train": 14, "search": 5, "test": 5}
    assert result["files"] == FILES and result["epochs"] == 2
    for split in ("search", "test"):
        for of in (result[split], result[split]["boxes"]):
            assert 0 <= of["ap"] <= of["ap50"] <= 1 and of["num_objects"] == 10 and len(of["per_class"]) == 2
    lines = read_metrics(here / "metrics.jsonl")
    assert [line["step"] for line in lines] == [3, 6] and all("ap" in line for line in lines)
    assert list((here / "tensorboard").glob("events*"))
    page = (here / "report.html").read_text()
    assert page.count("data:image/jpeg;base64") == 10 and "Masks on test images" in page and "mask AP" in page
    instances.main(["--resume", "--run", "r", "--threads", "2"])
    assert "is trained" in capsys.readouterr().out and read_json(here / "result.json")["test"] == result["test"]


def test_two_halves_are_one_whole(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which places are learned from is drawn by the step."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(trained / "images", "images")
    interrupt_at(monkeypatch, 4, instances.main, *FLAGS)
    assert not Path("runs/r/instances/result.json").exists()
    instances.main(["--resume"])
    halves, whole = (load_file(folder / "runs/r/instances/model.safetensors") for folder in (tmp_path, trained))
    assert halves.keys() == whole.keys() and all(torch.equal(halves[name], whole[name]) for name in whole)


def test_the_network_has_the_sizes_of_its_run(here: Path) -> None:
    network, _ = load_trained(Instances(Sizes(8, 20, 8, 5)), here)
    found = network.predict(torch.randn(1, 3, 32, 32))  # type: ignore[operator]
    assert len(found[0]["boxes"]) <= 5 and network.training is False
    with pytest.raises(UserError, match=r"model.safetensors"):
        load_trained(Instances(), here)


def test_parts_of_a_batch_and_images_without_objects(here: Path) -> None:
    coco = json.loads(Path("images/annotations.json").read_text())
    coco["annotations"] = [one for one in coco["annotations"] if one["image_id"] % 4]
    Path("images/annotations.json").write_text(json.dumps(coco))
    instances.main([*FLAGS, "--run", "new", "--accumulation-steps", "2"])
    assert Path("runs/new/instances/result.json").exists()


def test_changed_masks_are_not_gone_on_with(here: Path) -> None:
    coco = json.loads(Path("images/annotations.json").read_text())
    coco["annotations"][3]["segmentation"] = [[1, 1, 9, 1, 9, 9]]
    Path("images/annotations.json").write_text(json.dumps(coco))
    with pytest.raises(UserError, match=r"^images is not as it was when runs/r/instances was begun"):
        instances.main(["--resume"])


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("result.json", lambda path: put(path, "test", {"ap": 2}), r"has no figures of masks and boxes \(.*restore it"),
        ("result.json", lambda path: put(path, "classes", ["cat"]), r"."),
        ("model.safetensors", lambda path: path.write_bytes(path.read_bytes()[:2000]), r"model.safetensors"),
    ],
)
def test_damaged_files_are_named(name: str, damage: Any, message: str, here: Path) -> None:
    damage(here / name)
    with pytest.raises(UserError, match=message) as caught:
        instances.main(["--resume"])
    assert "\n" not in str(caught.value)


def put(path: Path, name: str, value: Any) -> None:
    write_json(path, {**read_json(path), name: value})


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--batch-size", "99"), r"^--batch-size 99 is more than the 14 training images; lower it$"),
        (("--head-width", "4"), r"^--head-width is 4; give a number at least 8"),
        (("--samples", "0"), r"^--samples is 0; give a number at least 4"),
        (("--augment", "ssd"), r"--augment"),
        (("--formats", "coreml"), r"--formats"),
        (("--schedule", "linear"), r"--schedule"),
        (("--run", "r"), r"^runs/r/instances exists; go on with it by --resume, or make another with --run$"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(flags: tuple[str, ...], message: str, here: Path) -> None:
    with pytest.raises(UserError, match=message) as caught:
        instances.main([*FLAGS, "--run", "new", *flags])
    assert "\n" not in str(caught.value) and not Path("runs/new").exists()


def test_boxes_alone_are_refused(here: Path) -> None:
    Path("images/annotations.json").write_text(json.dumps(coco_of(24, per_image=2)))
    with pytest.raises(UserError, match=r"^no object of images/annotations.json has a mask .*by nas.detect$"):
        instances.main([*FLAGS, "--run", "new"])


def test_recipes_are_of_the_images() -> None:
    kind = Instances()
    published, embedded = (configure(kind, parse(Config, flags, "", "")) for flags in (["--data", "x"], []))
    assert (published.epochs, published.image_size, published.schedule) == (12, 800, "steps")
    assert published.lr * published.batch_size / 1024 == pytest.approx(2e-4) and published.weight_decay == 0.05
    assert published.sizes == Sizes() and embedded.sizes.width < 256 and embedded.image_size < 320


def test_names_in_a_page_are_text(here: Path) -> None:
    evil = "<script>alert(1)</script>"
    put(here / "result.json", "classes", [evil, "dog"])
    put(here / "result.json", "command", evil)
    instances.main(["--resume", "--run", "r"])
    page = (here / "report.html").read_text()
    assert evil not in page and "&lt;script&gt;alert(1)" in page and not re.search(r"<(img|a)[^>]*onerror", page)
