"""A space and a set of images that train in seconds; as a program, a command of `nas` that knows the space.

python -m tests.nas.tiny nas.train_supernet --space tiny …
"""

from __future__ import annotations

import importlib
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from latency_lut.backends.base import Runtime
from latency_lut.backends.protocol import Settings
from latency_lut.tables.table import SCHEMA, Calibration, CalibrationNetwork, Graph, LatencyTable, Provenance, Row
from nas.data import Images
from nas.data.sources import Decoded, Skipped
from nas.distributed import collectives
from nas.training.trainer import Trainer
from search_spaces import SPACES, SearchSpace
from search_spaces.base import check_images
from search_spaces.command import run
from search_spaces.efficientformerv2 import EfficientFormerV2Space
from tests.toy_family import ToySpace

# The published recipe, where a test is of its parts; small images have another by default.
PUBLISHED = ("--loss", "kl", "--sampling", "sandwich", "--norm", "width")


def tiny_space(image_size: int = 16, num_classes: int = 3) -> SearchSpace:
    return EfficientFormerV2Space(
        "tiny",
        widths=((8,), (8, 16), (16,), (16, 24)),
        depths=(1, 1, 2, 1),
        image_size=image_size,
        num_classes=num_classes,
        stem_stride=2,
        layer_scale_init=0.1,
    )


class QuickSpace(ToySpace):
    """Of the tiny space's name, but with so few layers that training takes a fifth of the time."""

    name = "tiny"

    def __init__(self, image_size: int = 16, num_classes: int = 3) -> None:
        check_images(self.name, image_size, num_classes, multiple=16)
        super().__init__(image_size, num_classes)


def make_images(
    folder: Path, per_class: int = 20, classes: tuple[str, ...] = ("blue", "green", "red"), seed: int = 0
) -> Path:
    """A folder for each class, its images noise with one of three channels brighter; returns the folder."""
    rng = np.random.default_rng(seed)
    for label, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for i in range(per_class):
            pixels = rng.integers(0, 220, (16, 16, 3), dtype=np.uint8)
            pixels[..., label % 3] += 35
            Image.fromarray(pixels).save(folder / name / f"{i}.png")
    return folder


def random_images(count: int, size: int) -> Images:
    """Noise of so many pixels a side, labelled at random with three classes; the same each time."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, count)
    pixels = tuple(rng.integers(0, 256, (count, size, size, 3), dtype=np.uint8))
    return Images(Decoded(pixels, labels, ("a", "b", "c"), ""), np.arange(count), labels, Skipped(strict=False))


def make_table(space: SearchSpace, ms_per_mega_mac: float = 0.1) -> LatencyTable:
    """A table in which time is that of the multiply-accumulates, and a little for each block."""
    rows = {}
    for key, block in space.all_blocks().items():
        ms = 0.001 + ms_per_mega_mac * block.macs / 1e6
        rows[key] = Row(ms, ms, {key: 1.0})
    provenance = Provenance(
        backend="formula",
        runtime=Runtime("none", "none", "formula", "1", "cpu", "float32", 1),
        settings=Settings(1, 0.0),
        batch=1,
        protocol="",
        unclean_share=None,
        busy=False,
        anchor_ms=1.0,
        anchor_drift=0.0,
        date="2025-01-01",
        command="",
    )
    total = sum(rows[block.key].min_ms for block in space.lower(space.smallest))
    network = CalibrationNetwork(space.to_json(space.smallest), total, total, total, total, (total,))
    calibration = Calibration(1.0, 0.0, (network,))
    graphs = {key: Graph((key,), (row.min_ms,), {}) for key, row in rows.items()}
    return LatencyTable(
        SCHEMA, space.name, space.image_size, space.num_classes, "deployed", provenance, calibration, (), rows, graphs
    )


def move_run(before: str, after: str) -> None:
    """Without the locks, which this process holds until it ends, as another one would."""
    shutil.copytree(before, after, ignore=shutil.ignore_patterns(".lock"))
    shutil.rmtree(before)


ROOT = Path(__file__).parents[2]
PATIENCE_S = 600  # with a process that may hang, on a machine that may be busy


def start(folder: Path, *argv: str) -> subprocess.Popen[str]:
    """This program in the folder, in a process group of its own."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-m", "tests.nas.tiny", *argv],
        cwd=folder,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    """Returns once the process has written the file.

    Raises:
        AssertionError: the process has ended, or too much time has passed.
    """
    deadline = time.monotonic() + PATIENCE_S
    while not path.exists():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline, f"no {path}"
        time.sleep(0.05)


