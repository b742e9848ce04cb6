"""Every mistake a user can make ends a command with one clear line and exit code 2, and nothing is lost."""

from __future__ import annotations

import errno
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
from PIL import Image

from nas import retrain, search, train_supernet
from nas.runs import checkpoint
from nas.training.trainer import Trainer
from search_spaces import SPACES
from search_spaces import __main__ as spaces
from search_spaces.command import run
from tests.nas.tiny import PATIENCE_S, ROOT, QuickSpace, make_images, make_table, tiny_space

TRAIN = ("--space", "tiny", "--data", "images", "--epochs", "1", "--batch-size", "8", "--amp", "off")
Fails = Callable[..., str]


@pytest.fixture
def folder(tmp_path: Path, searched: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setitem(SPACES, "tiny", QuickSpace)
    shutil.copytree(searched, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def fails(folder: Path, capsys: pytest.CaptureFixture[str]) -> Fails:
    """Runs a command's `main`; returns its error line. What was there before is unchanged."""

    def call(main: Callable[..., None], *argv: str) -> str:
        before = {p: p.read_bytes() for p in Path("runs").rglob("*") if p.is_file()}
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit_:
            run(lambda: main(argv))
        errors = capsys.readouterr().err
        assert exit_.value.code == 2
        assert "Traceback" not in errors
        lines = [line for line in errors.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1 and errors.rstrip().endswith(lines[0])
        after = {p: p.read_bytes() for p in before}
        assert after == before
        return lines[0]

    return call


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--data nowhere", "no such path: nowhere; give an image folder, a .tar, or a name such as torch/cifar10"),
        ("--data images/red/0.png", "images/red/0.png is no .tar"),
        ("--data empty", "empty has no images; give a folder or .tar with 2 class folders or more"),
        ("--data broken.tar", "cannot read broken.tar: "),
        ("--data empty.tar", "empty.tar has no images; give a folder or .tar with 2 class folders or more"),
        ("--data images/red", "images without a folder; give a folder or .tar with 2 class folders or more"),
        ("--data corrupt --strict-images", "red/0.png cannot be read (it is no image); mend or remove it"),
        ("--data torch/cifar10", "torch/cifar10 needs --data-dir"),
        ("--data torch/cifar10 --data-dir nowhere", "--data-dir nowhere does not exist"),
        ("--data wds/x --data-dir images", "cannot read wds/x: split train not found"),
        ("--data hfds/nowhere/nothing", "cannot read hfds/nowhere/nothing: "),
        ("--test-data nowhere", "no such path: nowhere"),
        ("--search-fraction 1", "--search-fraction is 1.0; give a number above 0 and below 1"),
        ("--search-fraction 0.001", "too few for a train, a search and a test split"),
        ("--image-size 17", "image size 17 does not fit tiny: give a multiple of 16"),
        ("--image-size 0", "image size 0 does not fit tiny"),
        ("--space resnet", "no space 'resnet'; choose from efficientformerv2, efficientformerv2-nano"),
        ("--epochs 0", "--epochs is 0; give a number at least 1"),
        ("--epochs -3", "--epochs is -3; give a number at least 1"),
        ("--epochs many", "--epochs is 'many'; give a whole number"),
        ("--lr 0", "--lr is 0.0; give a number above 0"),
        ("--lr nan", "--lr is 'nan'; give a finite number"),
        ("--batch-size 1", "--batch-size is 1, and batch norm needs several images; give 2 or more"),
        ("--batch-size 1000", "--batch-size 1000 is more than the 41 training images"),
        ("--device quantum", "--device quantum cannot be used"),
        ("--wings 2", "unrecognized arguments: --wings 2"),
        ("--run r", "runs/r/supernet exists; go on with it by --resume, or make another with --run"),
        ("--run none --resume", "no run runs/none"),
    ],
)
def test_training(fails: Fails, flags: str, message: str) -> None:
    Path("empty").mkdir()
    Path("broken.tar").write_bytes(b"no archive")
    Path("empty.tar").write_bytes(bytes(10240))
    make_images(Path("corrupt"))
    Path("corrupt/red/0.png").write_bytes(b"no image")
    assert message in fails(train_supernet.main, *TRAIN, *flags.split())


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--alpha-latency 0", "--alpha-latency is 0.0; give a number above 0"),
        ("--alpha-size -1", "--alpha-size is -1.0; give a number above 0"),
        ("--max-params 0", "--max-params is 0.0; give a number above 0"),
        ("--max-latency-ms -2", "--max-latency-ms is -2.0; give a number above 0"),
        ("--min-accuracy 90", "--min-accuracy is 90.0; give a number above 0 and at most 1"),
        ("--winners 0", "--winners is 0; give a number at least 1"),
        ("--metrics speed", "--metrics is 'speed'; choose from latency, size, memory, macs"),
        ("--strategy luck", "--strategy is 'luck'; choose from slimming, random, nsga2, tpe, gp, predictor"),
        (
            "--strategy nsga2 --budget 50",
            "--budget 50 is too small for nsga2, which begins with 50 archs; give at least 51",
        ),
        ("--budget 0", "--budget is 0; give a number at least 1"),
        (
            "--strategy slimming --seed-search x",
            "--seed-search is for --strategy predictor, not slimming; leave it out",
        ),
        ("--ray-address host:1", "--ray-address host:1 is for --ray-workers; give both or none"),
        ("--strategy slimming --seed 3", "--seed is for strategies with randomness, slimming has none; leave it out"),
        ("--exact --strategy random", "--exact is for --strategy slimming, random has no races; leave it out"),
        (
            "--alpha-memory 5",
            "--alpha-memory is for memory, which is not in --metrics; leave it out, or give --metrics latency size mem",
        ),
        ("--metrics size --unit-latency-ms 2", "--unit-latency-ms is for latency, which is not in --metrics"),
        ("--only size", "--only size: tiny has no such choice; choose from filters, kept, ratio"),
        ("--only width --strategy random", "--only is for --strategy slimming, not random; leave it out"),
        ("--strategy predictor --seed-search x", "no finished search runs/r/x; choose from search"),
        ("--metrics size --storage nonsense", "cannot use the database nonsense: Could not parse SQLAlchemy URL"),
        ("--max-memory-mb 0", "--max-memory-mb is 0.0; give a number above 0"),
        ("--max-macs 1", "no network has macs of at most 1, the smallest is"),
        ("--max-params 10", "no network has num_params of at most 10, the smallest is"),
        ("--run nowhere", "no run runs/nowhere"),
        ("--table nowhere.json", "cannot read nowhere.json"),
        ("--table size.json", "the table's image size is 32, not 16"),
        ("--table space.json", "the table's space is efficientformerv2-nano, not tiny"),
        ("--table schema.json", "schema.json has schema 0"),
        ("--name a/b", "--name is 'a/b'"),
        ("--resume --alpha-size 3", "cannot resume runs/r/search with other settings: alpha_size was 0.5, now 3.0"),
    ],
)
def test_searching(fails: Fails, flags: str, message: str) -> None:
    make_table(QuickSpace(image_size=32)).save(Path("size.json"))
    make_table(SPACES["efficientformerv2-nano"](32, 3)).save(Path("space.json"))
    Path("schema.json").write_text('{"schema": 0}')
    assert message in fails(search.main, *flags.split())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("not JSON", "arch.json is not JSON"),
        ("[1, 2]", "arch must be a JSON object"),
        ({"width": None}, "arch has no field width"),
        ({"wings": 2}, "arch has an unknown field wings"),
        ({"width": [8, 8, 16, 17]}, "arch: width.3 is 17; choose from 16, 24"),
        ({"width": [8, 8]}, "arch: width is [8, 8]; give a list of 4"),
    ],
)
def test_archs(fails: Fails, content: Any, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SPACES, "tiny", tiny_space)
    if isinstance(content, dict):
        fields = {**tiny_space().to_json(tiny_space().largest), **content}
        content = json.dumps({k: v for k, v in fields.items() if v is not None})
    Path("arch.json").write_text(content)
    assert message in fails(spaces.main, "tiny", "--arch", "arch.json")


