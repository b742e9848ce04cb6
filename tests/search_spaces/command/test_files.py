from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from search_spaces.command import UserError
from search_spaces.command.files import (
    atomic_folder,
    atomic_path,
    drop_leftovers,
    drop_torn_line,
    read_json,
    try_lock,
    write_json,
    write_text,
)


def test_json_round_trip_in_new_folders(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "x.json"
    write_json(path, {"name": "größe", "values": [1, 2.5, None]})
    assert read_json(path) == {"name": "größe", "values": [1, 2.5, None]}
    assert list(path.parent.iterdir()) == [path]


def test_nan_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write_json(path, 1)
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"loss": float("nan")})
    assert read_json(path) == 1


def test_the_old_file_stands_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_text("old")
    with atomic_path(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_error_leaves_the_old_file_alone(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "x"
    path.write_text("old")
    with pytest.raises(error), atomic_path(path) as temporary:  # noqa: PT012
        temporary.write_text("half")
        raise error
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def full_disk(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("function", ["os.fsync", "pathlib.Path.write_text", "pathlib.Path.replace"])
def test_a_full_disk_leaves_the_old_file_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str) -> None:
    path = tmp_path / "x"
    path.write_text("old")
    with monkeypatch.context() as patch:
        patch.setattr(function, lambda *args, **kwargs: full_disk())
        with pytest.raises(UserError, match=rf"cannot write {path}: No space left on device; make room"):
            write_text(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_where_a_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    with pytest.raises(UserError, match=r"cannot write .*run/x\.json: "):
        write_json(tmp_path / "run" / "x.json", 1)


def test_a_folder_where_a_file_should_be(tmp_path: Path) -> None:
    (tmp_path / "x.json").mkdir()
    with pytest.raises(UserError, match=r"cannot write .*x\.json: Is a directory"):
        write_json(tmp_path / "x.json", 1)
    with pytest.raises(UserError, match=r"cannot read .*x\.json: Is a directory"):
        read_json(tmp_path / "x.json")


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"{'a': 1}", b"\xff\xfe\x00", b"[NaN]", b"[-Infinity]", b"[" * 100_000, b"1" * 10_000, b"1 2"],
)
def test_what_is_not_json_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"^{path} is not JSON: [^\n]+$"):
        read_json(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"cannot read {tmp_path}/x: No such file or directory"):
        read_json(tmp_path / "x")


def test_a_folder_is_replaced_whole(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "x"
    for name in ("old", "new"):
        with atomic_folder(folder) as temporary:
            (temporary / "sub").mkdir()
            (temporary / "sub" / name).touch()
            assert not (folder / "sub" / name).exists()
    assert [p.name for p in folder.rglob("*")] == ["sub", "new"]
    assert list(folder.parent.iterdir()) == [folder]


@pytest.mark.parametrize("failing", ["block", "first rename", "second rename"])
def test_a_folder_that_cannot_be_written_is_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    folder = tmp_path / "x"
    folder.mkdir()
    (folder / "old").touch()
    rename, calls = Path.rename, iter([failing == "first rename", failing == "second rename"])

    def rename_or_fail(path: Path, target: Path) -> Path:
        if next(calls, False):
            full_disk()
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", rename_or_fail)
    with pytest.raises(UserError, match="No space left on device"), atomic_folder(folder) as temporary:  # noqa: PT012
        (temporary / "new").touch()
        if failing == "block":
            full_disk()
    assert [p.name for p in tmp_path.rglob("*")] == ["x", "old"]


@pytest.mark.parametrize("there", [True, False], ids=["before", "after the old one was moved away"])
def test_a_killed_writer_hinders_nobody(tmp_path: Path, there: bool) -> None:
    """Also where its number has been given to this process; another one that is still writing is left alone."""
    folder, number = tmp_path / "x", os.getpid()
    for name in ("x" if there else f".x.{number}.old", f".x.{number}.tmp", ".x.1.tmp", ".x.2.tmp", ".xx.1.tmp"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "old").touch()
    held = try_lock(tmp_path / ".x.2.tmp" / ".lock")
    with pytest.raises(RuntimeError), atomic_folder(folder):
        raise RuntimeError
    assert held is not None and [p.name for p in folder.iterdir()] == ["old"]
    assert sorted(p.name for p in tmp_path.iterdir()) == [".x.2.tmp", ".xx.1.tmp", "x"]


def test_whoever_is_alone_in_a_folder_removes_all_that_is_left_there(tmp_path: Path) -> None:
    for name in (".export.7.old", ".export.7.tmp"):
        (tmp_path / name / "sub").mkdir(parents=True)
    for name in (".checkpoint.safetensors.12.tmp", ".lock", "events.1.tmp", ".study.log.lock"):
        (tmp_path / name).touch()
    drop_leftovers(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [".lock", ".study.log.lock", "events.1.tmp", "export"]


LOCKED = "import sys; from search_spaces.command.files import try_lock; sys.exit(try_lock(sys.argv[1]) is None)"


def is_free(path: Path) -> bool:
    """For another process."""
    return subprocess.run([sys.executable, "-c", LOCKED, path], check=False).returncode == 0


def test_a_lock_keeps_other_processes_out(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    lock = try_lock(path)
    assert lock is not None and not is_free(path)
    lock.release()
    assert is_free(path)


def test_a_killed_process_holds_no_lock(tmp_path: Path) -> None:
    """Nor do the processes that it has forked, which outlive it."""
    code = (
        "import os, signal, sys, time\nfrom search_spaces.command.files import try_lock\nlock = try_lock(sys.argv[1])\n"
        "if os.fork() == 0:\n    print('held', os.getpid(), flush=True)\n    time.sleep(60)\ntime.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code, tmp_path / "lock"], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        _, child = holder.stdout.readline().split()
        try:
            assert not is_free(tmp_path / "lock")
            holder.kill()
            holder.wait()
            assert is_free(tmp_path / "lock")
        finally:
            os.kill(int(child), signal.SIGKILL)


def test_a_lock_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        try_lock(tmp_path / "file" / "lock")


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_keeps_nobody_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    import fcntl

    def flock(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    assert try_lock(tmp_path / "lock") is not None
    assert is_free(tmp_path / "lock")


@pytest.mark.parametrize(
    ("content", "whole"),
    [("{}\n{}\n", "{}\n{}\n"), ('{}\n{"', "{}\n"), ("{}", ""), ("{}\n\0\0", "{}\n"), ("", ""), ("no log", "no log")],
)
def test_only_whole_lines_of_a_log_are_kept(tmp_path: Path, content: str, whole: str) -> None:
    path = tmp_path / "log"
    drop_torn_line(path)
    assert not path.exists()
    path.write_text(content)
    drop_torn_line(path)
    assert path.read_text() == whole
