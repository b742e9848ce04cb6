from __future__ import annotations

import os
import platform
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import constants, is_offline_mode

from search_spaces.command import start

ROOT = Path(__file__).parents[3]
REPORT = """
import os, signal
names = ("HF_HUB_OFFLINE", "GOMP_SPINCOUNT")
print(*(os.environ.get(name) for name in names), signal.getsignal(signal.SIGINT) is signal.SIG_DFL)
"""

FAULTS = """
import ctypes, resource
libc = ctypes.CDLL(None)
libc.malloc.restype, size = ctypes.c_void_p, 24 * 2**20
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [libc.malloc(size) for _ in range(8)]
    for block in blocks:
        ctypes.memset(block, 1, size)
    for block in blocks:
        libc.free(ctypes.c_void_p(block))
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
first = faults()
print(faults() < first / 10)
"""


def report(folder: Path, *argv: str, **environment: str) -> str:
    """The last line printed by `python argv` in the folder, without the variables that this process has."""
    clean = {n: v for n, v in os.environ.items() if n not in (start.OFFLINE[0], start.OURS[0], *start.WAITING)}
    done = subprocess.run(
        [sys.executable, *argv],
        cwd=folder,
        env={**clean, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout, done.stderr
    return done.stdout.splitlines()[-1]


def test_importing_our_packages_changes_nothing(tmp_path: Path) -> None:
    code = (
        "import os, signal\n"
        "handlers = lambda: [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]\n"
        "before = dict(os.environ), handlers()\n"
        "import search_spaces, latency_lut, nas, nas.search\n"
        "print((dict(os.environ), handlers()) == before)"
    )
    assert report(tmp_path, "-c", code) == "True"


def test_a_program_of_others_that_imports_us_is_no_command(tmp_path: Path) -> None:
    """Not even when its package imports us while `python -m` looks for its module."""
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs/__init__.py").write_text("import nas")
    (tmp_path / "theirs/program.py").write_text(REPORT)
    assert report(tmp_path, "-m", "theirs.program", "nas") == "None None False"


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, "1 1000 True"),
        ({"HF_HUB_OFFLINE": "0", "GOMP_SPINCOUNT": "7"}, "0 7 True"),
        ({"OMP_WAIT_POLICY": "active"}, "1 None True"),
        ({"KMP_BLOCKTIME": "1"}, "1 None True"),
    ],
    ids=str,
)
def test_a_command_is_prepared_before_torch_is_loaded(
    tmp_path: Path, environment: dict[str, str], expected: str
) -> None:
    """A torch that tells what it sees lies in the folder, which comes first on the path."""
    (tmp_path / "torch.py").write_text(f"{REPORT}\nraise SystemExit")
    assert report(tmp_path, "-m", "nas.train_supernet", "--epochs", "3", **environment) == expected
    assert report(tmp_path, "-mnas.train_supernet", **environment) == expected


def test_commands_that_measure_let_threads_wait_as_they_do(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.getsignal(signal.SIGINT)
    for name in (start.OFFLINE[0], start.OURS[0], *start.WAITING):
        monkeypatch.setenv(name, "")  # so that it is as before in the end
        monkeypatch.delenv(name)
    monkeypatch.setattr("sys.argv", ["-m", "--samples", "3"])
    monkeypatch.setattr("sys.orig_argv", ["python", "-u", "-m", "latency_lut.build", "--samples", "3"])
    try:
        assert start.is_starting()
        start.prepare()
    finally:
        signal.signal(signal.SIGINT, before)
    assert start.inherited() == {"HF_HUB_OFFLINE": "1", "MOBILE_NAS_OFFLINE": "1"}


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="malloc of glibc")
@pytest.mark.parametrize(
    ("module", "environment", "kept"),
    [
        ("nas.train_supernet", {}, "True"),
        ("nas.train_supernet", {"MALLOC_TRIM_THRESHOLD_": "131072"}, "False"),
        ("latency_lut.build", {}, "False"),
    ],
)
def test_a_command_keeps_the_memory_that_it_frees_unless_it_measures(
    tmp_path: Path, module: str, environment: dict[str, str], kept: str
) -> None:
    """By the pages that are faulted in again."""
    for library in ("torch", "numpy"):  # whichever it loads first
        (tmp_path / f"{library}.py").write_text(f"{FAULTS}\nraise SystemExit")
    assert report(tmp_path, "-m", module, **environment) == kept


@pytest.mark.parametrize("of_user", [True, False])
def test_what_is_asked_for_is_downloaded_unless_the_user_has_said_that_nothing_is(
    of_user: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (start.OURS, start.OFFLINE):
        monkeypatch.setenv(name, value)  # so that both are as before in the end
    monkeypatch.delenv(start.OURS[0])
    if not of_user:
        monkeypatch.delenv(start.OFFLINE[0])
        start.stay_offline()
        assert start.inherited()[start.OFFLINE[0]] == "1"
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)  # as it is once it is imported then
    with start.online():
        assert is_offline_mode() == of_user
    assert is_offline_mode()
