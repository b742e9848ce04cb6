from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from nas.retrain import main
from nas.runs.checkpoint import load_tensors
from nas.training import parallel
from nas.training.parallel import Job, _asha, _history, _watcher
from nas.training.winner import Config
from nas.training.winners import find_winners
from search_spaces import UserError
from search_spaces.command.files import read_json, write_json
from tests.nas import mortal
from tests.nas.tiny import QuickSpace, json_lines, run_killed
from tests.nas.training.test_winner import ARGS, COMMON, RETRAINED, folder, result  # noqa: F401

SPACE = QuickSpace()


def write_archs(content: Any, name: str = "archs.json") -> str:
    write_json(Path(name), content)
    return name


# ---- which networks


def test_networks_of_a_file() -> None:
    archs = {"small": SPACE.to_json(SPACE.smallest), "large": SPACE.to_json(SPACE.largest)}
    path = write_archs([{"name": name, "arch": arch} for name, arch in archs.items()])
    run_folder, search, found = find_winners(Config(archs=path))
    assert run_folder == Path("runs/r") and search is None and {name: w["arch"] for name, w in found.items()} == archs
    assert list(find_winners(Config(archs=path, winners=("large",)))[2]) == ["large"]
    main([*ARGS, "--epochs", "1", "--archs", path, "--winners", "small"])
    assert result("small")["arch"] == archs["small"]


