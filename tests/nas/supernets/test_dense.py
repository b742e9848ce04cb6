"""Supernets of detectors and segmenters: trained, searched by AP and mIoU, and what was found trained with its head."""

from __future__ import annotations

import pickle
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from nas import detect, report, retrain, runs, search, segment, train_supernet
from nas.api import Run
from nas.dense.judge import DenseJudge
from nas.dense.start import find_start
from nas.detection import kind as boxes
from nas.networks.inherit import calibration_batches, inherited, load_supernet
from nas.runs.checkpoint import load_tensors, save_tensors
from nas.scenes import MasksConfig, load_masks
from nas.searching.evaluators import EvaluatorConfig, make_evaluator
from nas.searching.result import read_result
from nas.segmentation import kind as masks
from nas.supernets.kinds import kind_of
from nas.supernets.tasks import config_of_command
from nas.training.trainer import Trainer
from search_spaces import UserError, get_space
from search_spaces.command.files import read_json, try_lock, write_json
from search_spaces.dense.backbone import Backbone
from supernet import Supernet
from tests.nas.scenes.folders import NAMES, coco_of, write_coco, write_masks
from tests.nas.synthetic_run import make_run
from tests.nas.tiny import interrupt_at, make_table

CPU = torch.device("cpu")
FLAGS = (
    *("--space", "mobileone-nano", "--image-size", "32", "--epochs", "1", "--batch-size", "4", "--num-random", "0"),
    *("--augment", "hflip", "--amp", "off", "--run", "r"),
)
SEARCH = ("--strategy", "random", "--budget", "4", "--metrics", "size", "--calibration-images", "8")
DATA = {"detect": "images", "segment": "scenes-with-masks"}
TRAIN = {"detect": detect, "segment": segment}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `detect` and `segment`, in each images and a run `r` that was trained and searched."""
    folder = tmp_path_factory.mktemp("supernets")
    for task in DATA:
        (folder / task).mkdir()
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder / task)
            write_images()
            train_supernet.main(["--task", task, "--data", DATA[task], *FLAGS])
            search.main(["--run", "r", *SEARCH])
    return folder


def write_images() -> None:
    """Those of the task whose folder this is."""
    if Path.cwd().name == "detect":
        write_coco(Path(DATA["detect"]), coco_of(24, per_image=2))
    else:
        write_masks(Path(DATA["segment"]), 24)


@pytest.fixture(params=DATA)
def task(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def here(task: str, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the task's folder, in which the test runs; returns its run."""
    shutil.copytree(trained / task, tmp_path / task, ignore=shutil.ignore_patterns(".lock"))
    monkeypatch.chdir(tmp_path / task)
    monkeypatch.setattr(boxes.DetectorFiles, "write", lambda *_: ({}, {}))
    monkeypatch.setattr(masks.SegmenterFiles, "write", lambda *_: ({}, {}))
    return Path("runs/r")


def test_a_run_says_what_is_on_its_images(here: Path, task: str) -> None:
    info = runs.load_run_info(here)
    assert type(info) is {"detect": runs.BoxesRun, "segment": runs.MasksRun}[task]
    assert info.space == {"detect": "mobileone-nano+ssdlite", "segment": "mobileone-nano+deeplabv3"}[task]
    assert (info.image_size, info.num_classes) == (32, {"detect": 2, "segment": 3}[task])
    assert info.data.data == DATA[task]
    assert Run.open("r").info == info
    data: Any = runs.load_run_images(here)
    assert (len(data.train), len(data.search), len(data.test)) == (14, 5, 5)
    result = read_json(here / "supernet/result.json")
    assert set(result["search_accuracy"]) == set(result["test_accuracy"]) == {"largest", "middle", "smallest"}
    assert result["norm"] == "shared" and result["sampling"] == "balanced" and result["epochs"] == 1


