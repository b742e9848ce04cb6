from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from nas.evaluation.forwards import first_difference
from nas.evaluation.workers import _mendable, _work, split
from nas.search import main
from nas.searching import evaluators
from search_spaces import SPACES, Arch, UserError, get_space
from tests.nas import mortal
from tests.nas.searching.test_search import timeless
from tests.nas.tiny import QuickSpace

NANO = get_space("efficientformerv2-nano")


# ---- groups


@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_groups_are_of_equal_work_and_share_their_beginnings(count: int) -> None:
    base = NANO.largest
    archs = [action.arch for action in NANO.slim(base)]
    trunk = NANO.lower(base)

    def start(arch: Arch) -> int:
        return first_difference(trunk, NANO.lower(arch))

    def work(group: list[Arch]) -> int:
        """What is run: the trunk once, up to where the last leaves it, and the rest of each."""
        own = sum(map(_work, (block for arch in group for block in NANO.lower(arch)[start(arch) :])))
        return own + sum(map(_work, trunk[: max(map(start, group))]))

    groups = split(NANO, base, archs, count)
    found = [arch for group in groups for arch in group]
    assert len(groups) <= count and len(found) == len(archs) and set(found) == set(archs)
    loads = [work(group) for group in groups]
    assert max(loads) < 1.25 * sum(loads) / count
    if count > 1:
        assert list(map(start, found)) == sorted(map(start, archs))


def test_there_are_no_more_groups_than_archs() -> None:
    archs = [action.arch for action in NANO.slim(NANO.largest)[:3]]
    assert sorted(len(group) for group in split(NANO, NANO.largest, archs, 8)) == [1, 1, 1]
    assert split(NANO, NANO.largest, [NANO.largest], 2) == [[NANO.largest]]


# ---- what cannot be used


def test_a_search_on_a_cluster_that_is_not_there_begins_nothing(folder: Path) -> None:
    before = list(folder.glob("runs/r/search*"))
    with pytest.raises(UserError, match=r"no Ray cluster at --ray-address 127\.0\.0\.1:1: "):
        main(["--metrics", "size", "--exact", "--ray-workers", "2", "--ray-address", "127.0.0.1:1"])
    assert list(folder.glob("runs/r/search*")) == before


def test_what_actors_raise_is_one_line() -> None:
    from ray.exceptions import ActorDiedError, RayTaskError

    with pytest.raises(UserError, match=r"^images has changed$"), _mendable():
        raise RayTaskError("load", "Traceback", UserError("images has changed")).as_instanceof_cause()
    died = r"^4 workers have died of the same networks, perhaps of memory; go on with --resume and fewer --ray-workers"
    with pytest.raises(UserError, match=died), _mendable():
        raise ActorDiedError
    with pytest.raises(ZeroDivisionError), _mendable():
        raise RayTaskError("load", "Traceback", ZeroDivisionError()).as_instanceof_cause()


# ---- with Ray


@pytest.fixture
def folder(tmp_path: Path, searched: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setitem(SPACES, "tiny", QuickSpace)
    shutil.copytree(searched, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def result(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path(f"runs/r/search-{name}/result.json").read_text())
    return found


@pytest.mark.heavy
def test_a_worker_finds_what_this_process_finds(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluators, "make_evaluator", mortal.mortal_evaluator)  # which knows the space
    flags = ["--metrics", "size", "--budget", "3", "--exact"]
    main([*flags, "--name", "here"])
    main([*flags, "--name", "there", "--ray-workers", "1"])
    assert timeless(result("there")) == timeless(result("here"))


@pytest.mark.heavy
def test_two_workers_one_of_which_is_killed_find_what_one_process_finds(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = ["--metrics", "size", "--budget", "40", "--exact"]
    main([*flags, "--name", "here"])
    monkeypatch.setattr(evaluators, "make_evaluator", mortal.mortal_evaluator)
    Path("die").touch()
    main([*flags, "--name", "killed", "--ray-workers", "2"])
    assert not Path("die").exists()  # a worker has found it
    assert timeless(result("killed")) == timeless(result("here"))
    Path("images/red/0.png").unlink()
    with pytest.raises(UserError, match=r"^images has changed since runs/r was begun"):
        main([*flags, "--name", "changed", "--ray-workers", "1"])
