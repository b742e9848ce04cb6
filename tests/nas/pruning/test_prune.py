"""The command, from a timm name to files, on a few small images."""

from __future__ import annotations

import json
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
import timm
import torch
from timm.layers import DropPath
from torch import nn

from latency_lut.backends.base import Backend
from latency_lut.backends.registry import make_backend
from nas.data import DataConfig, load_data
from nas.evaluation.accuracy import accuracy
from nas.exporting.export import export_files
from nas.prune import main
from nas.pruning import files, job, rounds
from nas.pruning.config import Config
from nas.pruning.configure import configure
from nas.pruning.latency import Trial
from nas.pruning.page import as_text, write_page
from nas.pruning.recipe import load, load_prunable, read, timm_recipe
from nas.pruning.rounds import Method, Pruner, Target
from nas.runs.checkpoint import load_tensors, save_tensors
from nas.training.drop_path import set_drop_path
from nas.training.trainer import Trainer
from search_spaces import SPACES, UserError
from search_spaces.command import parse, settings
from search_spaces.deployed import deployed
from search_spaces.structure.base import Structure
from search_spaces.structure.costs import Costs
from search_spaces.structure.families.registry import prepare
from search_spaces.structure.fvcore_macs import fvcore_macs
from tests.nas.tiny import export_nothing, json_lines, make_images, move_run, run_killed, tiny_space

TIMED = ("--samples", "2", "--backend", "torch")  # which needs no export
TRAINING = ("--batch-size", "8", "--amp", "off", "--finetune-epochs", "2", *TIMED)
OF = ("--model", "test_vit", "--image-size", "32", "--data", "images")
ARGS = (*OF, *TRAINING, "--dense-epochs", "1")
PRUNED = Path("runs/test_vit-images/prune/test_vit-macs-0.5-taylor-global")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        make_images(Path("images"))
        main([*ARGS, "--formats", "onnx", "--backend", "onnxruntime"])
    return folder


