from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from nas import finetune, retrain, train_supernet
from nas.evaluation.accuracy import accuracy
from nas.networks.start import fit_classifier, load_start
from nas.runs import load_run_data
from nas.runs.checkpoint import load_tensors, save_tensors
from nas.training.trainer import Trainer
from search_spaces import UserError, get_space
from search_spaces.command.files import read_json, try_lock, write_json
from tests.nas.tiny import interrupt_at, move_run
from tests.test_pretrained import ARGS, CPU, NAME, SIZE, SPACE, _here, weights  # noqa: F401

FOLDER = Path("runs/r/retrain/whole")
FILE = "resnet.safetensors"
OF = ("--model", NAME, "--init", FILE, "--image-size", str(SIZE), "--data", "images", "--run", "r", *ARGS)


def test_it_goes_on_without_its_file_and_can_end_earlier(monkeypatch: pytest.MonkeyPatch) -> None:
    weights(Path(FILE))
    interrupt_at(monkeypatch, 3, finetune.main, *OF, "--epochs", "3")
    data, space = load_run_data(Path("runs/r")), get_space(SPACE, SIZE, 3)
    _, network, _ = load_start(space, FILE)
    fit_classifier(network, data.train, SIZE, CPU)
    Path(FILE).unlink()
    before = {path: path.read_bytes() for path in Path("runs").rglob("*.json")}
    with pytest.raises(UserError, match=r"--epochs 4: runs/r/retrain/whole has trained .* give 1 to 3, or train anew"):
        finetune.main(["--run", "r", "--resume", "--epochs", "4"])
    assert before == {path: path.read_bytes() for path in Path("runs").rglob("*.json")}
    finetune.main(["--run", "r", "--resume", "--epochs", "1"])
    found, settings = read_json(FOLDER / "result.json"), read_json(FOLDER / "config.json")
    assert (found["epochs"], found["planned_epochs"], found["drop_path"], settings["epochs"]) == (1, 3, 0.0, 1)
    assert found["start_test_accuracy"] == pytest.approx(accuracy(network, data.test, SIZE, CPU))
    network.load_state_dict(load_tensors(FOLDER / "model.safetensors")[0])
    assert found["test_accuracy"] == pytest.approx(accuracy(network, data.test, SIZE, CPU))
    with pytest.raises(UserError, match="cannot resume runs/r/retrain/whole with other settings: epochs was 1, now 2"):
        finetune.main(["--run", "r", "--resume", "--epochs", "2"])


def test_a_finished_one_takes_down_where_its_images_are_now() -> None:
    weights(Path(FILE))
    finetune.main([*OF, "--epochs", "1"])
    Path("images").rename("elsewhere")
    finetune.main(["--run", "r", "--resume", "--data", "elsewhere"])
    assert read_json(FOLDER / "config.json")["data"] == "elsewhere"
    assert len(load_run_data(Path("runs/r")).train) > 0
    shutil.copytree("elsewhere", "others")
    next(Path("others").rglob("*.png")).unlink()
    with pytest.raises(UserError, match="the images of others are not those that runs/r was begun with"):
        finetune.main(["--run", "r", "--resume", "--data", "others"])
    assert read_json(FOLDER / "config.json")["data"] == "elsewhere"


@pytest.mark.parametrize("command", [finetune, train_supernet])
def test_a_run_that_another_process_begins_meanwhile_is_not_overwritten(command: Any) -> None:
    weights(Path(FILE))
    stage = FOLDER if command is finetune else Path("runs/r/supernet")
    stage.mkdir(parents=True)
    other = try_lock(stage / ".lock")
    assert other is not None
    with pytest.raises(UserError, match=f"another process is at work in {stage}; wait for it, or end it"):
        command.main([*(OF if command is finetune else ("--space", SPACE, *OF[2:]))])
    other.release()
    assert [path.name for path in Path("runs/r").rglob("*") if path.is_file()] == [".lock"]


@pytest.mark.parametrize("command", [finetune, train_supernet])
def test_stopped_before_its_first_checkpoint_it_begins_with_the_same_weights(
    command: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[dict[str, torch.Tensor]] = []

    def stop(self: Any, description: str) -> None:
        begun.append({n: t.clone() for n, t in self.ema.module.state_dict().items()})
        raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "fit", stop)
    weights(Path(FILE))
    of = OF if command is finetune else ("--space", SPACE, *OF[2:])
    with pytest.raises(KeyboardInterrupt):
        command.main([*of])
    move_run("runs/r", "runs/s")
    with pytest.raises(KeyboardInterrupt):
        command.main(["--run", "s", "--resume"])
    first, again = begun
    assert all(torch.equal(again[name], tensor) for name, tensor in first.items())


def test_a_winner_starts_from_the_pretrained_network_as_the_supernet_did(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def no_step(self: Any, description: str) -> None:
        self.seconds = 1.0

    monkeypatch.setattr(Trainer, "fit", no_step)
    weights(Path(FILE))
    train_supernet.main(["--space", SPACE, *OF[2:], "--order", "magnitude"])
    space = get_space(SPACE, SIZE, 3)
    write_json(Path("archs.json"), [{"name": "small", "arch": space.to_json(space.smallest)}])
    of = ("--run", "r", "--archs", "archs.json", "--amp", "off", "--batch-size", "8", "--suffix")
    retrain.main([*of, "inherited"])
    state, header = load_tensors(Path("runs/r/supernet/supernet.safetensors"))
    save_tensors(Path("runs/r/supernet/supernet.safetensors"), {n: t + 1 for n, t in state.items()}, header)
    retrain.main([*of, "sliced", "--init", "pretrained-slice"])
    inherited, sliced = (Path("runs/r/retrain") / name for name in ("small-inherited", "small-sliced"))
    first, second = (load_tensors(folder / "model.safetensors")[0] for folder in (inherited, sliced))
    assert all(torch.equal(second[name], tensor) for name, tensor in first.items())
    found = read_json(sliced / "result.json")
    assert found["init"] == "pretrained-slice"
    assert found["start_test_accuracy"] == read_json(inherited / "result.json")["start_test_accuracy"]
    assert f"{100 * found['start_test_accuracy']:.2f} % sliced" in capsys.readouterr().out


def test_a_run_of_which_only_run_json_was_written_can_be_begun_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(self: Any, description: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "fit", stop)
    weights(Path(FILE))
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            finetune.main([*OF])
        shutil.rmtree("runs/r/retrain")
    with pytest.raises(UserError, match=r"runs/r is a run of .*, or of other images; give another --run"):
        finetune.main([*OF, "--search-fraction", "0.3"])
    assert not (FOLDER / "config.json").exists()
