from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, cast
from unittest.mock import Mock

import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from nas.networks.inherit import calibration_batches, calibration_images, inherited, load_supernet
from nas.runs import RunInfo, load_run_data, load_run_info
from nas.runs.checkpoint import load_tensors
from nas.supernets import classification as core
from nas.supernets.classification import Config, configure
from nas.supernets.elastic import run_of
from nas.train_supernet import main
from nas.training.trainer import Trainer
from search_spaces import SPACES, UserError
from search_spaces.command import settings
from supernet import Supernet
from tests.nas.tiny import (
    PATIENCE_S,
    ROOT,
    QuickSpace,
    json_lines,
    make_images,
    run_killed,
    start,
    tiny_space,
    wait_for,
)

TRAIN = ("--space", "tiny", "--data", "images", "--epochs", "4", "--batch-size", "8")
ARGS = (*TRAIN, "--lr", "0.5", "--ema-decay", "0.9", "--clip-grad", "0.1", "--amp", "off")
SHORT = (*ARGS, "--epochs", "2")
RUN = Path("runs/r")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setitem(SPACES, "tiny", QuickSpace)
    monkeypatch.chdir(tmp_path)
    make_images(Path("images"))
    return tmp_path


def same_weights(a: Path, b: Path) -> bool:
    first, second = load_tensors(a)[0], load_tensors(b)[0]
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def timeless(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in line.items() if k not in ("images_per_s", "elapsed_s", "left_s")} for line in lines]


def test_a_run_leaves_everything_that_later_stages_need(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    read = Mock(wraps=calibration_images)
    monkeypatch.setattr("nas.training.task.calibration_images", read)
    main([*ARGS, "--run", "r"])
    assert read.call_count == 1, "for 4 evaluations while training, and 2 at its end"
    info = load_run_info(RUN)
    assert isinstance(info, RunInfo)
    assert (info.space, info.image_size, info.num_classes) == ("tiny", 16, 3)
    assert info.classes == ("blue", "green", "red")
    assert (info.splits.train, info.splits.search, info.splits.test) == (41, 7, 12)
    result = json.loads((RUN / "supernet/result.json").read_text())
    assert result["steps"] == 4 * 5 and result["num_images"] == {"train": 41, "search": 7, "test": 12}
    assert result["command"] == json.loads((RUN / "supernet/config.json").read_text())["command"]
    assert set(result["search_accuracy"]) == set(result["test_accuracy"]) == {"largest", "middle", "smallest"}
    assert result["test_accuracy"]["largest"] > 0.6, "three shades are easy to learn"
    supernet = load_supernet(RUN, torch.device("cpu"))
    data = load_run_data(RUN)
    assert supernet.normalization == "shared", "what ranks small images' networks best"
    calibration = calibration_batches(data.train, 16, 2048, torch.device("cpu"))
    largest = inherited(supernet, supernet.space.largest, calibration)
    assert core.accuracy(largest, data.test, 16, torch.device("cpu")) == result["test_accuracy"]["largest"]
    lines = json_lines(RUN / "supernet/metrics.jsonl")
    assert [line["step"] for line in lines] == [5, 10, 15, 20]
    shown = {f"{name}_accuracy" for name in ("largest", "middle", "smallest")}
    assert all({"loss", "lr", "elapsed_s", "left_s", *shown} <= line.keys() for line in lines)
    assert lines[-1]["left_s"] == 0
    assert {name: lines[-1][f"{name}_accuracy"] for name in result["search_accuracy"]} == result["search_accuracy"]
    assert any((RUN / "supernet/tensorboard").glob("events*"))
    said = capsys.readouterr().out
    assert f"wrote {RUN}" in said
    shown_accuracy = f"largest {100 * result['search_accuracy']['largest']:.1f} %"
    assert re.search(rf"epoch 4 of 4, 00:00 left; {shown_accuracy} .*, middle .*, smallest .* of 7 search images", said)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SPACES, "tiny", QuickSpace)
        patch.chdir(folder)
        make_images(Path("images"))
        main([*SHORT, "--run", "whole"])
    return folder / "runs/whole"


def assert_equal_runs(run: Path, whole: Path) -> None:
    assert same_weights(run / "supernet/supernet.safetensors", whole / "supernet/supernet.safetensors")
    lines, whole_lines = (json_lines(r / "supernet/metrics.jsonl") for r in (run, whole))
    assert timeless(lines) == timeless(whole_lines)
    result, whole_result = (json.loads((r / "supernet/result.json").read_text()) for r in (run, whole))
    for name in ("steps", "search_accuracy", "test_accuracy", "num_images", "epochs"):
        assert result[name] == whole_result[name]


