from __future__ import annotations

import errno
import os
import re
import resource
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import optuna
import pytest

from nas.evaluation.racing import Finish
from nas.evaluation.workers import Done
from nas.searching.storage import check_address, check_storage, open_storage
from nas.searching.study import Study
from search_spaces import Arch, UserError
from search_spaces.command.files import read_json_lines
from tests.nas.tiny import tiny_space

SPACE = tiny_space()
FACTS = {"supernet_sha256": "1", "table_sha256": None}


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/study.db"


@pytest.fixture(params=["file", "database"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str | Path:
    return tmp_path / "study.log" if request.param == "file" else f"sqlite:///{tmp_path}/study.db"


def open_study(place: str | Path, facts: dict[str, str | None] = FACTS, name: str = "r/search") -> Study:
    return Study(place, name, SPACE, lambda arch: {"mes": 2.0, "num_params": 7}, facts)


def tenth(archs: Sequence[Arch]) -> Iterator[Done]:
    yield archs, [0.1 + 0.2] * len(archs)


def not_asked(archs: Sequence[Arch]) -> Iterator[Done]:
    return pytest.fail("was known")


def test_what_is_known_is_not_evaluated_again(place: str | Path) -> None:
    first, second = SPACE.largest, SPACE.smallest
    study = open_study(place)
    assert study.accuracies([first, second, first], tenth, 0) == [0.1 + 0.2] * 3
    assert study.accuracies([second], not_asked, 1) == [0.1 + 0.2]
    assert [e.arch for e in study.evaluations] == [first, second]
    again = open_study(place)
    assert again.evaluations == []
    assert again.accuracies([second, first], not_asked, 0) == [0.1 + 0.2] * 2
    assert again.evaluations == study.evaluations[::-1]
    third = SPACE.slim(first)[0].arch
    again.accuracies([third], tenth, 1)
    assert set(open_study(place).known) == {first, second, third}


def test_accuracies_are_recorded_as_they_come_and_told_in_the_order_asked_for(place: str | Path) -> None:
    archs = [SPACE.largest, *(action.arch for action in SPACE.slim(SPACE.largest)[:3])]
    study = open_study(place)

    def backwards(new: Sequence[Arch]) -> Iterator[Done]:
        yield new[2:], [0.2, 0.3]
        yield new[:1], [0.0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        study.accuracies(archs, backwards, 0)
    again = open_study(place)
    assert set(again.known) == {archs[0], *archs[2:]}
    assert again.accuracies(archs, lambda new: iter([(new, [0.1])]), 0) == [0.0, 0.1, 0.2, 0.3]
    assert [e.arch for e in again.evaluations] == archs


def test_the_clock_goes_on_where_it_was(place: str | Path) -> None:
    study = open_study(place)

    def slow(archs: Sequence[Arch]) -> Iterator[Done]:
        time.sleep(0.2)
        yield archs, [0.5]

    study.accuracies([SPACE.largest], slow, 0)
    (evaluation,) = study.evaluations
    assert 0.2 <= evaluation.seconds <= evaluation.seconds_since_start <= study.seconds
    again = open_study(place)
    assert evaluation.seconds_since_start <= again.seconds < study.seconds


def test_trials_have_the_arch_all_metrics_and_times(place: str | Path) -> None:
    study = open_study(place)
    study.accuracies([SPACE.largest], tenth, 3)
    (trial,) = optuna.load_study(study_name="r/search", storage=open_storage(place)).trials
    assert trial.values == [0.1 + 0.2, 2.0]
    assert tuple(trial.params.values()) == SPACE.largest.values
    times = {name: trial.user_attrs.pop(name) for name in ("seconds", "seconds_since_start")}
    assert trial.user_attrs == {
        "arch": SPACE.to_json(SPACE.largest),
        "accuracy": 0.1 + 0.2,
        "mes": 2.0,
        "num_params": 7,
        "step": 3,
    }
    assert all(seconds > 0 for seconds in times.values())


def test_an_address_may_name_environment_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HERE", str(tmp_path))
    open_study("sqlite:///$HERE/x.db")
    assert (tmp_path / "x.db").exists()


# ---- races


ACTIONS = [action.arch for action in SPACE.slim(SPACE.largest)][:3]
GAINS = [1.0, 2.0, 3.0]
FINISHES = [
    Finish(0.25, 7, 0, dropped=True),
    Finish(0.1 + 0.2, 100, 9, led=True),
    Finish(0.5, 0, 30, dropped=True),
]


def not_run(base: Arch, archs: Sequence[Arch], gains: Sequence[float]) -> list[Finish]:
    return pytest.fail("was known")


def test_a_race_is_not_run_again(place: str | Path) -> None:
    study = open_study(place)
    assert study.race(SPACE.largest, ACTIONS, GAINS, lambda *_: FINISHES, 1) == FINISHES
    again = open_study(place)
    assert again.race(SPACE.largest, ACTIONS, GAINS, not_run, 1) == FINISHES
    for each in (study, again):
        assert [e.arch for e in each.evaluations] == [ACTIONS[1]]
        assert [e.arch for e in each.dropped] == [ACTIONS[0], ACTIONS[2]]
    assert again.accuracies([ACTIONS[1]], not_asked, 2) == [0.1 + 0.2]
    assert again.accuracies([ACTIONS[0]], tenth, 2) == [0.1 + 0.2], "an estimate is no accuracy"


def test_a_dropped_action_is_a_pruned_trial(place: str | Path) -> None:
    open_study(place).race(SPACE.largest, ACTIONS, GAINS, lambda *_: FINISHES, 1)
    dropped, finished, rough = optuna.load_study(study_name="r/search", storage=open_storage(place)).trials
    assert [trial.state.name for trial in (dropped, finished, rough)] == ["PRUNED", "COMPLETE", "PRUNED"]
    assert dropped.values is None and finished.values == [0.1 + 0.2, 2.0]
    assert dropped.user_attrs["accuracy_estimate"] == 0.25 and "accuracy" not in dropped.user_attrs
    assert [t.user_attrs["images_seen"] for t in (dropped, finished, rough)] == [7, 100, 0]
    assert [t.user_attrs["rough_images_seen"] for t in (dropped, finished, rough)] == [0, 9, 30]
    assert [t.user_attrs["led"] for t in (dropped, finished, rough)] == [False, True, False]


def test_the_next_race_is_between_those_that_have_not_finished(place: str | Path) -> None:
    study = open_study(place)
    study.race(SPACE.largest, ACTIONS, GAINS, lambda *_: FINISHES, 1)

    def run(base: Arch, archs: Sequence[Arch], gains: Sequence[float]) -> list[Finish]:
        assert (list(archs), list(gains)) == ([ACTIONS[0], ACTIONS[2]], [1.0, 3.0])
        return [Finish(0.75, 100), Finish(0.25, 5, 0, dropped=True)]

    expected = [
        Finish(0.75, 100),
        Finish(0.1 + 0.2, 0),
        Finish(0.25, 5, 0, dropped=True),
    ]
    assert study.race(SPACE.largest, ACTIONS, GAINS, run, 2) == expected
    again = open_study(place)
    assert again.race(SPACE.largest, ACTIONS, GAINS, not_run, 1) == FINISHES, "what was found later is not known yet"
    assert again.race(SPACE.largest, ACTIONS, GAINS, not_run, 2) == expected
    assert again.evaluations == study.evaluations and again.dropped == study.dropped


# ---- files


def test_a_line_cut_off_by_a_kill_is_measured_again(tmp_path: Path) -> None:
    path, archs = tmp_path / "study.log", [SPACE.largest, SPACE.smallest]
    open_study(path).accuracies(archs, tenth, 0)
    path.write_bytes(path.read_bytes()[:-20])
    again = open_study(path)
    assert set(again.known) == {SPACE.largest}
    again.accuracies(archs, tenth, 0)
    assert set(open_study(path).known) == set(archs)


RECORD = """
import sys
from pathlib import Path
from tests.nas.searching.test_study import SPACE, open_study, tenth
archs = [action.arch for action in SPACE.slim(SPACE.largest)][int(sys.argv[2])::2]
study = open_study(Path(sys.argv[1]))
print(flush=True)
sys.stdin.read()
for arch in archs:
    study.accuracies([arch], tenth, 0)
"""


@pytest.mark.heavy
def test_two_processes_record_into_one_file(tmp_path: Path) -> None:
    path = tmp_path / "study.log"
    open_study(path)
    command = [sys.executable, "-c", RECORD, str(path)]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "cwd": Path(__file__).parents[3]}
    both = [subprocess.Popen([*command, str(i)], **pipes) for i in range(2)]
    for process in both:
        process.stdout.readline()  # type: ignore[union-attr]
    for process in both:
        process.communicate()
        assert process.returncode == 0
    assert set(open_study(path).known) == {action.arch for action in SPACE.slim(SPACE.largest)}
    numbers = [trial.number for trial in optuna.load_study(study_name="r/search", storage=open_storage(path)).trials]
    assert numbers == list(range(len(SPACE.slim(SPACE.largest))))


def test_a_trial_is_one_line(tmp_path: Path) -> None:
    study = open_study(tmp_path / "study.log")
    before = len(read_json_lines(tmp_path / "study.log"))
    study.accuracies([SPACE.largest], tenth, 0)
    assert len(read_json_lines(tmp_path / "study.log")) == before + 1


# ---- what cannot be used


def test_a_study_of_something_else(url: str) -> None:
    open_study(url)
    with pytest.raises(UserError, match=r"study r/search in .*study.db is of another table_sha256; search under an"):
        open_study(url, {**FACTS, "table_sha256": "2"})
    with pytest.raises(UserError, match=r"study.db holds a study r/search already; search under another --name"):
        check_storage(url, "r/search")
    check_storage(url, "r/search-2")
    open_study(url, {**FACTS, "table_sha256": "2"}, "r/search-2")


def test_a_locked_database(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = open_study(url)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    monkeypatch.setattr("nas.searching.storage.LOCK_SECONDS", 0.01)
    impatient = open_study(url)
    other = sqlite3.connect(tmp_path / "study.db", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    message = r"cannot use the database sqlite:.*study.db: database is locked; end what holds it and go on with"
    with pytest.raises(UserError, match=message):
        open_study(url)
    with pytest.raises(UserError, match=message):
        impatient.accuracies([SPACE.largest], tenth, 0)
    other.execute("ROLLBACK")
    assert study.accuracies([SPACE.largest], tenth, 0) == [0.1 + 0.2]


def test_a_full_disk_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    remedy = "free some space and go on with --resume, nothing is lost"
    study = open_study(tmp_path / "study.log")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full_disk)
        with pytest.raises(UserError, match=rf"cannot use the study .*study.log: No space left on device; {remedy}"):
            study.accuracies([SPACE.largest], tenth, 0)
    assert open_study(tmp_path / "study.log").accuracies([SPACE.largest], tenth, 0) == [0.1 + 0.2]


def full_disk(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_database_on_a_full_disk_is_not_damaged(url: str) -> None:
    study = open_study(url)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limit[1]))
    try:
        with pytest.raises(UserError, match=r"disk.*; free some space and go on with --resume, nothing is lost"):
            study.accuracies([SPACE.largest], tenth, 0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert open_study(url).accuracies([SPACE.largest], tenth, 0) == [0.1 + 0.2]


def test_a_file_of_another_program(tmp_path: Path) -> None:
    path = tmp_path / "study.log"
    path.write_text("no study,\nbut two lines\n")
    with pytest.raises(UserError, match=r"study.log, line 1, is not JSON \(.*\); restore it"):
        open_study(path)


@pytest.mark.parametrize("damage", ["text", "half", "other tables"])
def test_a_damaged_database(url: str, tmp_path: Path, damage: str) -> None:
    path = tmp_path / "study.db"
    if damage == "other tables":
        sqlite3.connect(path).execute("CREATE TABLE studies (x INTEGER)")
    else:
        open_study(url)
        path.write_bytes(path.read_bytes()[:20000] if damage == "half" else b"no database, but long enough" * 99)
    with pytest.raises(UserError, match=r"cannot use the database sqlite:.*study.db: .*; it is damaged or anot"):
        open_study(url)


def test_a_study_of_another_program(url: str) -> None:
    study = optuna.create_study(storage=url, study_name="r/search", directions=["maximize", "maximize"])
    study.add_trial(optuna.trial.create_trial(values=[0.5, 1.0]))
    with pytest.raises(
        UserError, match=r"study.db holds no study of this version \(trial 0 has no arch.*\); search under"
    ):
        open_study(url)


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("nonsense", "Could not parse SQLAlchemy URL.*; give --storage 'postgresql://me:"),
        ("redis://host", "Can't load plugin: sqlalchemy.dialects:redis; give --storage 'postgresql://me"),
        ("sqlite:////nowhere/x.db", "unable to open database file; make its folder, and writable"),
        ("postgresql+pg8000://me@host/nas", "No module named 'pg8000'; install the Python package that it names"),
    ],
)
def test_no_database(address: str, reason: str) -> None:
    with pytest.raises(UserError, match=rf"cannot use the database {re.escape(address)}: {reason}"):
        check_storage(address, None)


def test_a_server_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """As every driver says it, by the exception that all of them share."""
    import sqlalchemy.exc

    def refuse(*_: object, **__: object) -> None:
        raise sqlalchemy.exc.OperationalError("", {}, Exception("connection refused\nIs the server running?"))

    monkeypatch.setattr("nas.searching.storage.open_storage", refuse)
    with pytest.raises(UserError, match=r"postgresql://me@host/nas: connection refused; start the server or mend"):
        check_storage("postgresql://me@host/nas", None)


@pytest.mark.parametrize("name", ["a?b", "50%", "{x} y", "ü#", "a%3Fb"])
def test_a_folder_of_any_name(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    study = open_study(folder / "study.log")
    study.accuracies([SPACE.largest], tenth, 0)
    assert (folder / "study.log").exists()
    assert set(open_study(folder / "study.log").known) == {SPACE.largest}


# ---- passwords


@pytest.mark.parametrize(
    "address",
    ["postgresql://me:secret@host/nas", "mysql://host/nas?password=secret", "mysql://host/nas?user=me&passwd=s"],
)
def test_a_password_is_refused(address: str) -> None:
    with pytest.raises(UserError, match="--storage has a password in it, which would be recorded; put it") as error:
        check_address(address)
    assert "secret" not in str(error.value)


@pytest.mark.parametrize(
    "address", ["postgresql://me:$PASSWORD@host/nas", "$PASSWORD", "sqlite:///x.db", "pg://h/d?a=b"]
)
def test_an_address_without_a_password(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PASSWORD", "secret")
    check_address(address)


def test_a_variable_that_is_not_set() -> None:
    with pytest.raises(UserError, match="names the environment variable NAS_UNSET, which is not set; export it first"):
        check_address("postgresql://me:${NAS_UNSET}@host/nas")


def test_what_variables_stand_for_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADDRESS", "nodriver://me:secret@host/nas")
    with pytest.raises(UserError, match="cannot use the database") as error:
        check_storage("$ADDRESS", None)
    assert "secret" not in str(error.value)