def test_a_search_is_by_the_figure_of_the_network_itself(here: Path, task: str) -> None:
    """Evaluated block by block with others, a network has the figure that it has alone."""
    info, found = runs.load_run_info(here), read_result(here / "search")
    kind, space = kind_of(info.space), info.search_space()
    data: Any = runs.load_run_images(here)
    supernet = load_supernet(here, CPU)
    assert kind is not None and found["num_images"] == 5
    batches = calibration_batches(data.train, 32, 8, CPU)
    for point in found["evaluations"][:2]:
        network = inherited(supernet, space.from_json(point["arch"]), batches)
        alone = kind.figures(network, data.search, 32, CPU, 0)[kind.metric]
        assert point["accuracy"] == pytest.approx(alone, abs=1e-6)
    evaluator = make_evaluator(EvaluatorConfig(here, calibration_images=8))
    archs = [space.largest, space.smallest]
    together = evaluator.accuracies(space.largest, archs)
    assert evaluator.scores(archs).mean(axis=1) == pytest.approx(together)
    network = inherited(supernet, space.largest, batches)
    found = read_json(here / "supernet/result.json")
    assert kind.figures(network, data.test, 32, CPU, 0)[kind.metric] == pytest.approx(
        found["test_accuracy"]["largest"], abs=0.5
    )


def test_slimming_evaluates_every_action(here: Path) -> None:
    search.main(["--run", "r", "--name", "slim", *SEARCH[4:], "--strategy", "slimming", "--only", "width"])
    found = read_result(here / "search-slim")
    assert found["trajectory"] and found["num_dropped"] == 0


def test_what_was_found_is_trained_with_its_head(here: Path, task: str, capsys: pytest.CaptureFixture[str]) -> None:
    winner = read_result(here / "search")["winners"][0]
    start = find_start("r:winner-1", None, 32)
    space = runs.load_run_info(here).search_space()
    assert start.space.name == space.name and start.space.to_json(start.arch) == winner["arch"]
    flags = ("--epochs", "1", "--batch-size", "4", "--augment", "hflip", "--run", "w")
    TRAIN[task].main(["--backbone", "r:winner-1", *flags])
    begun, result = (read_json(Path("runs/w") / task / f"{name}.json") for name in ("config", "result"))
    assert (begun["data"], begun["image_size"]) == (DATA[task], 32)
    assert result["space"] == space.name and result["arch"] == winner["arch"]
    assert result["num_images"] == {"train": 14, "search": 5, "test": 5}
    TRAIN[task].main(["--resume", "--run", "w"])
    assert "is trained" in capsys.readouterr().out


def test_the_report_says_by_what(here: Path, task: str) -> None:
    report.main(["--run", "r"])
    page = (here / "report.html").read_text()
    figure = {"detect": "AP", "segment": "mIoU"}[task]
    assert re.search(rf"Search (<abbr [^>]*>)?{figure}", page) and re.search(rf"{figure}(</abbr>)?, %", page)
    assert "Search accuracy" not in page and "accuracy, %" not in page
    assert f"python -m nas.{task} --backbone r:winner-" in page


def test_two_halves_are_one_whole(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder := tmp_path / "detect").mkdir()
    monkeypatch.chdir(folder)
    write_images()
    interrupt_at(monkeypatch, 3, train_supernet.main, "--task", "detect", "--data", "images", *FLAGS)
    train_supernet.main(["--resume"])
    halves, whole = (
        load_tensors(of / "runs/r/supernet/supernet.safetensors")[0] for of in (folder, trained / "detect")
    )
    assert halves.keys() == whole.keys() and all(torch.equal(halves[name], whole[name]) for name in whole)


def test_moved_images_are_gone_on_with(here: Path, task: str) -> None:
    Path(DATA[task]).rename("photos")
    with pytest.raises(UserError, match=rf"no longer at {DATA[task]}; .* --resume --run runs/r --data PATH"):
        runs.load_run_images(here)
    train_supernet.main(["--resume", "--run", "r", "--data", "photos"])
    assert runs.load_run_info(here).data.data == "photos"


# ---- weights to start from


class _BeginsError(Exception):
    """Training would begin now."""


