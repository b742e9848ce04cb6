from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from nas import retrain, train_supernet
from nas.distributed import collectives, process
from nas.runs.checkpoint import load_tensors
from nas.supernets import elastic as training
from nas.training import recipe
from nas.training.patience import Best
from nas.training.trainer import Trainer
from search_spaces import SPACES, UserError
from tests.nas.tiny import PATIENCE_S, ROOT, Ended, QuickSpace, json_lines, make_images, run_job

TRAIN = ("--space", "tiny", "--data", "images", "--epochs", "2", "--batch-size", "8", "--amp", "off")
RECIPE = ("--lr", "0.5", "--ema-decay", "0.9", "--clip-grad", "0.1", "--checkpoint-seconds", "0")
# every kind of random draw; networks that are chosen by their loss on the batch
ARGS = (*TRAIN, *RECIPE, "--augment", "published", "--drop-path", "0.2", "--sampling", "best-up", "--num-random", "1")
HINT = "the files written so far are whole: go on with --resume, with any number of processes"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setitem(SPACES, "tiny", QuickSpace)
    monkeypatch.chdir(tmp_path)
    make_images(Path("images"), per_class=12)
    return tmp_path


def train(*argv: str) -> Callable[[int], None]:
    return lambda rank: train_supernet.main([*argv, "--run", "r"])


def supernet(run: Path) -> dict[str, Tensor]:
    return load_tensors(run / "supernet/checkpoint.safetensors")[0]


def assert_nearly_equal(a: Path, b: Path) -> None:
    """Losses and weights, but for biases before a norm, and what it subtracts: their gradients are rounding errors."""
    for first, second in zip(
        json_lines(a / "supernet/metrics.jsonl"), json_lines(b / "supernet/metrics.jsonl"), strict=True
    ):
        assert first["step"] == second["step"]
        assert first["loss"] == pytest.approx(second["loss"], rel=1e-4)
    left, right = supernet(a), supernet(b)
    assert left.keys() == right.keys()
    noise = ("conv.bias", "running_mean", "optimizer.")
    for name in (name for name in left if not any(part in name for part in noise)):
        torch.testing.assert_close(left[name], right[name], rtol=1e-3, atol=1e-3)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same training: `one`, by one process in two parts, and `two`, by two processes."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SPACES, "tiny", QuickSpace)
        patch.chdir(folder)
        make_images(Path("images"), per_class=12)
        train_supernet.main([*ARGS, "--run", "one", "--accumulation-steps", "2"])
        ended = run_job(lambda rank: train_supernet.main([*ARGS, "--run", "two"]))
        Path("ended.json").write_text(json.dumps([vars(process) for process in ended]))
    return folder


def test_two_processes_train_as_one_in_two_parts(whole: Path) -> None:
    one, two = whole / "runs/one", whole / "runs/two"
    assert_nearly_equal(one, two)
    facts = [json.loads((run / "supernet/result.json").read_text()) for run in (one, two)]
    assert [(f["processes"], f["accumulation_steps"]) for f in facts] == [(1, 2), (2, 1)]
    assert [(line["processes"], line["accumulation_steps"]) for line in json_lines(two / "supernet/metrics.jsonl")] == [
        (2, 1)
    ] * 2


def test_one_process_writes(whole: Path) -> None:
    first, second = (Ended(**process) for process in json.loads((whole / "ended.json").read_text()))
    assert (first.code, second.code) == (0, 0)
    assert first.out.count("wrote runs/two") == 1 and first.errors.count("6/6") >= 1
    assert second.out == second.errors == ""
    assert sorted(p.name for p in (whole / "runs/two/supernet").iterdir()) == [
        ".lock",
        "checkpoint.safetensors",
        "config.json",
        "metrics.jsonl",
        "result.json",
        "supernet.safetensors",
        "tensorboard",
    ]
    assert len(list((whole / "runs/two/supernet/tensorboard").iterdir())) == 1


