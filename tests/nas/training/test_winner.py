from __future__ import annotations

import hashlib
import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from nas import evaluate
from nas.data import DataConfig
from nas.evaluation.accuracy import accuracy
from nas.evaluation.intervals import interval
from nas.exporting.winner import load_winners
from nas.networks.inherit import load_supernet
from nas.pruning.source import find
from nas.reporting.report import write_report
from nas.retrain import main
from nas.runs import load_run_data, load_run_info
from nas.runs.checkpoint import load_tensors
from nas.training.trainer import Trainer
from search_spaces import SPACES, UserError, macs, num_params
from search_spaces.command.files import read_json, write_json
from tests.nas.supernets.test_classification import timeless
from tests.nas.tiny import QuickSpace, interrupt_at, json_lines, move_run, run_killed, tiny_space

SPACE = QuickSpace()
COMMON = ("--batch-size", "8", "--lr", "0.3", "--clip-grad", "0", "--amp", "off")
ARGS = (*COMMON, "--epochs", "2", "--warmup-epochs", "0")
RETRAINED = Path("runs/r/retrain")
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, searched: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setitem(SPACES, "tiny", QuickSpace)
    shutil.copytree(searched, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    winners = set_winners("winner-1", "winner-2")
    assert len(winners) == 2
    return tmp_path


def set_winners(*names: str) -> list[dict[str, Any]]:
    """The first and last networks of the trajectory as the winners."""
    path = Path("runs/r/search/result.json")
    found = json.loads(path.read_text())
    points = (found["trajectory"][0], found["trajectory"][-1])
    found["winners"] = [{"name": name, **point} for name, point in zip(names, points, strict=False)]
    path.write_text(json.dumps(found))
    return list(found["winners"])


def result(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((RETRAINED / name / "result.json").read_text())
    return found


def loaded(name: str) -> torch.nn.Module:
    model = SPACE.build(SPACE.from_json(result(name)["arch"]))
    model.load_state_dict(load_tensors(RETRAINED / name / "model.safetensors")[0])
    return model.eval()


def test_every_winner_is_trained_from_its_inherited_weights() -> None:
    main([*ARGS])
    winners = json.loads(Path("runs/r/search/result.json").read_text())["winners"]
    data, supernet = load_run_data(Path("runs/r")), load_supernet(Path("runs/r"), CPU)
    for winner in winners:
        found, arch = result(winner["name"]), SPACE.from_json(winner["arch"])
        assert (found["name"], found["arch"], found["init"], found["epochs"]) == (
            winner["name"],
            winner["arch"],
            "inherit",
            2,
        )
        assert (found["num_params"], found["macs"]) == (num_params(SPACE, arch), macs(SPACE, arch))
        assert found["test_accuracy"] == accuracy(loaded(winner["name"]), data.test, 16, CPU)
        assert found["start_test_accuracy"] == accuracy(supernet.extract(arch), data.test, 16, CPU)
        lines = json_lines(RETRAINED / winner["name"] / "metrics.jsonl")
        assert [line["step"] for line in lines] == [3, 6] and all("accuracy" in line for line in lines)


def first_model(monkeypatch: pytest.MonkeyPatch, *flags: str) -> dict[str, torch.Tensor]:
    """The weights that training begins with."""
    seen: list[dict[str, torch.Tensor]] = []

    def stop(self: Any, description: str) -> None:
        seen.append({n: t.clone() for n, t in self.model.state_dict().items()})
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "fit", stop)
        with pytest.raises(KeyboardInterrupt):
            main([*ARGS, "--winners", "winner-2", *flags])
    return seen[0]


def test_weights_are_inherited_or_fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    arch = SPACE.from_json(set_winners("winner-1", "winner-2")[1]["arch"])
    inherited = load_supernet(Path("runs/r"), CPU).extract(arch).state_dict()
    begun = first_model(monkeypatch)
    assert all(torch.equal(begun[n], t) for n, t in inherited.items())
    scratch = first_model(monkeypatch, "--init", "scratch", "--suffix", "scratch")
    assert not any(torch.equal(scratch[n], t) for n, t in inherited.items() if n.endswith("conv.weight"))
    again = first_model(monkeypatch, "--init", "scratch", "--suffix", "again")
    assert all(torch.equal(scratch[n], t) for n, t in again.items())


def test_a_supernet_that_began_with_fresh_weights_has_no_pretrained_network() -> None:
    message = (
        "--init pretrained-slice: the supernet of runs/r began with fresh weights; give inherit or scratch, or begin"
    )
    with pytest.raises(UserError, match=message):
        main([*ARGS, "--init", "pretrained-slice"])
    assert not RETRAINED.exists()


def test_killed_and_resumed_equals_uninterrupted(folder: Path) -> None:
    main([*ARGS, "--suffix", "whole"])
    arguments = (*ARGS, "--checkpoint-seconds", "0")
    run_killed(folder, "nas.retrain", *arguments, kill_at="nas.training.trainer:Trainer._one:9")  # in the second winner
    assert (RETRAINED / "winner-1/result.json").exists() and not (RETRAINED / "winner-2/result.json").exists()
    finished = (RETRAINED / "winner-1/model.safetensors").stat().st_mtime_ns
    main(["--resume"])
    assert (RETRAINED / "winner-1/model.safetensors").stat().st_mtime_ns == finished
    for name in ("winner-1", "winner-2"):
        resumed, whole = (load_tensors(RETRAINED / n / "model.safetensors")[0] for n in (name, f"{name}-whole"))
        assert all(torch.equal(resumed[n], t) for n, t in whole.items())
        lines, whole_lines = (json_lines(RETRAINED / n / "metrics.jsonl") for n in (name, f"{name}-whole"))
        assert timeless(lines) == timeless(whole_lines)
        for figure in ("test_accuracy", "start_test_accuracy", "epochs", "arch"):
            assert result(name)[figure] == result(f"{name}-whole")[figure]
        assert "--resume" not in result(name)["command"]


def test_resume_goes_on_with_the_networks_and_settings_of_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[tuple[str, str, int, float]] = []

    def fit(self: Any, description: str) -> None:
        config = self.config
        trained.append((self.folder.name, config.init, config.epochs, config.lr))
        if interrupted:
            raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "fit", fit)
    winners = set_winners("winner-1", "winner-2")
    archs = [{"name": name, "arch": winner["arch"]} for name, winner in zip(("n1", "n2"), winners, strict=True)]
    write_json(Path("archs.json"), archs)
    others = (("--suffix", "a"), ("--archs", "archs.json"))
    interrupted = True
    for flags in others:
        with pytest.raises(KeyboardInterrupt):
            main([*COMMON, "--init", "scratch", "--epochs", "3", *flags])
    names = {"winner-1-a", "winner-2-a", "n1", "n2"}
    assert {path.parent.name for path in RETRAINED.glob("*/config.json")} == names  # begun, whichever came first
    interrupted = False
    main([*ARGS, "--archs", "archs.json", "--winners", "n1", "--suffix", "b"])
    write_json(Path("runs/r/search-2/result.json"), {"winners": [{**winners[0], "name": "search-2-winner-1"}]})  # newer
    trained.clear()
    for newest in (["n1", "n2"], ["winner-1-a", "winner-2-a"]):
        main(["--resume"])
        assert trained == [(name, "scratch", 3, 0.3) for name in newest]
        trained.clear()
    for flags in others:
        main(["--resume", *flags])
    assert not trained
    with pytest.raises(UserError, match=r"nothing in runs/r/retrain was begun with these --search, --archs"):
        main(["--resume", "--winners", "n1", "winner-1", "--suffix", "c"])