@pytest.fixture
def folder(tmp_path: Path, finished: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    export_nothing(monkeypatch)  # takes seconds, and `finished` has done it
    monkeypatch.setattr(job, "stage_times_ms", lambda *_: {})  # as well
    monkeypatch.chdir(tmp_path)
    return tmp_path


def result(folder: Path = PRUNED) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return found


@pytest.mark.usefixtures("folder")
def test_it_prunes_tunes_measures_exports_and_reports() -> None:
    found = result()
    dense, pruned = (found["networks"][name] for name in ("dense", "pruned"))
    assert 0.49 <= pruned["macs"] / dense["macs"] <= 0.5
    assert pruned["mes"] == pytest.approx(100 / pruned["latency_ms"] * (pruned["num_params"] / 3e6) ** -0.5)
    assert found["export"]["files"]["onnx"]["same_class"] == 1.0 and (PRUNED / "export/model.onnx").exists()
    assert (PRUNED / "export/classes.txt").read_text().split() == ["blue", "green", "red"]
    assert len(json_lines(PRUNED / "metrics.jsonl")) == 2
    page = (PRUNED / "report.html").read_text()
    assert "blocks.0.ffn" in page and "search, Pareto set" not in page and "DeiT-T" in page


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("busy", [False, True])
def test_a_busy_machine_is_named(busy: bool) -> None:
    assert ("WARNING: the machine was busy" in as_text(result() | {"busy": busy})) is busy


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(("reached", "missed"), [(0.49, None), (0.53, "53.0 %"), (0.4, "40.0 %")])
def test_a_latency_that_is_missed_is_said_where_it_is_claimed(reached: float, missed: str | None) -> None:
    found = result() | {"target": "latency=0.5"}
    found["networks"]["dense"]["latency_ms"], found["networks"]["pruned"]["latency_ms"] = 1.0, reached
    page = write_page(PRUNED, found, "", *(load_prunable(read(PRUNED), PRUNED)[1] for _ in range(2)))
    for said in as_text(found), page.read_text():
        assert ("the latency aimed at, 50.0 %, is not met" in said) is bool(missed)
        assert f"is not met: it is {missed}" in said or not missed


@pytest.mark.usefixtures("folder")
def test_the_figures_are_those_of_the_network_in_the_folder() -> None:
    model, recipe, found = load(PRUNED), read(PRUNED), result()
    assert sum(p.numel() for p in model.parameters()) == found["networks"]["pruned"]["num_params"]
    structure = prepare(model)
    costs = Costs(model, structure, torch.zeros(1, 3, 32, 32))
    assert costs.macs(structure.sizes) == found["networks"]["pruned"]["macs"]
    network: Any = SimpleNamespace(
        model=timm.create_model("repvgg_a0", num_classes=5).eval(),
        structure=Structure((), {}),
        recipe=SimpleNamespace(image_size=32),
    )
    macs, image = job.costs_as_shipped(network)["macs"], torch.zeros(1, 3, 32, 32)
    assert macs == fvcore_macs(deployed(network.model), image) < 0.95 * fvcore_macs(network.model, image)
    data, cpu = load_data(DataConfig("images")).normalized(recipe.mean, recipe.std), torch.device("cpu")
    for split, images in (("search", data.search), ("test", data.test)):
        right = accuracy(model, images, 32, cpu)
        assert right == found["accuracy"]["finetuned"][split]


@pytest.mark.usefixtures("folder")
def test_a_pruned_network_is_pruned_again_on_the_images_of_its_run() -> None:
    main(["--model", str(PRUNED), "--target", "params=0.8", "--name", "again", *TRAINING, "--formats", "onnx"])
    again = Path("runs/test_vit-images/prune/again")
    ratio = result(again)["networks"]["pruned"]["num_params"] / result()["networks"]["pruned"]["num_params"]
    assert 0.78 <= ratio <= 0.8
    first, second = read(PRUNED), read(again)
    assert second.model == "test_vit" and second.classes == ("blue", "green", "red")
    assert all(set(second.kept[name]) <= set(first.kept[name]) for name in first.kept)
    load(again)


@pytest.mark.usefixtures("folder")
def test_flags_of_the_data_are_laid_over_those_of_the_networks_run() -> None:
    config, _, _ = configure(settings(Config, model=str(PRUNED), search_fraction=0.2))
    assert (config.data, config.search_fraction) == ("images", 0.2)
    other, _, _ = configure(settings(Config, model=str(PRUNED), data="elsewhere"))
    assert other.data == "elsewhere"


def test_the_same_data_named_again_is_split_as_in_the_run(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = json.loads((PRUNED / "config.json").read_text())
    (PRUNED / "config.json").write_text(json.dumps({**config, "split_seed": 7}))
    same, source, _ = configure(settings(Config, model=str(PRUNED), data="images"))
    assert same.split_seed == 7
    source.check_splits(load_data(replace(same, split_seed=config["split_seed"])))
    assert not capsys.readouterr().out
    source.check_splits(load_data(same))
    assert "WARNING: these are other splits, or other images, than the network was trained" in capsys.readouterr().out


def test_images_that_a_checkpoint_may_have_seen_are_no_test(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    written = Mock(return_value={"files": {}, "failed": {}})
    monkeypatch.setattr(files, "export_files", written)
    weights = folder / "foreign.safetensors"
    save_tensors(weights, timm.create_model("test_vit", num_classes=3, img_size=32).state_dict(), {})
    flags = (*OF, *TRAINING, "--checkpoint", str(weights), "--run", "foreign")
    few = ("--finetune-epochs", "1", "--formats", "onnx")
    main([*flags, *few, "--name", "carved"])
    said = capsys.readouterr().out
    assert "WARNING: nothing says which images" in said and "give --test-data with images that it has not" in said
    assert said.count("), unless it was trained on these images") == 2
    assert "accuracy on images that it may have seen  dense" in said and "test accuracy  dense" not in said
    carved = Path("runs/foreign/prune/carved")
    assert json.loads((carved / "result.json").read_text())["may_have_seen_test"] is True
    assert "held-out images, maybe seen" in (carved / "report.html").read_text()
    data = written.call_args.args[3]
    assert len(data.train) and not len(data.test), "files are calibrated, but not tried on them"

    make_images(folder / "secret", per_class=4, seed=5)
    main([*flags, *few, "--name", "apart", "--test-data", "secret"])
    said = capsys.readouterr().out
    assert "nothing says which images" not in said and "test accuracy  dense" in said


def test_what_was_trained_on_all_data_is_judged_by_test_images_alone(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """So is what is pruned of it, and of that."""
    config = json.loads((PRUNED / "config.json").read_text())
    assert config["all_data"] is False
    (PRUNED / "config.json").write_text(json.dumps({**config, "all_data": True}))
    flags = ("--target", "params=0.8", *TRAINING, "--finetune-epochs", "1", "--formats", "onnx")
    main(["--model", str(PRUNED), "--name", "last", *flags])
    last = PRUNED.parent / "last"
    found, splits = result(last), load_data(DataConfig("images")).splits
    assert found["num_images"] == {"search": 0, "test": splits.test}
    assert all(shares.keys() == {"test", "test_interval"} for shares in found["accuracy"].values())
    assert "was trained on the search split, too: so is what is pruned of it" in capsys.readouterr().out
    page = re.sub("<[^>]+>", "", (last / "report.html").read_text())
    assert "accuracy on the test split, %" in page and "accuracy on the search split" not in page
    assert "Trained on the search split, too" in page
    _, source, _ = configure(settings(Config, model=str(last)))
    assert source.all_data and not len(source.splits(load_data(DataConfig("images"))).search)
    assert len(source.splits(load_data(DataConfig("images", split_seed=7))).search)  # of other splits: unknown


def test_killed_and_resumed_equals_uninterrupted(folder: Path) -> None:
    whole = load_tensors(PRUNED / "model.safetensors")[0]
    shutil.rmtree("runs")
    arguments = (*ARGS, "--checkpoint-seconds", "0", "--formats", "onnx")
    run_killed(folder, "nas.prune", *arguments, kill_at="nas.training.trainer:Trainer._one:4")  # of the dense network
    run_killed(folder, "nas.prune", "--resume", kill_at="nas.training.trainer:Trainer._one:8")  # while fine-tuning
    assert (PRUNED / "rounds/1/pruned.json").exists() and not (PRUNED / "result.json").exists()
    main(["--resume"])
    resumed = load_tensors(PRUNED / "model.safetensors")[0]
    assert all(torch.equal(resumed[name], tensor) for name, tensor in whole.items())


@pytest.mark.usefixtures("folder")
def test_a_renamed_run_is_gone_on_with_and_a_killed_export_hinders_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    again = ("--model", str(PRUNED), "--target", "macs=0.8", "--name", "again", *TRAINING, "--formats", "onnx")
    with monkeypatch.context() as patch:
        patch.setattr(job, "export", lambda *_: pytest.fail("interrupted"))
        with pytest.raises(pytest.fail.Exception):
            main(again)
    moved = Path("runs/moved")
    move_run(str(PRUNED.parents[1]), str(moved))
    (moved / f"prune/again/.export.{os.getpid()}.tmp").mkdir()
    main(["--resume", "--name", "again"])
    config = json.loads((moved / "prune/again/config.json").read_text())
    assert config["model"] == str(moved / "prune" / PRUNED.name)
    assert sorted(path.name for path in (moved / "prune/again").glob("*export*")) == ["export"]


@pytest.mark.usefixtures("folder")
def test_a_backend_that_is_given_times_in_place_of_the_settings() -> None:
    """Of the settings it would be one thread."""
    config = parse(Config, [*ARGS, "--finetune-epochs", "1", "--name", "timed"], "prune", "")
    job.prune(*configure(config), make_backend("torch", 2))
    assert result(PRUNED.parent / "timed")["device"]["threads"] == 2


@pytest.mark.usefixtures("folder")
def test_both_trainings_can_be_shortened(monkeypatch: pytest.MonkeyPatch) -> None:
    train, dense, stop = Trainer._one, PRUNED.parents[1] / "dense/test_vit", 6

    def one(self: Trainer, *batch: Any) -> None:
        if self.step == stop:
            raise KeyboardInterrupt
        train(self, *batch)

    monkeypatch.setattr(Trainer, "_one", one)
    shutil.rmtree("runs")
    with pytest.raises(KeyboardInterrupt):
        main([*ARGS, "--dense-epochs", "3", "--finetune-epochs", "3", "--checkpoint-seconds", "0", "--formats", "onnx"])
    before = {path: path.read_bytes() for path in Path("runs").rglob("config.json")}
    with pytest.raises(UserError, match=r"--dense-epochs 1: .*dense/test_vit has trained 1.2 of 3 epochs, .* give 2"):
        main(["--resume", "--dense-epochs", "1"])
    assert before == {path: path.read_bytes() for path in Path("runs").rglob("config.json")}
    stop = 11  # of the fine-tuning
    with pytest.raises(KeyboardInterrupt):
        main(["--resume", "--dense-epochs", "2"])
    assert json.loads((dense / "config.json").read_text())["epochs"] == 2 and (dense / "pruned.json").exists()
    assert json.loads((PRUNED / "config.json").read_text())["dense_epochs"] == 2
    for flag in ("--dense-epochs", "--finetune-epochs"):
        with pytest.raises(UserError, match=r"dense_epochs was 2, now 1|--finetune-epochs 1: .* has trained 2.2 of 3"):
            main(["--resume", flag, "1"])


@pytest.mark.usefixtures("folder")
def test_what_is_begun_or_finished_is_left_alone(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="exists; go on with it by --resume, or make another with --name"):
        main([*ARGS])
    main(["--resume"])
    assert "is finished: nothing to do" in capsys.readouterr().out


@pytest.mark.usefixtures("folder")
def test_a_format_that_fails_costs_that_format_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def overflow(*_: Any) -> Any:
        raise UserError("beyond float16")

    monkeypatch.setattr(files, "export_files", export_files)
    monkeypatch.setattr("nas.exporting.coreml.write_coreml", overflow)
    with pytest.raises(UserError, match=r"is finished, but not exported as coreml \(beyond float16\)"):
        main(["--resume", "--formats", "coreml"])
    assert result()["export"]["failed"] == {"coreml": "beyond float16"}
    assert (PRUNED / "export/model.onnx").exists() and "onnx" in result()["export"]["files"]
    both: dict[str, Any] = {"files": {"onnx": {}, "coreml": {}}, "failed": {}}
    monkeypatch.setattr(files, "export_files", lambda *_: both)
    main(["--resume"])  # with the formats named last
    assert result()["export"] == both
    written = Mock(return_value=both)
    monkeypatch.setattr(files, "export_files", written)
    main(["--resume", "--formats", "onnx", "--precision", "float32", "int8", "--calibration-images", "9"])
    _, _, asked, data, before = written.call_args.args
    assert (asked.formats, asked.precision, asked.calibration_images) == (("onnx",), ("float32", "int8"), 9)
    assert len(data.train) and len(data.test) and before == both


@pytest.mark.usefixtures("folder")
def test_files_of_other_settings_are_written_again(monkeypatch: pytest.MonkeyPatch) -> None:
    found: dict[str, Any] = {"files": {"onnx": {}, "onnx-int8": {}}, "failed": {}}
    written = Mock(return_value=found)
    monkeypatch.setattr(files, "export_files", written)
    resume = ("--resume", "--formats", "onnx", "--precision", "float32", "int8")
    main(resume)
    settings: dict[tuple[str, str], dict[str, Any]] = {
        ("--keep-float", "blocks.0"): {"onnx": {}},
        ("--calibration-images", "9"): {"onnx": {}},
        ("--opset", "18"): {},
    }
    for flag, remain in settings.items():
        written.reset_mock()
        main([*resume, *flag])
        _, _, asked, _, before = written.call_args.args
        assert asked.keep_float == ("blocks.0",) and before["files"] == remain
        main(resume)  # as it was asked for last
        written.assert_called_once()
    written.side_effect = KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt):
        main([*resume, "--opset", "19"])
    written.side_effect = None
    main(resume)
    assert written.call_args.args[2].opset == 19 and result()["export"] == found
    main([*resume[:-1], "--opset", "18"])  # of one file: the other is of another setting now, too
    assert written.call_args.args[4]["files"] == {}
    count = written.call_count
    main([*resume, "--max-drop", "3"])
    assert written.call_count == count, "no file depends on it"


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--model", "test_vitt"), "--model test_vitt is neither a folder here nor a network of timm .*; the nearest"),
        (("--model", str(PRUNED), "--checkpoint", "w"), "--checkpoint is for timm's networks"),
        (
            ("--model", "efficientformerv2_s0", "--image-size", "100"),
            "efficientformerv2_s0 cannot take 100 px: .*; give another --image-size",
        ),
        (("--model", "deit_tiny_patch16_224", "--image-size", "1"), "cannot take 1 px: .*; give another --image-size"),
        (("--model", "images"), "--model images has no model.safetensors"),
        (("--model", "images/blue/0.png"), "does not say which network it is of; give --model NAME --checkpoint"),
        (("--model", "test_vit", "--checkpoint", "w.pth"), "--checkpoint 'w.pth' is no file"),
        (("--target", "flops=0.5"), "--target is 'flops=0.5'; give params, macs or latency and a share"),
        (("--target", "macs=1.5"), "--target is 'macs=1.5'"),
        (("--model", "test_vit", "--checkpoint", ""), "--checkpoint '' is no file"),
        (("--round-epochs", "1"), "--round-epochs 1 is between rounds; give --iterative 2 or more"),
        (("--images", "9", "--criterion", "random"), "--images is for --criterion taylor, random takes none"),
        (
            ("--model", str(PRUNED), "--data", "digits", "--split-seed", "1"),
            "the network knows the classes blue, green",
        ),
    ],
)
def test_bad_input_is_one_line(flags: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        main([*TRAINING, *flags])


@pytest.mark.usefixtures("folder")
def test_a_target_that_cannot_be_reached_names_one_that_can() -> None:
    with pytest.raises(UserError, match=r"--target macs=0.001 is below .*: macs=0.0[0-9]+; give more than that"):
        main([*ARGS, "--target", "macs=0.001", "--run", "new"])
    assert not Path("runs/new/dense").exists()


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--target", "params=0.6", "--lr", "0.5"), "dense/test_vit was not trained with lr 0.5; give another --run"),
        (("--name", "n", "--split-seed", "1"), "was not trained with data_digest .*; give another --run"),
        (("--name", "n", "--batch-size", "500"), "--batch-size 500 is more than the 41 training images"),
        (("--name", "n", "--images", "500"), "--images 500 is more than the 41 training images"),
        (("--name", "n", "--device", "cuda:99"), "--device cuda:99 cannot be used"),
        (("--name", "n", "--backend", "none"), "none"),
    ],
)
def test_what_cannot_be_done_leaves_no_folder(flags: tuple[str, ...], message: str) -> None:
    before = list(PRUNED.parent.iterdir())
    with pytest.raises(UserError, match=message):
        main([*ARGS, *flags])
    assert list(PRUNED.parent.iterdir()) == before


