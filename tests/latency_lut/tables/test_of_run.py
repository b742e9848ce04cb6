"""--run: what a table is for, read from a run instead of from flags."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from latency_lut.backends.registry import Target
from latency_lut.measurement.build import BuildConfig, build_table
from latency_lut.measurement.export import ExportConfig
from latency_lut.profiling.profile import ProfileConfig
from latency_lut.tables.of_run import SpaceFlags
from latency_lut.tables.table import LatencyTable, find_table
from search_spaces import SPACES, UserError
from search_spaces.command import parse
from search_spaces.command.files import write_json
from tests.latency_lut.conftest import make_tiny
from tests.latency_lut.fake import FakeMachine


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(SPACES, "tiny", make_tiny)
    monkeypatch.setattr(Target, "make_backend", lambda _: FakeMachine())
    run = {"space": "tiny", "image_size": 64, "num_classes": 3, "classes": ["a", "b", "c"]}
    write_json(Path("runs/mine/run.json"), run)


def parsed(kind: Any, *argv: str) -> Any:
    return parse(kind, argv, "python -m x", "")


@pytest.mark.parametrize("kind", [SpaceFlags, BuildConfig, ExportConfig, ProfileConfig])
@pytest.mark.parametrize("flags", [("--run", "mine"), ("--run", "runs/mine", "--image-size", "64", "--space", "tiny")])
def test_a_run_says_its_space_size_and_classes(kind: Any, flags: tuple[str, ...]) -> None:
    space = parsed(kind, *flags).of_run().search_space()
    assert (space.name, space.image_size, space.num_classes) == ("tiny", 64, 3)


def test_a_run_of_one_class_of_objects_has_a_table() -> None:
    write_json(Path("runs/one/run.json"), {"space": "mobileone-nano+ssdlite", "image_size": 64, "num_classes": 1})
    assert parsed(BuildConfig, "--run", "one").of_run().search_space().num_classes == 1


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--run mine --image-size 96", "--image-size is 96, but mine has 64; leave --image-size or --run out"),
        ("--run mine --num-classes 10", "--num-classes is 10, but mine has 3"),
        ("--run mine --space mobileone", "--space is mobileone, but mine has tiny"),
        ("--run mine --space efficientformerv2-nano", "--space is efficientformerv2-nano, but mine has tiny"),
        ("--run nowhere", "no run runs/nowhere: it has no run.json; see `ls runs`"),
        ("--run ..", "--run is '..'; give letters"),
    ],
)
def test_what_says_something_else_is_refused(flags: str, message: str) -> None:
    with pytest.raises(UserError, match=f"^{re.escape(message)}"):
        build_table(parsed(BuildConfig, *flags.split()))


def test_the_table_of_a_run_is_found_by_it_and_can_be_built_without_it() -> None:
    with pytest.raises(UserError, match=r"no table in runs/tables fits mine; build one with .* --run mine"):
        find_table(None, "mine")
    path = build_table(parsed(BuildConfig, "--run", "mine", "--samples", "2"))
    other = build_table(parsed(BuildConfig, "--space", "tiny", "--samples", "2"))
    assert find_table(None, "mine") == path and find_table(None) == other
    command = LatencyTable.load(path).provenance.command
    assert "--run" not in command
    again = parsed(BuildConfig, *shlex.split(command)[3:])
    assert (again.space, again.image_size, again.num_classes) == ("tiny", 64, 3)
    with pytest.raises(UserError, match=r"--table t.json and --run mine name two tables; give one of them"):
        find_table("t.json", "mine")