def interrupted_first(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The folders of the networks that are trained from now on, by doing nothing; Ctrl-C ends the first."""
    folders: list[Path] = []

    def fit(self: Any, description: str) -> None:
        folders.append(self.folder)
        if len(folders) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "fit", fit)
    return folders


@pytest.mark.parametrize("gone", ["archs.json", "runs/s/search/result.json"])
def test_a_renamed_run_goes_on_without_what_named_its_networks(gone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = interrupted_first(monkeypatch)
    winners = [{**winner, "precision": "int8"} for winner in set_winners("winner-1", "winner-2")]
    write_json(Path("archs.json"), winners)
    search = read_json(Path("runs/r/search/result.json"))
    write_json(Path("runs/r/search/result.json"), {**search, "winners": winners})
    with pytest.raises(KeyboardInterrupt):
        main([*ARGS, "--init", "scratch", *(("--archs", "archs.json") if gone == "archs.json" else ())])
    move_run("runs/r", "runs/s")
    Path(gone).unlink()
    main(["--resume"])
    retrained = Path("runs/s/retrain")
    assert folders[1:] == [retrained / "winner-1", retrained / "winner-2"]
    found = read_json(retrained / "winner-2/result.json")
    assert found["arch"] == winners[1]["arch"] and found["precision"] == "int8"


@pytest.mark.parametrize("archs", [(), ("--archs", "runs/r/search/result.json")])
def test_what_was_begun_goes_on_after_the_search_has_picked_others(
    archs: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = interrupted_first(monkeypatch)
    begun = set_winners("winner-1", "winner-2")
    with pytest.raises(KeyboardInterrupt):
        main([*ARGS, "--init", "scratch", *archs])
    set_winners("winner-1")
    main(["--resume"])
    assert folders[1:] == [RETRAINED / "winner-1", RETRAINED / "winner-2"]
    assert result("winner-2")["arch"] == begun[1]["arch"]
    with pytest.raises(UserError, match=r"no winner winner-2 in runs/r/search.*; choose from winner-1$"):
        main([*ARGS, *archs, "--winners", "winner-2", "--suffix", "new"])


def test_nothing_to_go_on_with() -> None:
    with pytest.raises(UserError, match=r"no run under runs/ has retrain/\*/config.json; make it with: python"):
        main([*ARGS, "--resume"])


def test_run_twice_it_says_what_to_do_and_touches_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    main([*ARGS, "--winners", "winner-2"])
    before = {p: p.read_bytes() for p in RETRAINED.rglob("*") if p.is_file()}
    with pytest.raises(
        UserError,
        match="winner-2 exists; go on with it by --resume, or make another with --suffix, or name others with --winn",
    ):
        main([*ARGS])  # winner-1 is new, and yet not begun: all are checked first
    capsys.readouterr()
    main([*ARGS, "--winners", "winner-2", "--resume"])
    assert "retrain/winner-2 is finished: nothing to train" in capsys.readouterr().out
    assert {p: p.read_bytes() for p in RETRAINED.rglob("*") if p.is_file()} == before


def test_the_next_command_of_the_report_trains_what_is_missing() -> None:
    main([*ARGS, "--winners", "winner-2"])
    (command,) = re.findall("Next: <code>python -m nas.retrain (.*)</code>", write_report(Path("runs/r")).read_text())
    main([*ARGS, *shlex.split(command)])
    assert result("winner-1")["epochs"] == 2
    assert "Next: <code>python -m nas.export --run r</code>" in write_report(Path("runs/r")).read_text()


def test_resume_with_other_settings_says_which(monkeypatch: pytest.MonkeyPatch) -> None:
    first_model(monkeypatch)
    with pytest.raises(
        UserError, match=r"cannot resume runs/r/retrain/winner-2 with other settings: lr was 0.3, now 0.4"
    ):
        main(["--resume", "--lr", "0.4"])
    set_winners("winner-2", "winner-1")  # a search of that name has since picked another network
    with pytest.raises(UserError, match=r"cannot resume runs/r/retrain/winner-2 with other settings: arch was"):
        main(["--resume"])


def test_what_is_not_yet_trained_can_be_shortened(monkeypatch: pytest.MonkeyPatch) -> None:
    interrupt_at(monkeypatch, 9, main, *ARGS)  # in the second winner, after 2 of 6 steps
    before = {path: path.read_bytes() for path in RETRAINED.rglob("*.json")}
    with pytest.raises(UserError, match=r"--epochs 3: runs/r/retrain/winner-2 has trained .* give 1 to 2, or train"):
        main(["--resume", "--epochs", "3"])
    assert before == {path: path.read_bytes() for path in RETRAINED.rglob("*.json")}
    main(["--resume", "--epochs", "1"])
    for name, epochs in (("winner-1", 2), ("winner-2", 1)):
        found, config = result(name), json.loads((RETRAINED / name / "config.json").read_text())
        assert (found["epochs"], found["planned_epochs"], config["epochs"]) == (epochs, 2, epochs)
    assert result("winner-2")["command"].endswith("--epochs=1")
    main(["--resume"])  # finished, with different numbers


def test_winners_that_are_not_there() -> None:
    with pytest.raises(UserError, match="--scheduler asha is for --ray-workers; give both or none"):
        main(["--scheduler", "asha"])
    with pytest.raises(UserError, match="--ray-address auto is for --ray-workers; give both or none"):
        main(["--ray-address", "auto"])
    with pytest.raises(UserError, match="--suffix is 'a/b'; give letters"):
        main([*ARGS, "--suffix", "a/b"])
    with pytest.raises(UserError, match=r"no winner winner-9 in runs/r/search; choose from winner-1, winner-2"):
        main([*ARGS, "--winners", "winner-9"])
    with pytest.raises(UserError, match=r"runs/r has no search-x/result.json; make it with: python -m nas.search"):
        main([*ARGS, "--run", "r", "--search", "search-x"])
    set_winners()
    with pytest.raises(UserError, match=r"runs/r/search picked no winner; go on with nas.search --resume"):
        main([*ARGS])
    shutil.rmtree("runs/r/search")
    with pytest.raises(
        UserError, match=r"no run under runs/ has search\*/result.json; make it with: python -m nas.search"
    ):
        main([*ARGS])


def test_data_changed_since_the_supernet_was_trained() -> None:
    Image.new("RGB", (16, 16)).save("images/red/0.png")
    with pytest.raises(UserError, match="images has changed since runs/r was begun"):
        main([*ARGS])
    assert not RETRAINED.exists()


def test_a_truncated_supernet(folder: Path) -> None:
    path = folder / "runs/r/supernet/supernet.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"supernet.safetensors is truncated or no checkpoint of ours"):
        main([*ARGS])
    assert not RETRAINED.exists()


def make_teacher(seed: int) -> tuple[str, ...]:
    torch.manual_seed(seed)
    save_file(timm.create_model("test_resnet", num_classes=3).state_dict(), "teacher.safetensors")
    return ("--teacher", "test_resnet", "--teacher-checkpoint", "teacher.safetensors", "--teacher-image-size", "32")


def test_a_teacher_takes_part_from_the_first_step(monkeypatch: pytest.MonkeyPatch) -> None:
    flags, one = (*make_teacher(0), "--distillation-weight", "0.9"), (*ARGS, "--winners", "winner-2")
    before = first_model(monkeypatch)
    taught = first_model(monkeypatch, *flags, "--suffix", "begun")
    assert all(torch.equal(before[name], tensor) for name, tensor in taught.items())  # they differ by the loss alone
    main([*one, "--suffix", "alone"])
    main([*one, "--suffix", "soft", *flags])
    main([*one, "--suffix", "hard", *flags, "--distillation", "hard"])
    losses = [
        json_lines(RETRAINED / f"winner-2-{kind}" / "metrics.jsonl")[0]["loss"] for kind in ("alone", "soft", "hard")
    ]
    assert len(set(losses)) == 3
    found = result("winner-2-soft")["teacher"]
    assert (found["name"], found["checkpoint"]) == ("test_resnet", "teacher.safetensors")
    assert found["sha256"] == hashlib.sha256(Path("teacher.safetensors").read_bytes()).hexdigest()
    assert 0 <= found["search_accuracy"] <= 1
    assert "teacher" not in result("winner-2-alone")


def test_a_teacher_has_a_classifier_of_its_own(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a network of two."""
    shutil.rmtree("runs")
    shutil.copytree(trained / "runs", "runs")
    monkeypatch.setitem(SPACES, "tiny", tiny_space)
    write_json(Path("archs.json"), [{"name": "small", "arch": tiny_space().to_json(tiny_space().smallest)}])
    alike: dict[str, bool] = {}

    def one_step(self: Any, description: str) -> None:
        next(self.steps())
        alike[self.folder.name] = torch.equal(self.model.head.bias.grad, self.model.head_dist.bias.grad)
        raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "fit", one_step)
    for suffix, flags in (("alone", ()), ("taught", (*make_teacher(0), "--distillation", "hard"))):
        with pytest.raises(KeyboardInterrupt):
            main([*ARGS, "--archs", "archs.json", "--suffix", suffix, *flags])
    assert alike == {"small-alone": True, "small-taught": False}


