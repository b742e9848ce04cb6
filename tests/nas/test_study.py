from __future__ import annotations

import sqlite3
import time
from collections.abc import Sequence
from pathlib import Path

import optuna
import pytest

from nas.study import Study
from search_spaces import Arch, UserError
from tests.nas.tiny import tiny_space

SPACE = tiny_space()
FACTS = {"supernet_sha256": "1", "table_sha256": None}


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/study.db"


def open_study(url: str, facts: dict[str, str | None] = FACTS, name: str = "r/search", *, new: bool = False) -> Study:
    return Study(url, name, SPACE, lambda arch: {"mes": 2.0, "num_params": 7}, facts, new=new)


def tenth(base: Arch, archs: Sequence[Arch]) -> list[float]:
    return [0.1 + 0.2] * len(archs)


def not_asked(base: Arch, archs: Sequence[Arch]) -> list[float]:
    return pytest.fail("was known")


def test_what_is_known_is_not_evaluated_again(url: str) -> None:
    first, second = SPACE.largest, SPACE.smallest
    study = open_study(url, new=True)
    assert study.accuracies(first, [first, second, first], tenth, 0) == [0.1 + 0.2] * 3
    assert study.accuracies(first, [second], not_asked, 1) == [0.1 + 0.2]
    assert [e.arch for e in study.evaluations] == [first, second]
    again = open_study(url)
    assert again.evaluations == []
    assert again.accuracies(first, [second, first], not_asked, 0) == [0.1 + 0.2] * 2
    assert again.evaluations == study.evaluations[::-1]
    third = SPACE.slim(first)[0].arch
    again.accuracies(first, [third], tenth, 1)
    assert set(open_study(url).known) == {first, second, third}


def test_the_clock_goes_on_where_it_was(url: str) -> None:
    study = open_study(url)

    def slow(base: Arch, archs: Sequence[Arch]) -> list[float]:
        time.sleep(0.2)
        return [0.5]

    study.accuracies(SPACE.largest, [SPACE.largest], slow, 0)
    (evaluation,) = study.evaluations
    assert 0.2 <= evaluation.seconds <= evaluation.seconds_since_start <= study.seconds
    again = open_study(url)
    assert evaluation.seconds_since_start <= again.seconds < study.seconds


def test_trials_have_the_arch_all_metrics_and_times(url: str) -> None:
    study = open_study(url)
    study.accuracies(SPACE.largest, [SPACE.largest], tenth, 3)
    (trial,) = optuna.load_study(study_name="r/search", storage=url).trials
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


# ---- what cannot be used


def test_a_study_of_something_else(url: str) -> None:
    open_study(url, new=True)
    with pytest.raises(UserError, match=r"study r/search in .*study.db is of another table_sha256; search under an"):
        open_study(url, {**FACTS, "table_sha256": "2"})
    with pytest.raises(UserError, match=r"study.db holds a study r/search already; search under another --name"):
        open_study(url, new=True)
    open_study(url, {**FACTS, "table_sha256": "2"}, "r/search-2", new=True)


def test_a_locked_database(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = open_study(url)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    monkeypatch.setattr("nas.study.LOCK_SECONDS", 0.01)
    impatient = open_study(url)
    other = sqlite3.connect(tmp_path / "study.db", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    message = r"cannot use the database sqlite:.*study.db: database is locked; end what holds it"
    with pytest.raises(UserError, match=message):
        open_study(url)
    with pytest.raises(UserError, match=message):
        impatient.accuracies(SPACE.largest, [SPACE.largest], tenth, 0)
    other.execute("ROLLBACK")
    assert study.accuracies(SPACE.largest, [SPACE.largest], tenth, 0) == [0.1 + 0.2]


@pytest.mark.parametrize("damage", ["text", "half", "other tables"])
def test_a_damaged_database(url: str, tmp_path: Path, damage: str) -> None:
    path = tmp_path / "study.db"
    if damage == "other tables":
        sqlite3.connect(path).execute("CREATE TABLE studies (x INTEGER)")
    else:
        open_study(url)
        path.write_bytes(path.read_bytes()[:20000] if damage == "half" else b"no database, but long enough" * 99)
    with pytest.raises(UserError, match=r"cannot use the database sqlite:.*study.db: .*; mend it, or search under"):
        open_study(url)


def test_a_study_of_another_program(url: str) -> None:
    study = optuna.create_study(storage=url, study_name="r/search", directions=["maximize", "maximize"])
    study.add_trial(optuna.trial.create_trial(values=[0.5, 1.0]))
    with pytest.raises(UserError, match=r"study.db holds no study of this version \('arch'\); remove it"):
        open_study(url)


@pytest.mark.parametrize("address", ["nonsense", "redis://host", "sqlite:////nowhere/x.db", "nodriver://host/nas"])
def test_no_database(address: str) -> None:
    with pytest.raises(UserError, match=f"cannot use the database {address}: "):
        open_study(address)