@pytest.mark.parametrize(
    "kill_at",
    [
        "nas.training.trainer:Trainer._one:7",
        pytest.param("safetensors.torch:serialize_file:8", marks=pytest.mark.heavy),  # while a checkpoint is written
        pytest.param("nas.supernets.classification:accuracies:3", marks=pytest.mark.heavy),  # trained, not yet tested
    ],
)
def test_killed_and_resumed_equals_uninterrupted(folder: Path, whole: Path, kill_at: str) -> None:
    run_killed(folder, "nas.train_supernet", *SHORT, "--run", "r", "--checkpoint-seconds", "0", kill_at=kill_at)
    assert not (RUN / "supernet/result.json").exists()
    main(["--resume", "--run", "r"])  # nothing else need be said
    assert_equal_runs(RUN, whole)
    assert "--resume" not in json.loads((RUN / "supernet/result.json").read_text())["command"]


@pytest.mark.heavy
def test_parameters_have_one_order_in_every_process() -> None:
    """Their gradients' norm, by which all are clipped, depends on it."""
    imports = "from supernet import Supernet; from tests.nas.tiny import QuickSpace"
    code = f"{imports}; print(*dict(Supernet(QuickSpace()).named_parameters()))"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "1"}
    printed = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert printed.stdout.split() == list(dict(Supernet(QuickSpace()).named_parameters()))


@pytest.mark.parametrize("num_workers", [pytest.param("0", marks=pytest.mark.heavy), "2"])
def test_a_process_has_its_run_to_itself_and_leaves_it_to_resume_at_ctrl_c(folder: Path, num_workers: str) -> None:
    arguments = (*ARGS, "--epochs", "400", "--run", "r", "--checkpoint-seconds", "0", "--num-workers", num_workers)
    process = start(folder, "nas.train_supernet", *arguments)
    checkpoint = RUN / "supernet/checkpoint.safetensors"
    wait_for(checkpoint, process)
    with pytest.raises(UserError, match="another process is at work in runs/r/supernet"):
        main(["--resume", "--run", "r"])
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the loading processes, too
    _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert errors.splitlines()[-1] == "interrupted; the files written so far are whole: go on with --resume"
    config = configure(settings(Config, resume=True, run="r"))
    assert config.epochs == 400
    assert load_tensors(checkpoint)[1]["step"] >= 1


def test_a_finished_run_is_not_trained_again(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(whole, RUN)
    before = (RUN / "supernet/supernet.safetensors").stat().st_mtime_ns
    main(["--resume"])
    assert "runs/r is finished: nothing to train" in capsys.readouterr().out
    assert (RUN / "supernet/supernet.safetensors").stat().st_mtime_ns == before


# ---- settings


def begin(monkeypatch: pytest.MonkeyPatch, *argv: str) -> None:
    """A run interrupted before its first step."""

    def interrupt(self: Trainer, description: str) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "fit", interrupt)
        with pytest.raises(KeyboardInterrupt):
            main([*argv, "--run", "r"])


def test_resume_alone_keeps_every_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    begin(monkeypatch, *ARGS, "--seed", "3", "--no-hflip", "--search-fraction", "0.3")
    resumed = configure(settings(Config, resume=True))
    assert (resumed.epochs, resumed.seed, resumed.hflip, resumed.search_fraction) == (4, 3, False, 0.3)
    assert resumed.resume and resumed.run == "runs/r"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--lr", "0.1", "--seed", "1"), "lr was 0.5, now 0.1; seed was 0, now 1"),
        (("--space", "efficientformerv2-nano"), "space was 'tiny', now 'efficientformerv2-nano'"),
    ],
)
def test_resume_with_other_settings_says_which(
    monkeypatch: pytest.MonkeyPatch, flags: tuple[str, ...], message: str
) -> None:
    begin(monkeypatch, *ARGS)
    with pytest.raises(UserError) as caught:
        main(["--resume", "--run", "r", *flags])
    assert str(caught.value) == f"cannot resume runs/r/supernet with other settings: {message}"