def run_killed(folder: Path, command: str, *argv: str, kill_at: str) -> None:
    """The command in a forked process, killed at that call; a process of its own would first import everything."""
    with tempfile.TemporaryFile("w+") as output:

        def process() -> None:
            os.chdir(folder)
            sys.stdout = sys.stderr = output
            _kill_at(*kill_at.split(":"))
            run(lambda: importlib.import_module(command).main(argv))

        one = multiprocessing.get_context("fork").Process(target=process)
        one.start()
        one.join(timeout=PATIENCE_S)
        if one.exitcode is None:
            one.kill()
        output.seek(0)
        assert one.exitcode == -signal.SIGKILL, output.read()


def interrupt_at(monkeypatch: pytest.MonkeyPatch, step: int, main: Callable[[list[str]], None], *flags: str) -> None:
    """The command, which keeps every step, until this one of all that it trains."""
    train, steps = Trainer._one, 0

    def one(self: Any, *batch: Any) -> None:
        nonlocal steps
        steps += 1
        if steps == step:
            raise KeyboardInterrupt
        train(self, *batch)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_one", one)
        with pytest.raises(KeyboardInterrupt):
            main([*flags, "--checkpoint-seconds", "0"])


@dataclass(frozen=True)
class Ended:
    """A process that has ended: its exit code (of a signal, negative) and what it wrote."""

    code: int | None
    out: str
    errors: str


def run_job(main: Callable[[int], None], count: int = 2) -> list[Ended]:
    """`main(rank)` in forked processes that find what torchrun would tell them, as a command's `main`.

    Much faster than torchrun's own, which import everything; their output is in the folder `output`.
    """
    store, places = collectives.places(count)
    folder = Path("output")
    folder.mkdir(exist_ok=True)

    def process(rank: int) -> None:
        os.environ.update(places[rank])
        sys.stdout, sys.stderr = ((folder / f"{rank}.{kind}").open("w") for kind in ("out", "errors"))
        run(lambda: main(rank), "go on with --resume")

    processes = [multiprocessing.get_context("fork").Process(target=process, args=(rank,)) for rank in range(count)]
    for one in processes:
        one.start()
    for one in processes:
        one.join(timeout=PATIENCE_S)
    hanging = [one for one in processes if one.is_alive()]
    for one in hanging:
        one.kill()
        one.join()
    assert not hanging, "processes were left waiting"
    del store
    return [
        Ended(one.exitcode, *((folder / f"{rank}.{kind}").read_text() for kind in ("out", "errors")))
        for rank, one in enumerate(processes)
    ]


def json_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def _kill_at(module: str, name: str, call: str, rank: str = "0") -> None:
    """Kills the process of that rank at that call of the function."""
    if rank != os.environ.get("RANK", "0"):
        return
    *path, attribute = name.split(".")
    owner: Any = importlib.import_module(module)
    for part in path:
        owner = getattr(owner, part)
    function, calls = getattr(owner, attribute), 0

    def counting(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == int(call):
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **options)

    setattr(owner, attribute, counting)


if __name__ == "__main__":
    SPACES["tiny"] = QuickSpace
    if where := os.environ.get("KILL_AT"):
        _kill_at(*where.split(":"))
    command = importlib.import_module(sys.argv.pop(1))
    run(lambda: command.main(sys.argv[1:]), "go on with --resume")


def export_nothing(patch: pytest.MonkeyPatch) -> None:
    """nas.prune's exports take seconds and have tests of their own."""
    exported = {"files": {"onnx": {"file": "model.onnx"}}, "failed": {}}
    patch.setattr("nas.pruning.files.export_files", lambda *_: exported)