@pytest.mark.usefixtures("folder")
def test_another_network_does_not_go_on_with_a_pruning() -> None:
    with pytest.raises(UserError, match="network was 'test_vit', now 'test_vit2'"):
        main(["--resume", "--model", "test_vit2"])


@pytest.mark.usefixtures("folder")
def test_the_page_is_there_before_the_pruning_is_finished(monkeypatch: pytest.MonkeyPatch) -> None:
    (PRUNED / "result.json").unlink()
    monkeypatch.setattr(job, "write_page", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(["--resume"])
    assert not (PRUNED / "result.json").exists()


@pytest.mark.usefixtures("folder")
def test_an_exported_winner_is_pruned_in_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SPACES, "tiny", tiny_space)
    space = tiny_space()
    info = {"arch": space.to_json(space.largest), "classes": ["blue", "green", "red"], "image_size": 16}
    info |= {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
    weights = space.build(space.largest).state_dict()
    save_tensors(Path("winner/model.safetensors"), weights, {name: json.dumps(value) for name, value in info.items()})
    flags = ("--data", "images", "--round-to", "4", "--iterative", "2", "--round-epochs", "1", "--run", "w")
    short = (*TRAINING, "--finetune-epochs", "1", "--formats", "onnx")
    main(["--model", "winner", *flags, "--name", "n", *short, "--criterion", "magnitude"])
    found = result(Path("runs/w/prune/n"))
    assert 0.49 <= found["networks"]["pruned"]["macs"] / found["networks"]["dense"]["macs"] <= 0.5
    assert len(found["rounds"]) == 2 and read(Path("runs/w/prune/n")).arch == info["arch"]
    assert (Path("runs/w/prune/n/rounds/1/checkpoint.safetensors")).exists()


def pruner(target: str, normalize: Any = "none") -> Pruner:
    model, structure = timm_recipe("test_vit", 32, ("a", "b"), ours=True).build()
    backend: Backend = SimpleNamespace()  # type: ignore[assignment]
    return Pruner(model, structure, Method(Target.parse(target), "random", "global", normalize, 8, 0), 32, backend, 2)


def test_the_network_may_move_to_another_device() -> None:
    one = pruner("macs=0.5")
    one.model = one.model.to("meta")
    one.round(1, 1, ())
    assert {p.device.type for p in one.model.parameters()} == {"meta"}


def test_the_trials_are_those_of_the_round(monkeypatch: pytest.MonkeyPatch) -> None:
    one = pruner("latency=0.6")
    monkeypatch.setattr(rounds, "reach", lambda *_: (0.5, [Trial(0.5, 0.5)]))
    for number in (1, 2):
        one.round(number, 2, ())
        assert len(one.facts()["latency_trials"]) == 1


def test_drop_path_rises_with_depth() -> None:
    model, _ = timm_recipe("test_vit", 32, ("a", "b"), ours=True).build()
    set_drop_path(model, 0.2)
    layers = [m for m in model.modules() if isinstance(m, DropPath)]
    count = len(layers) // 2
    assert count > 1 and [m.drop_prob for m in layers] == [0.2 * (i // 2) / (count - 1) for i in range(2 * count)]


def test_a_latency_is_reached_by_measuring(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that counts parameters: they do not fall as MACs do."""

    def measure(models: dict[str, nn.Module], *_: Any) -> Any:
        times = {name: 1e-6 * sum(p.numel() for p in model.parameters()) for name, model in models.items()}
        return SimpleNamespace(timings={name: SimpleNamespace(min_ms=ms) for name, ms in times.items()})

    monkeypatch.setattr(rounds, "measure", measure)
    monkeypatch.setattr("nas.pruning.latency.measure", measure)
    for normalize in ("none", "latency"):
        one = pruner("latency=0.6", normalize)
        whole = sum(p.numel() for p in one.model.parameters())
        one.round(1, 1, ())
        assert 0.57 <= sum(p.numel() for p in one.model.parameters()) / whole <= 0.6
        assert 2 <= len(one.facts()["latency_trials"]) <= one.facts()["max_trials"]