def test_a_winner_teaches_the_next_and_is_seen_as_accurate_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    main([*ARGS, "--winners", "winner-1"])
    main([*ARGS, "--winners", "winner-2", "--teacher", str(RETRAINED / "winner-1")])
    expected = accuracy(loaded("winner-1"), load_run_data(Path("runs/r")).search, 16, CPU)
    assert result("winner-2")["teacher"]["search_accuracy"] == pytest.approx(expected)
    assert f"teacher runs/r/retrain/winner-1: {100 * expected:.2f} % of the search split" in capsys.readouterr().out


@pytest.mark.heavy
def test_a_taught_winner_goes_on_with_its_teacher_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    flags = (*ARGS, "--winners", "winner-2", *make_teacher(0))
    main([*flags, "--suffix", "whole"])
    interrupt_at(monkeypatch, 5, main, *flags)
    content = Path("teacher.safetensors").read_bytes()
    make_teacher(1)
    with pytest.raises(
        UserError, match=r"cannot resume runs/r/retrain/winner-2 with other settings: teacher_sha256 was"
    ):
        main(["--winners", "winner-2", "--resume"])
    Path("moved.safetensors").write_bytes(content)
    main(["--winners", "winner-2", "--resume", "--teacher-checkpoint", "moved.safetensors"])
    resumed, whole = (load_tensors(RETRAINED / n / "model.safetensors")[0] for n in ("winner-2", "winner-2-whole"))
    assert all(torch.equal(resumed[name], tensor) for name, tensor in whole.items())