def test_a_killed_process_ends_the_job_which_goes_on_with_any_number(
    whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def killed(rank: int) -> None:
        one, calls = Trainer._one, 0

        def counted(self: Trainer, images: Tensor, target: Any) -> None:
            nonlocal calls
            calls += 1
            if calls == 5 and rank == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            one(self, images, target)

        Trainer._one = counted  # type: ignore[method-assign]
        train(*ARGS)(rank)

    survivor, gone = run_job(killed)
    assert gone.code == -signal.SIGKILL and survivor.code == 2
    assert survivor.errors.splitlines()[-1] == f"error: a process of the job ended, or the job was told to stop; {HINT}"
    assert "Traceback" not in survivor.errors
    shutil.copytree("runs/r", "runs/copy")

    again = run_job(lambda rank: train_supernet.main(["--resume", "--run", "r", "--num-workers", "1"]))
    assert [process.code for process in again] == [0, 0]
    left, right = supernet(Path("runs/r")), supernet(whole / "runs/two")
    assert all(torch.equal(left[name], right[name]) for name in right)

    capsys.readouterr()
    train_supernet.main(["--resume", "--run", "copy", "--accumulation-steps", "2"])
    assert "is now normalized" not in capsys.readouterr().out
    assert_nearly_equal(Path("runs/copy"), whole / "runs/two")


def test_a_loss_that_is_no_number_in_one_process_ends_all() -> None:
    def spoiled(rank: int) -> None:
        def broken(*_: Any) -> Tensor:
            raise FloatingPointError("the loss of w8 is nan")

        if rank == 1:
            training.train_step = broken  # type: ignore[assignment]
        train(*ARGS)(rank)

    first, second = run_job(spoiled)
    assert second.code == 2 and first.code == 1
    (line,) = [line for line in second.errors.splitlines() if line]
    assert line.startswith("error: process 1 of 2 on ")
    assert "the loss of w8 is nan at step 0; the last good checkpoint is none yet" in line
    assert "error" not in first.errors


def test_data_that_one_process_lacks() -> None:
    def elsewhere(rank: int) -> None:
        os.chdir(str(Path.cwd() / ("." if rank == 0 else "output")))
        train(*ARGS)(rank)

    first, second = run_job(elsewhere)
    assert second.code == 2 and first.code == 1
    assert "no such path: images" in second.errors and second.errors.strip().startswith("error: process 1 of 2 on ")
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("differ", "message"),
    [
        (lambda: Path("images/red/0.png").unlink(), "data_digest is "),
        (lambda: setattr(recipe, "code_digest", lambda: "other"), "code_digest is other, not "),
    ],
)
def test_processes_that_differ_are_named(differ: Callable[[], None], message: str) -> None:
    def differing(rank: int) -> None:
        if rank == 1:
            os.chdir("output")
            shutil.copytree("../images", "images")
            differ()
        train(*ARGS)(rank)

    ended = run_job(differing)
    assert sorted(process.code or 0 for process in ended) == [1, 2]
    (line,) = [line for process in ended for line in process.errors.splitlines() if line.startswith("error: ")]
    assert line.startswith("error: process 1 on ") and message in line
    assert not Path("runs").exists()


def test_other_settings_are_named() -> None:
    ended = run_job(lambda rank: train(*ARGS, "--seed", str(rank))(rank))
    (line,) = [line for process in ended for line in process.errors.splitlines() if line.startswith("error: ")]
    assert "seed is 1, not 0; start all processes with the same flags, data, code and run folder" in line