def test_checkpoints(fails: Fails, folder: Path) -> None:
    path = Path("runs/r/supernet/supernet.safetensors")
    whole = path.read_bytes()
    path.write_bytes(whole[:2000])
    assert "supernet.safetensors is truncated or no checkpoint of ours" in fails(retrain.main, "--batch-size", "8")
    info = json.loads(Path("runs/r/run.json").read_text())
    Path("runs/r/run.json").write_text(json.dumps({**info, "space": "efficientformerv2-nano", "image_size": 32}))
    path.write_bytes(whole)
    assert "supernet.safetensors is of another space or size" in fails(search.main, "--metrics", "size")


def test_a_truncated_training_checkpoint(fails: Fails) -> None:
    Path("runs/r/supernet/result.json").unlink()  # as if killed before the end
    path = Path("runs/r/supernet/checkpoint.safetensors")
    path.write_bytes(path.read_bytes()[:-100])
    assert "checkpoint.safetensors is truncated" in fails(train_supernet.main, "--resume")


def test_changed_data_and_settings(fails: Fails) -> None:
    Path("runs/r/supernet/result.json").unlink()
    message = fails(train_supernet.main, "--resume", "--seed", "7", "--lr", "9")
    assert message.endswith("with other settings: lr was 0.3, now 9.0; seed was 0, now 7")
    Image.new("RGB", (16, 16)).save("images/red/1.png")
    assert "images has changed since runs/r was begun" in fails(train_supernet.main, "--resume")