def test_a_training_can_be_shortened(monkeypatch: pytest.MonkeyPatch) -> None:
    one = Trainer._one

    def until_the_fourth(self: Trainer, *batch: Any) -> None:
        if self.step == 3:
            raise KeyboardInterrupt
        one(self, *batch)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_one", until_the_fourth)
        with pytest.raises(KeyboardInterrupt):
            main([*SHORT, "--run", "r", "--checkpoint-seconds", "0"])
    before = (RUN / "supernet/config.json").read_text()
    with pytest.raises(UserError, match=r"--epochs 3: runs/r/supernet has trained 0.6 of 2 epochs, .* give 1 to 2"):
        main(["--resume", "--epochs", "3"])
    with pytest.raises(UserError, match=r"--largest-epochs 0.0 and --shrink-epochs 2.0 are more than the 1 epochs"):
        main(["--resume", "--epochs", "1", "--shrink-epochs", "2"])
    assert before == (RUN / "supernet/config.json").read_text()
    main(["--resume", "--epochs", "1"])
    result, config = (json.loads((RUN / f"supernet/{name}.json").read_text()) for name in ("result", "config"))
    assert (result["epochs"], result["planned_epochs"], result["steps"], config["epochs"]) == (1, 2, 5, 1)
    with pytest.raises(UserError, match="cannot resume runs/r/supernet with other settings: epochs was 1, now 2"):
        main(["--resume", "--epochs", "2"])


@pytest.mark.parametrize("loss", ["ce", "kl"])
def test_a_teacher_has_a_classifier_of_its_own(loss: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SPACES, "tiny", tiny_space)  # of networks with two
    torch.manual_seed(0)
    save_file(timm.create_model("test_resnet", num_classes=3).state_dict(), "teacher.safetensors")
    teacher = ["--teacher", "test_resnet", "--teacher-checkpoint", "teacher.safetensors", "--teacher-image-size", "32"]
    alike: dict[str, bool] = {}

    def one_step(self: Any, description: str) -> None:
        next(self.steps())
        first, second = (self.model.get_parameter(f"{name}.bias") for name in ("head", "head_dist"))
        alike[self.folder.parent.name] = torch.equal(first.grad, second.grad)
        raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "fit", one_step)
    for name, flags in (("alone", ()), ("taught", (*teacher, "--distillation", "hard"))):
        with pytest.raises(KeyboardInterrupt):
            main([*ARGS, "--loss", loss, "--run", name, *flags])
    assert alike == {"alone": True, "taught": False}