def test_a_search_s_result_names_its_run() -> None:
    shutil.copytree("runs/r", "elsewhere/runs/s")
    run_folder, _, found = find_winners(Config(archs="elsewhere/runs/s/search/result.json"))
    assert run_folder == Path("elsewhere/runs/s").resolve() and list(found) == ["winner-1", "winner-2"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "archs.json names no networks; give a search's result.json, or "),
        ({"winners": []}, "archs.json names no networks"),
        ([{"name": "a"}], "archs.json names no networks"),
        (["a"], "archs.json names no networks"),
        (7, "archs.json names no networks"),
        (
            [{"name": "a/b", "arch": SPACE.to_json(SPACE.largest)}],
            "archs.json names no networks.*name is 'a/b'; give letters",
        ),
        ([{"name": "a", "arch": SPACE.to_json(SPACE.largest)}] * 2, "two networks in archs.json have the same name"),
        ([{"name": "a", "arch": {"depth": 3}}], "arch has no field filters, kept"),
    ],
)
def test_files_without_networks(content: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        main([*ARGS, "--archs", write_archs(content)])
    assert not RETRAINED.exists()


def test_two_sources_of_networks() -> None:
    with pytest.raises(UserError, match="two sources of networks; give one of them"):
        main([*ARGS, "--archs", write_archs([]), "--search", "search"])


# ---- which are stopped


def trial_of(job: Job) -> SimpleNamespace:
    return SimpleNamespace(trial_id=f"id of {job.folder.name}", config={"name": job.folder.name})


@pytest.mark.parametrize("epochs", [2, 3, 8, 9, 10, 27, 30, 81, 300])
def test_asha_stops_the_less_accurate_and_none_at_the_end(epochs: int) -> None:
    from ray.tune.schedulers import TrialScheduler

    jobs = [Job(Config(), RETRAINED / str(i), {}) for i in range(9)]
    scheduler, trials = _asha(epochs, jobs), [trial_of(job) for job in jobs]
    stopped: dict[int, float] = {}
    for trial in trials:
        scheduler.on_trial_add(None, trial)
    step = max(1, epochs // 20)  # epochs between accuracies
    for epoch in [*range(step, epochs, step), epochs]:
        for i, trial in reversed(list(enumerate(trials))):
            if i not in stopped:
                told = {"epoch": float(epoch), "accuracy": i / 10}
                if scheduler.on_trial_result(None, trial, told) == TrialScheduler.STOP:
                    stopped[i] = epoch
    assert 0 in stopped and 8 not in stopped and len(stopped) >= 6
    assert all(epoch < epochs for epoch in stopped.values())


def test_asha_knows_what_was_trained_before_and_judges_it_no_more() -> None:
    """Two that went on, one stopped for being behind them, then a kill; a fourth is new."""
    from ray.tune.schedulers import TrialScheduler

    jobs = {name: Job(Config(), RETRAINED / name, {}) for name in ("first", "second", "stopped", "new")}
    for name, told in {"first": {3: 0.5, 4: 0.52}, "second": {3: 0.6}}.items():
        jobs[name].folder.mkdir(parents=True)
        lines = [
            json.dumps({"step": epoch, "epoch": float(epoch), "accuracy": accuracy}) for epoch, accuracy in told.items()
        ]
        (jobs[name].folder / "metrics.jsonl").write_text("\n".join([*lines, ""]))
    write_json(jobs["stopped"].folder / "stopped.json", {"epoch": 3.0, "accuracy": 0.55})
    scheduler = _asha(30, list(jobs.values()))

    def goes_on(name: str, epoch: float, accuracy: float) -> bool:
        told = {"epoch": epoch, "accuracy": accuracy}
        return scheduler.on_trial_result(None, trial_of(jobs[name]), told) == TrialScheduler.CONTINUE

    for name in ("first", "second", "new"):
        scheduler.on_trial_add(None, trial_of(jobs[name]))
    assert goes_on("first", 3.0, 0.5) and goes_on("first", 4.0, 0.52)  # once more, from an earlier checkpoint
    assert goes_on("new", 2.0, 0.1) and not goes_on("new", 3.0, 0.54)
    assert goes_on("first", 9.0, 0.5) and not goes_on("second", 9.0, 0.4)


def test_what_is_stopped_is_recorded_and_known_again() -> None:
    of_winner = RETRAINED / "winner-1"
    metrics = [{"epoch": 0.5, "step": 2}, {"epoch": 1.0, "step": 4, "accuracy": 0.4}]
    of_winner.mkdir(parents=True)
    (of_winner / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in metrics))
    job = Job(Config(), of_winner, {})
    watcher = _watcher({"winner-1": of_winner})
    trial = SimpleNamespace(config={"name": "winner-1"}, last_result={"epoch": 0, "accuracy": 0.0, "message": "no"})
    watcher.on_trial_complete(0, [], trial)
    assert not job.is_over
    trial.last_result = {"epoch": 2.0, "accuracy": 0.3, "time_total_s": 7}
    watcher.on_trial_complete(0, [], trial)
    assert job.is_over and job.stopped == {"epoch": 2.0, "accuracy": 0.3}
    assert _history(of_winner) == [{"epoch": 1.0, "accuracy": 0.4}, {"epoch": 2.0, "accuracy": 0.3}]


def test_what_has_run_out_of_patience_is_finished_and_not_stopped(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("nas.training.network.accuracy", lambda *_: 0.4)
    main([*ARGS, "--winners", "winner-1", "--epochs", "3", "--patience", "1"])
    found = result("winner-1")
    assert (found["epochs"], found["stopped_epoch"], found["kept_epoch"]) == (3, 2.0, 2.0)
    assert ") after 2 of 3 epochs, kept as of epoch 2; wrote" in capsys.readouterr().out
    last = {"epoch": 2.0, "accuracy": 0.5, "time_total_s": 7}
    _watcher({"winner-1": RETRAINED / "winner-1"}).on_trial_complete(
        0, [], SimpleNamespace(config={"name": "winner-1"}, last_result=last)
    )
    job = Job(Config(), RETRAINED / "winner-1", {})
    assert job.is_over and job.stopped is None
    assert [row["epoch"] for row in _history(job.folder)] == [1.0, 2.0]


# ---- with Ray


@pytest.mark.heavy
def test_a_trial_trains_what_this_process_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "_train", mortal.train_mortal)  # which knows the space
    one = [*COMMON, "--epochs", "1", "--warmup-epochs", "0", "--winners", "winner-2"]
    main([*one, "--suffix", "here"])
    main([*one, "--ray-workers", "1"])
    ours, here = (load_tensors(RETRAINED / n / "model.safetensors")[0] for n in ("winner-2", "winner-2-here"))
    assert all(torch.equal(ours[name], tensor) for name, tensor in here.items())
    assert read_json(RETRAINED / "result.json")["networks"][0]["stopped"] is None


@pytest.mark.heavy
def test_two_at_a_time_after_a_kill_and_with_another_one(monkeypatch: pytest.MonkeyPatch) -> None:
    main([*ARGS, "--suffix", "whole"])
    run_killed(
        Path.cwd(), "nas.retrain", *ARGS, "--checkpoint-seconds", "0", kill_at="nas.training.trainer:Trainer._one:5"
    )
    assert not list(RETRAINED.glob("winner-?/result.json")) and (RETRAINED / "winner-1/checkpoint.safetensors").exists()
    monkeypatch.setattr(parallel, "_train", mortal.train_mortal)
    Path("die").touch()
    main([*ARGS, "--checkpoint-seconds", "0", "--resume", "--ray-workers", "2"])
    assert not Path("die").exists()  # a trial has found it
    for name in ("winner-1", "winner-2"):
        ours, whole = (load_tensors(RETRAINED / n / "model.safetensors")[0] for n in (name, f"{name}-whole"))
        assert all(torch.equal(ours[n], tensor) for n, tensor in whole.items())
        assert [line["step"] for line in json_lines(RETRAINED / name / "metrics.jsonl")] == [3, 6]
        assert result(name)["test_accuracy"] == result(f"{name}-whole")["test_accuracy"]
    found = read_json(RETRAINED / "result.json")
    assert [(n["name"], n["stopped"]) for n in found["networks"]] == [("winner-1", None), ("winner-2", None)]
    assert not (RETRAINED / ".tune").exists()
    main([*ARGS, "--resume", "--ray-workers", "2"])  # nothing is left to do, and no Ray is needed
    before = result("winner-1")
    (RETRAINED / "winner-1/result.json").unlink()  # as after a kill in its test: no accuracy is left to be told
    main(["--resume", "--ray-workers", "1", "--scheduler", "asha"])
    assert result("winner-1") == before
    assert not list(RETRAINED.glob("*/stopped.json"))