def test_numbers_texts_and_tensors() -> None:
    """Three processes: not everything that holds for two."""

    def check(rank: int) -> None:
        with collectives.job():
            assert (process.rank(), process.world_size(), process.is_primary()) == (rank, 3, rank == 0)
            assert collectives.total(rank, 0.5) == [3.0, 1.5]
            assert collectives.gather("é" * rank) == ["", "é", "éé"]
            image = torch.full((2, 3, 4, 4), float(rank)).contiguous(memory_format=torch.channels_last)
            tensors = [image, torch.tensor(rank * 3.0), torch.arange(5.0) * rank]
            collectives.BUCKET_BYTES = 100
            collectives.average_(tensors)
            assert (tensors[0] == 1).all() and tensors[1] == 3 and tensors[2].tolist() == [0, 1, 2, 3, 4]
            collectives.copy_from_first_([other := torch.tensor([rank, 1.0])])
            assert other.tolist() == [0, 1]
            module = torch.nn.Linear(1, 1)
            best = Best(module, patience=1, num_images=1000)
            for step, accuracy in ((1, 0.5 - rank / 10), (2, 0.4 + rank / 5)):
                best.add(step, {"accuracy": accuracy}, module)
            assert best.is_final and best.state() == {"accuracy": 0.5, "step": 1, "since": 1}  # process 0's
            print("checked")

    ended = run_job(check, count=3)
    assert [process.code for process in ended] == [0, 0, 0], ended
    assert [process.out for process in ended] == ["checked\n", "", ""]


def test_retraining_by_two_processes(whole: Path) -> None:
    shutil.copytree(whole / "runs/two", "runs/r")
    space = QuickSpace()
    winner = {"name": "w", "arch": space.to_json(space.smallest)}
    Path("runs/r/search").mkdir()
    Path("runs/r/search/result.json").write_text(json.dumps({"winners": [winner]}))
    arguments = [*("--epochs", "1", "--batch-size", "8", "--lr", "0.3", "--amp", "off", "--clip-grad", "1")]
    ended = run_job(lambda rank: retrain.main(arguments))
    assert [process.code for process in ended] == [0, 0], ended
    assert ended[0].out.count("w: test accuracy") == 1 and not ended[1].out
    retrain.main([*arguments, "--suffix", "b", "--accumulation-steps", "2"])
    two, one = (json.loads(Path(f"runs/r/retrain/{name}/result.json").read_text()) for name in ("w", "w-b"))
    assert two["start_test_accuracy"] == one["start_test_accuracy"]
    lines = [json_lines(Path(f"runs/r/retrain/{name}/metrics.jsonl"))[-1]["loss"] for name in ("w", "w-b")]
    assert lines[0] == pytest.approx(lines[1], rel=1e-4)


@pytest.mark.heavy
def test_torchrun(folder: Path) -> None:
    """As users start it; what survives a killed process is told by torchrun to stop."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "--"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "KILL_AT": "nas.training.trainer:Trainer._one:3:1"}
    done = subprocess.run(
        [*torchrun, "tests.nas.tiny", "nas.train_supernet", *ARGS, "--run", "r"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode != 0
    assert done.stderr.count("error: a process of the job ended") == 1
    command = json.loads(Path("runs/r/supernet/config.json").read_text())["command"]
    assert command.startswith("torchrun --nnodes 1 --nproc-per-node 2 -m -- tests.nas.tiny --space tiny --data images")
    assert load_tensors(Path("runs/r/supernet/checkpoint.safetensors"))[1]["processes"] == 2


def test_alone_nothing_is_exchanged() -> None:
    with collectives.job():
        assert not torch.distributed.is_initialized()
        assert (process.rank(), process.world_size(), process.is_primary()) == (0, 1, True)
        assert collectives.total(2.5) == [2.5] and collectives.gather("a") == ["a"]
        collectives.agree(anything=1)
        with pytest.raises(UserError, match=r"^a mistake$"):
            raise UserError("a mistake")


def test_a_world_without_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(UserError, match="RANK is not; start the processes with torchrun"), collectives.job():
        pass


def test_waiting_too_long_is_not_called_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    def all_reduce(_: Tensor) -> None:
        raise RuntimeError("Timed out waiting 600000ms for recv operation to complete")  # gloo's words

    monkeypatch.setattr(collectives, "world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "all_reduce", all_reduce)
    with pytest.raises(collectives.JobError, match="another process has kept this one waiting for 10 minutes"):
        collectives.total(1.0)
