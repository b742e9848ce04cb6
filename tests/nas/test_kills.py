"""Every command that takes long, killed at random moments and gone on with, as its user would."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nas import baselines, detect, finetune, instances, prune, retrain, search, segment, train_supernet
from nas.detection.export import DetectorFiles
from nas.evaluation.evaluator import Evaluator
from nas.instance_segmentation.export import InstanceFiles
from nas.segmentation.export import SegmenterFiles
from search_spaces import SPACES, Arch, num_params
from tests.killing import assert_kills_change_nothing
from tests.latency_lut.fake import SizedMachine
from tests.nas.conftest import SPLITS, TRAIN
from tests.nas.scenes.folders import coco_of, outlined_coco, write_coco, write_masks
from tests.nas.tiny import PUBLISHED, QuickSpace, export_nothing, make_table, tiny_space
from tests.test_pretrained import NAME, weights

OFTEN = ("--checkpoint-seconds", "0")
SHORT = ("--epochs", "2", "--batch-size", "8", "--lr", "0.3", "--clip-grad", "0", "--amp", "off", *OFTEN)
DENSE = ("--model", "test_vit", "--image-size", "32", "--data", "images", "--batch-size", "8", "--amp", "off", *OFTEN)
PRUNE = (*DENSE, "--dense-epochs", "1", "--finetune-epochs", "1", "--samples", "2", "--backend", "torch")
SEEDS = pytest.mark.parametrize("seed", range(3))
Main = Callable[[list[str]], None]


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SPACES, "tiny", tiny_space)


def assert_equal_after_kills(
    start: Path, folder: Path, main: Main, flags: tuple[str, ...], config: str, seed: int
) -> None:
    """Of a command whose settings are then in `config`, a pattern: before they are there, it is begun once more."""

    def go_on() -> None:
        main(["--resume"] if list(Path().glob(config)) else [*flags])

    assert_kills_change_nothing(start, folder, lambda: main([*flags]), go_on, seed)


SLIMMING = ("--exact", "--budget", "24")
PREDICTOR = ("--strategy", "predictor", "--budget", "28", "--seed", "3")


@pytest.mark.parametrize(
    ("flags", "seed"),
    [
        (SLIMMING, 0),
        *(pytest.param(flags, seed, marks=pytest.mark.heavy) for flags in (SLIMMING, PREDICTOR) for seed in (1, 2, 3)),
    ],
)
def test_a_search(
    flags: tuple[str, ...], seed: int, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def invented(_: Any, base: Arch, archs: list[Arch], *precision: Any) -> list[float]:
        return [0.9 - 5e3 / num_params(tiny_space(), arch) for arch in archs]

    monkeypatch.setattr(Evaluator, "accuracies", invented)
    flags = ("--metrics", "size", *flags)
    assert_equal_after_kills(trained, tmp_path, search.main, flags, "runs/r/search/config.json", seed)


@pytest.mark.heavy
@SEEDS
def test_a_search_with_races(seed: int, trained: Path, tmp_path: Path) -> None:
    flags = ("--metrics", "size", "--strategy", "slimming", "--budget", "30")
    assert_equal_after_kills(trained, tmp_path, search.main, flags, "runs/r/search/config.json", seed)


@pytest.mark.heavy
@SEEDS
def test_training_a_supernet(seed: int, trained: Path, tmp_path: Path) -> None:
    flags = (*TRAIN, *SPLITS, *PUBLISHED, *OFTEN, "--run", "new")
    config = "runs/new/supernet/config.json"

    def go_on() -> None:
        train_supernet.main(["--resume", "--run", "new"] if Path(config).exists() else [*flags])

    assert_kills_change_nothing(trained, tmp_path, lambda: train_supernet.main([*flags]), go_on, seed)


@pytest.mark.heavy
@SEEDS
def test_fine_tuning(seed: int, trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, start := tmp_path / "start")
    weights(start / "resnet.safetensors")
    of = ("--model", NAME, "--init", "resnet.safetensors", "--image-size", "32", "--data", "images", "--run", "new")
    flags = (*of, "--batch-size", "8", "--amp", "off", "--epochs", "3", "--patience", "1", *OFTEN)
    config = "runs/new/retrain/whole/config.json"

    def go_on() -> None:
        finetune.main(["--resume", "--run", "new"] if Path(config).exists() else [*flags])

    assert_kills_change_nothing(start, tmp_path, lambda: finetune.main([*flags]), go_on, seed)


@pytest.mark.heavy
@SEEDS
def test_retraining(seed: int, searched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SPACES, "tiny", QuickSpace)  # what it was searched in
    config = "runs/r/retrain/*/config.json"
    assert_equal_after_kills(searched, tmp_path, retrain.main, SHORT, config, seed)


@pytest.mark.heavy
@SEEDS
def test_pruning(seed: int, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    export_nothing(monkeypatch)  # a thread of torch's exporter; has its own test
    flags = (*PRUNE, "--formats", "onnx")
    assert_equal_after_kills(trained, tmp_path, prune.main, flags, "runs/*/prune/*/config.json", seed)


@pytest.mark.heavy
@SEEDS
def test_a_detector(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DetectorFiles, "write", lambda *_: ({}, {}))  # a thread of torch's exporter; has its own tests
    write_coco(tmp_path / "start/images", coco_of(24, per_image=2))
    of = ("--data", "images", "--backbone", "mobileone-nano:smallest", "--image-size", "32", "--run", "new")
    flags = (*of, "--batch-size", "4", "--amp", "off", "--epochs", "2", *OFTEN)
    config = "runs/new/detect/config.json"
    assert_equal_after_kills(tmp_path / "start", tmp_path, detect.main, flags, config, seed)


@pytest.mark.heavy
@SEEDS
def test_a_segmenter(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SegmenterFiles, "write", lambda *_: ({}, {}))
    write_masks(tmp_path / "start/photos", 20)
    of = ("--data", "photos", "--backbone", "mobileone-nano:smallest", "--image-size", "32", "--run", "new")
    flags = (*of, "--batch-size", "4", "--amp", "off", "--epochs", "2", *OFTEN)
    config = "runs/new/segment/config.json"
    assert_equal_after_kills(tmp_path / "start", tmp_path, segment.main, flags, config, seed)


@pytest.mark.heavy
@SEEDS
def test_an_instance_segmenter(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(InstanceFiles, "write", lambda *_: ({}, {}))
    write_coco(tmp_path / "start/images", outlined_coco(24, per_image=2))
    of = ("--data", "images", "--backbone", "efficientformerv2-nano:smallest", "--image-size", "32", "--run", "new")
    light = ("--head-width", "8", "--proposals", "20", "--samples", "8", "--detections", "5")
    flags = (*of, *light, "--batch-size", "4", "--amp", "off", "--epochs", "2", *OFTEN)
    config = "runs/new/instances/config.json"
    assert_equal_after_kills(tmp_path / "start", tmp_path, instances.main, flags, config, seed)


@pytest.fixture(scope="module")
def retrained(searched: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search by a table, its winner retrained, and the largest network as nas.finetune leaves it."""
    folder, space = tmp_path_factory.mktemp("retrained"), QuickSpace()
    shutil.copytree(searched, folder, dirs_exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SPACES, "tiny", QuickSpace)
        patch.chdir(folder)
        make_table(space).save(Path("t.json"))
        search.main(["--table", "t.json", "--budget", "20", "--winners", "1", "--name", "timed"])
        retrain.main([*SHORT, "--search", "search-timed"])
        Path("whole.json").write_text(json.dumps([{"name": "whole", "arch": space.to_json(space.largest)}]))
        retrain.main([*SHORT, "--archs", "whole.json", "--run", "r"])
    return folder


@pytest.mark.heavy
@SEEDS
def test_baselines(seed: int, retrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SPACES, "tiny", QuickSpace)
    monkeypatch.setattr("nas.proving.search.backend_of", lambda _: SizedMachine())
    monkeypatch.setattr("nas.pruning.job.make_backend", lambda *_: SizedMachine())

    def work() -> None:
        baselines.main(["--search", "search-timed", "--samples", "2"])

    assert_kills_change_nothing(retrained, tmp_path, work, work, seed)