def test_a_teacher_of_other_classes_is_refused_before_anything_is_begun() -> None:
    save_file(timm.create_model("test_resnet").state_dict(), "teacher.safetensors")
    with pytest.raises(UserError, match="has 1000 classes, the data 3"):
        main([*ARGS, "--teacher", "test_resnet", "--teacher-checkpoint", "teacher.safetensors"])
    assert not RETRAINED.exists()


# ---- a last time, on everything but the test split


def test_all_data_is_all_but_the_test_split_and_what_was_trained_on_is_not_evaluated(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluated = []

    def counting(model: Any, images: Any, *others: Any) -> float:
        evaluated.append(len(images))
        return accuracy(model, images, *others)

    monkeypatch.setattr("nas.training.network.accuracy", counting)
    last = ("--all-data", "--winners", "winner-1", "--checkpoint-seconds", "0")
    interrupt_at(monkeypatch, 7, main, *ARGS, *last)
    main(["--resume"])
    splits = load_run_info(Path("runs/r")).splits
    rows = json_lines(RETRAINED / "winner-1-all-data/metrics.jsonl")
    assert rows[-1]["step"] == 2 * ((splits.train + splits.search) // 8)
    assert not any("accuracy" in row for row in rows) and set(evaluated) == {splits.test}
    found = result("winner-1-all-data")
    assert found["all_data"] and found["test_accuracy_interval"] == interval(found["test_accuracy"], splits.test)
    assert "epochs on all images but the test split" in capsys.readouterr().out
    (winner,) = load_winners(Path("runs/r"), ())
    assert winner.all_data and winner.description.endswith("trained on all others")
    with pytest.raises(UserError, match="winner-1-all-data was trained on the search split, too"):
        evaluate.main(["--retrained", "winner-1-all-data"])
    exported = shutil.copytree(RETRAINED / "winner-1-all-data", "runs/r/export/winner-1-all-data")
    for place in (RETRAINED / "winner-1-all-data/model.safetensors", exported):
        assert find(str(place), None, None, DataConfig(), named=False).all_data, "nas.prune is told"


def test_all_data_leaves_no_accuracies_to_stop_by() -> None:
    with pytest.raises(UserError, match="--patience needs accuracies on the search split, which --all-data trains on"):
        main([*ARGS, "--all-data", "--patience", "2"])
    assert not RETRAINED.exists()