def begun_with(init: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Supernet:
    """The supernet of a training of detectors, in this new folder, before its first step."""
    folder.mkdir()
    monkeypatch.chdir(folder)
    write_images()
    found: list[Any] = []

    def fit(trainer: Trainer, _: str) -> None:
        found.append(trainer)
        raise _BeginsError

    monkeypatch.setattr(Trainer, "fit", fit)
    with pytest.raises(_BeginsError):
        train_supernet.main(["--task", "detect", *FLAGS, "--data", "images", "--init", init])
    trainer = found[0]
    averaged = trainer.ema.module.state_dict()
    assert all(torch.equal(averaged[name], tensor) for name, tensor in trainer.model.state_dict().items())
    supernet: Supernet = trainer.model
    return supernet


def test_heads_join_the_supernet_of_classifiers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "runs/c"
    (run / "supernet").mkdir(parents=True)
    space = make_run(run, classes=["a", "b", "c"], space="mobileone-nano")
    torch.manual_seed(5)
    given = Supernet(space, norm="shared").state_dict()
    save_tensors(run / "supernet/supernet.safetensors", given, {"space": space.name, "norm": "shared"})
    write_json(run / "run.json", {**read_json(run / "run.json"), "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]})
    begun = begun_with(str(run), tmp_path / "detect", monkeypatch).state_dict()
    assert runs.load_run_info(Path("runs/r")).mean == runs.load_run_info(Path("runs/r")).std == (0.5, 0.5, 0.5)
    common = given.keys() & begun.keys()
    assert len(common) > 50 and all(torch.equal(begun[name], given[name]) for name in common)
    assert {name.split(".")[0] for name in begun.keys() - common} == {"heads", "extras"}
    assert not any(name.startswith("stages") for name in given.keys() - common)


def test_norms_of_each_width_are_taken_from_the_largest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "runs/c"
    (run / "supernet").mkdir(parents=True)
    space = make_run(run, classes=["a", "b", "c"], space="mobileone-nano")
    given = Supernet(space, norm="width")
    for name, tensor in given.state_dict().items():
        if ".bn." in name and tensor.is_floating_point():
            tensor.uniform_(0.5, 1.5)
    save_tensors(run / "supernet/supernet.safetensors", given.state_dict(), {"space": space.name, "norm": "width"})
    begun = begun_with(str(run), tmp_path / "detect", monkeypatch)
    headed: Any = begun.space
    found: Any = begun.extract(headed.with_head(space.largest)).eval()
    backbone = Backbone(get_space(space.name, 32), space.largest).eval()
    backbone.load(given.extract(space.largest).state_dict())
    x = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        for mine, theirs in zip(found.backbone(x), backbone(x), strict=True):
            torch.testing.assert_close(mine, theirs)


def test_a_run_of_classes_is_not_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "detect").mkdir()
    monkeypatch.chdir(tmp_path / "detect")
    write_images()
    make_run(Path("runs/c"))
    before = Path("runs/c/run.json").read_bytes()
    with pytest.raises(UserError, match=r"runs/c is a run of efficientformerv2-nano at .*; give another --run"):
        train_supernet.main(["--task", "detect", "--data", "images", *FLAGS[:-1], "c"])
    assert Path("runs/c/run.json").read_bytes() == before


def test_a_run_that_another_process_begins_meanwhile_is_not_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "detect").mkdir()
    monkeypatch.chdir(tmp_path / "detect")
    write_images()
    Path("runs/r/supernet").mkdir(parents=True)
    other = try_lock(Path("runs/r/supernet/.lock"))
    assert other is not None
    with pytest.raises(UserError, match="another process is at work in runs/r/supernet; wait for it, or end it"):
        train_supernet.main(["--task", "detect", "--data", "images", *FLAGS])
    other.release()
    assert not Path("runs/r/run.json").exists()


def test_a_supernet_of_another_space_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "runs/c"
    make_run(run)
    (run / "supernet").mkdir()
    (run / "supernet/supernet.safetensors").touch()
    with pytest.raises(UserError, match=r"has a supernet of .*, not of mobileone-nano; give --space eff"):
        begun_with(str(run), tmp_path / "detect", monkeypatch)


def test_a_network_of_the_space_is_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its units in another order: so its maps have their channels in another one."""
    space = get_space("mobileone-nano", 32)
    network = space.build(space.largest)
    save_file(network.state_dict(), tmp_path / "largest.safetensors")
    supernet = begun_with(str(tmp_path / "largest.safetensors"), tmp_path / "detect", monkeypatch)
    given = Backbone(space, space.largest)
    given.load(network.state_dict())
    found: Any = supernet.extract(supernet.space.largest)
    x = torch.randn(1, 3, 32, 32)
    ours, theirs = (backbone(x)[-1].sort(dim=1).values for backbone in (found.backbone, given.eval()))
    assert torch.allclose(ours, theirs, atol=1e-4 * float(theirs.detach().abs().max()))


# ---- what a judge finds


class _Mean:
    """A kind whose figure is the mean of numbers."""

    def of_parts(self, compared: Any, _: int, parts: Any) -> list[float]:
        return [float(np.mean([compared[i] for i in part])) for part in parts]


def test_scores_of_a_mean_are_those_of_its_parts() -> None:
    judge: Any = DenseJudge.__new__(DenseJudge)
    judge.kind, judge.num_classes = _Mean(), 2
    values = np.random.default_rng(0).random(100)
    scores = judge.scores(values.tolist())
    assert scores == pytest.approx([values[i::20].mean() for i in range(20)])


def test_masks_are_compressed_while_a_search_lasts(tmp_path: Path) -> None:
    """In a hundredth of a photo's pixels; what is said of networks is the same to the last bit."""
    folder, side = write_masks(tmp_path / "m", 12), 400
    for path in folder.glob("*/*.png"):
        with Image.open(path) as image:
            image.resize((side, side), Image.Resampling.NEAREST).save(path)
    scenes = load_masks(MasksConfig(data=str(folder))).search
    space, kind = get_space("mobileone-nano+deeplabv3", 32, 3), masks.Segmentation()
    judge: Any = DenseJudge(kind, scenes, space, CPU)
    assert len(pickle.dumps(judge.targets)) < len(scenes) * side**2 / 100
    logits, order = torch.randn(len(scenes), 3, 32, 32), torch.arange(len(scenes)).flip(0)
    own = [torch.from_numpy(scenes.mask(i)) for i in order.tolist()]
    for one, truth in zip(judge.answers(logits, order), kind.compared(judge.meaning, logits, own), strict=True):
        assert np.array_equal(one.counts, truth.counts) and one.counts.sum() == side**2


# ---- bad input


def test_tasks_have_flags_of_their_own() -> None:
    with pytest.raises(UserError, match=r"^--task is 'boxes'; choose from classify, detect, segment$"):
        train_supernet.main(["--task", "boxes"])
    with pytest.raises(UserError, match=r"--masks"):
        train_supernet.main(["--task=detect", "--masks", "m"])
    assert config_of_command(["--task", "segment"]).__name__ == "SegmentConfig"
    with pytest.raises(UserError, match=r"^--task detect has the head ssdlite; give --space mobileone-nano$"):
        train_supernet.main(["--task", "detect", "--space", "mobileone-nano+deeplabv3"])


@pytest.mark.parametrize("task", ["detect"], indirect=True)
def test_what_classifies_refuses_such_a_run(here: Path) -> None:
    with pytest.raises(UserError, match=r"^runs/r is of images with boxes: its networks do not classify; go on with"):
        retrain.main(["--run", "r"])
    with pytest.raises(UserError, match=r"^--precision int8 is for networks that classify; leave it out .* by AP$"):
        search.main(["--run", "r", "--name", "q", *SEARCH, "--precision", "int8"])
    table = make_table(runs.load_run_info(Path("runs/r")).search_space())
    runtime = replace(table.provenance.runtime, precision="int8")
    replace(table, provenance=replace(table.provenance, runtime=runtime)).save(Path("int8.json"))
    with pytest.raises(UserError, match=r"^the table is of int8, which is for networks that classify; .* by AP$"):
        search.main(["--run", "r", "--name", "q", *SEARCH, "--metrics", "latency", "--table", "int8.json"])
    assert not Path("runs/r/search-q").exists()
    with pytest.raises(UserError, match=r"^--image-size was 32 when runs/r was begun; leave it out, or give another"):
        detect.main(["--backbone", "r:winner-1", "--image-size", "64"])
    with pytest.raises(UserError, match=r"^--backbone r:winner-1 was searched for boxes, not for masks$"):
        segment.main(["--backbone", "r:winner-1"])
    assert runs.load_run_info(here).classes == NAMES