def test_resume_with_other_images_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where they are the default: it was given."""
    begin(monkeypatch, *ARGS)
    with pytest.raises(UserError, match="the images of digits are not those that runs/r was begun with; give these"):
        main(["--resume", "--run", "r", "--data", "digits"])


@pytest.mark.heavy
def test_resume_may_change_where_and_how_fast(monkeypatch: pytest.MonkeyPatch, whole: Path) -> None:
    begin(monkeypatch, *SHORT)
    main(["--resume", *SHORT, "--num-workers", "1", "--device", "cpu", "--checkpoint-seconds", "1"])
    assert_equal_runs(RUN, whole)


def test_flags_come_before_the_recipe_that_suits_the_images() -> None:
    digits, small = configure(settings(Config)), configure(settings(Config, data="images"))
    assert (digits.epochs, digits.batch_size, digits.hflip) == (core.DIGITS_EPOCHS, 64, False)
    assert (small.epochs, small.batch_size, small.hflip) == (30, 128, True)
    imagenet = settings(Config, space="efficientformerv2", data="imagenet")
    assert configure(imagenet) == Config(space="efficientformerv2", data="imagenet", recipe="adamw")
    assert configure(settings(Config, batch_size=256)).batch_size == 256  # though it is the general default
    mobile = configure(settings(Config, space="mobileone-nano"))
    assert (mobile.recipe, mobile.optimizer, mobile.norm, mobile.lr) == ("progressive", "sgd", "shared", 1.6)
    assert configure(settings(Config, space="mobileone-nano", recipe="adamw")).optimizer == "adamw"


def test_a_new_run_does_not_touch_one_of_the_same_name(monkeypatch: pytest.MonkeyPatch) -> None:
    begin(monkeypatch, *ARGS)
    before = {path: path.read_bytes() for path in RUN.rglob("*.json")}
    with pytest.raises(
        UserError, match=r"runs/r/supernet exists; go on with it by --resume, or make another with --run"
    ):
        main([*ARGS, "--seed", "1", "--run", "r"])
    assert before == {path: path.read_bytes() for path in RUN.rglob("*.json")}


def test_a_run_whose_supernet_is_gone_is_not_begun_on_other_splits(monkeypatch: pytest.MonkeyPatch) -> None:
    begin(monkeypatch, *ARGS)
    before = (RUN / "run.json").read_bytes()
    shutil.rmtree(RUN / "supernet")
    for flags in (("--search-fraction", "0.3"), ("--split-seed", "3")):
        with pytest.raises(UserError, match=r"runs/r is a run of tiny .*, or of other images; give another --run"):
            main([*ARGS, *flags, "--run", "r"])
    assert (RUN / "run.json").read_bytes() == before
    begin(monkeypatch, *ARGS)
    assert load_run_data(RUN).splits == load_run_info(RUN).splits


def test_nothing_is_left_by_a_run_that_cannot_begin() -> None:
    size = ("--space", "mobileone-nano", "--image-size", "17")
    for flags in (("--data", "nowhere"), size, ("--batch-size", "64"), ("--device", "tpu:9")):
        with pytest.raises(UserError):
            main([*ARGS, *flags, "--run", "r"])
    assert not Path("runs").exists()


def test_data_changed_since_the_run_began(monkeypatch: pytest.MonkeyPatch) -> None:
    begin(monkeypatch, *ARGS)
    Image.new("RGB", (16, 16)).save("images/red/0.png")
    with pytest.raises(UserError, match="images has changed since runs/r was begun; restore it, or train a new run"):
        main(["--resume"])


def test_corrupt_images_are_counted_in_the_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("images/red/3.png").write_bytes(b"no image")
    monkeypatch.setattr("nas.data.sources.MEMORY_BYTES", 0)
    main([*ARGS, "--epochs", "1", "--run", "r"])
    assert load_run_info(RUN).splits.skipped == ("red/3.png",)
    assert "skipped 1 corrupt images: red/3.png" in capsys.readouterr().out


def test_moved_images_are_followed_if_they_are_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    main([*ARGS, "--epochs", "1", "--run", "r"])
    digest = load_run_info(RUN).splits.digest
    Path("images").rename("elsewhere")
    with pytest.raises(
        UserError, match=r"are no longer at images; .*nas.train_supernet --resume --run runs/r --data PATH"
    ):
        load_run_data(RUN)
    make_images(Path("others"), seed=5)
    before = (RUN / "run.json").read_text(), (RUN / "supernet/config.json").read_text()
    with pytest.raises(UserError, match="the images of others are not those that runs/r was begun with"):
        main(["--resume", "--run", "r", "--data", "others"])
    assert before == ((RUN / "run.json").read_text(), (RUN / "supernet/config.json").read_text())
    main(["--resume", "--run", "r", "--data", "elsewhere"])
    assert "is finished" in capsys.readouterr().out
    assert load_run_data(RUN).splits.digest == digest
    assert load_run_info(RUN).data.data == "elsewhere"
    main(["--resume", "--run", "r"])  # nothing need be said again


def test_a_run_keeps_its_order_of_classes_without_the_file() -> None:
    Path("list").write_text("red\ngreen\nblue\n")
    main([*ARGS, "--epochs", "1", "--run", "r", "--classes", "list"])
    Path("list").unlink()
    assert load_run_data(RUN).classes == load_run_info(RUN).classes == ("red", "green", "blue")


def test_the_test_split_is_read_only_after_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its images are gone while the supernet is trained."""
    trained = False
    fit = Trainer.fit

    def fit_first(self: Trainer, description: str) -> None:
        nonlocal trained
        fit(self, description)
        trained = True

    load = core.load_data

    def guarded(config: Any) -> Any:
        data = load(config)
        test = data.test

        class Guard:
            def image(self, position: int) -> Image.Image:
                assert trained, "an image of the test split was read before training had ended"
                return test.source.image(position)

        return replace(data, test=replace(test, source=cast(Any, Guard())))

    monkeypatch.setattr(Trainer, "fit", fit_first)
    monkeypatch.setattr(core, "load_data", guarded)
    main([*ARGS, "--epochs", "1", "--run", "r"])
    assert trained


def test_the_name_of_any_folder_is_part_of_a_runs_name() -> None:
    assert re.fullmatch(
        r"timm-resnet18-my-photos-2-\d{8}-\d{6}", run_of(Config(space="timm/resnet18", data="my photos (2)")).name
    )