def test_a_full_disk(fails: Fails, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    assert "cannot write runs/new/supernet/checkpoint.safetensors: No space left on device" in fails(
        train_supernet.main, *TRAIN, "--run", "new"
    )


def test_a_full_disk_while_metrics_are_written(fails: Fails, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("nas.runs.metrics.MetricsLog.write", full)
    assert "No space left on device; free some space" in fails(train_supernet.main, *TRAIN, "--run", "new")


def test_a_loss_that_is_no_number(fails: Fails) -> None:
    message = fails(train_supernet.main, *TRAIN, "--lr", "1e30", "--run", "new", "--epochs", "9")
    assert "at step" in message and "the last good checkpoint is" in message


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (("nas.search", "--run", "nowhere"), "no run runs/nowhere; see `ls runs`"),
        pytest.param(
            ("nas.train_supernet", "--data", "nowhere"),
            "no such path: nowhere; give an image folder, a .tar, or a name such as torch/cifar10",
            marks=pytest.mark.heavy,  # of PyTorch's import, which no search needs for this
        ),
    ],
)
def test_the_command_itself(argv: tuple[str, ...], line: str, folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *argv], cwd=folder, env=environment(), capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"error: {line}\n")


@pytest.mark.parametrize("imported", ["numpy", "torch"])
def test_ctrl_c_while_the_command_starts(folder: Path, imported: str) -> None:
    process = subprocess.Popen(
        [sys.executable, "-X", "importtime", "-m", "nas.train_supernet", "--epochs", "1000"],
        cwd=folder,
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    next(line for line in process.stderr if line.rpartition("|")[2].strip() == imported)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode in (130, -signal.SIGINT)
    assert "Traceback" not in errors, errors


def test_ctrl_c_in_a_command(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt(self: Trainer, description: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "fit", interrupt)
    with pytest.raises(SystemExit) as exit_:
        run(lambda: train_supernet.main([*TRAIN, "--run", "new"]), "go on with --resume")
    assert exit_.value.code == 130
    assert capsys.readouterr().err.splitlines()[-1] == (
        "interrupted; the files written so far are whole: go on with --resume"
    )
