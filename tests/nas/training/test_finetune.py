from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from nas import finetune, retrain, train_supernet
from nas.data.splits import Normalization
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
    with pytest.raises(UserError, match=r"python -m nas.finetune --resume --run runs/r --data PATH$"):
        load_run_data(Path("runs/r"))
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


HALVES = [0.5, 0.5, 0.5]
GIVEN = ("--mean", "0.5", "0.5", "0.5", "--std", "0.5", "0.5", "0.5")


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[Normalization]:
    """How the images of each training, which makes no step, are normalized."""
    found: list[Normalization] = []

    def stop(self: Any, description: str) -> None:
        found.append(self.task.train.normalization)
        raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "fit", stop)
    return found


def begin(command: Any, *flags: str) -> tuple[list[float], list[float]]:
    """Mean and deviation in the `run.json` of a new run."""
    shutil.rmtree("runs", ignore_errors=True)
    with pytest.raises(KeyboardInterrupt):
        command.main([*(OF if command is finetune else ("--space", SPACE, *OF[2:])), *flags])
    info = read_json(Path("runs/r/run.json"))
    return info["mean"], info["std"]


@pytest.mark.parametrize("command", [finetune, train_supernet])
def test_images_are_normalized_as_those_of_the_weights_were(
    command: Any, seen: list[Normalization], capsys: pytest.CaptureFixture[str]
) -> None:
    weights(Path(FILE))
    space = get_space(SPACE, SIZE, 3)
    assert begin(command) == ([*space.mean], [*space.std])
    assert f"images of {FILE} are assumed to have mean {space.mean}" in capsys.readouterr().out
    assert begin(command, *GIVEN) == (HALVES, HALVES)
    with pytest.raises(KeyboardInterrupt):
        command.main(["--run", "r", "--resume"])
    assert [one.mean for one in seen[1:]] == [(0.5, 0.5, 0.5)] * 2
    with pytest.raises(UserError, match=r"cannot resume .* with other settings: mean was"):
        command.main(["--run", "r", "--resume", "--mean", "0.4", "0.5", "0.5"])
    own = {"architecture": NAME, "pretrained_cfg": {"mean": [0.1, 0.2, 0.3], "std": HALVES}}
    write_json(Path("config.json"), own)
    assert begin(command) == ([0.1, 0.2, 0.3], HALVES)
    assert "config.json says" in capsys.readouterr().out


def test_a_run_begun_before_there_was_such_a_flag_goes_on(seen: list[Normalization]) -> None:
    weights(Path(FILE))
    begin(finetune)
    path = FOLDER / "config.json"
    write_json(path, {name: value for name, value in read_json(path).items() if name not in ("mean", "std")})
    with pytest.raises(KeyboardInterrupt):
        finetune.main(["--run", "r", "--resume"])
    assert seen[0] == seen[1]


def test_weights_of_ours_say_how_their_images_were_normalized(
    monkeypatch: pytest.MonkeyPatch, seen: list[Normalization]
) -> None:
    weights(Path(FILE))
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "fit", lambda self, _: setattr(self, "seconds", 1.0))
        finetune.main([*OF, *GIVEN])
    Path("runs/r").rename("own")
    for init in ("own/retrain/whole", "own/retrain/whole/model.safetensors"):
        assert begin(train_supernet, "--init", init) == (HALVES, HALVES)
    shutil.rmtree("runs")
    with pytest.raises(UserError, match=r"--mean, --std are for weights of others, own/retrain/whole says its own"):
        begin(finetune, "--init", "own/retrain/whole", *GIVEN)
    with pytest.raises(KeyboardInterrupt):
        train_supernet.main(["--run", str(Path("own").resolve()), *ARGS])
    assert seen[-1].mean == (0.5, 0.5, 0.5)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--init", "pretrained", *GIVEN), "--mean, --std are for --init FILE; leave them out"),
        (("--mean", "0.5", "0.5", "0.5"), "--mean and --std are 3 and 0 numbers; give 3 each"),
    ],
)
def test_a_normalization_that_says_nothing_is_one_line(flags: tuple[str, ...], message: str) -> None:
    weights(Path(FILE))
    with pytest.raises(UserError, match=message):
        finetune.main([*OF, *flags])
    assert not Path("runs").exists()
