"""The commands from Python: the same settings, the same files; docs/python.md is run as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from latency_lut.measurement.build import BuildConfig
from latency_lut.tables.table import LatencyTable
from nas import api, train_supernet
from nas.training.winner import Job
from search_spaces import SPACES, UserError
from search_spaces.command.files import read_json, try_lock, write_json
from tests.latency_lut.fake import SizedMachine
from tests.nas.synthetic_run import add_retrain, add_supernet, make_run
from tests.nas.synthetic_search import add_strategy
from tests.nas.tiny import QuickSpace, make_images, make_table

DOCS = Path(__file__).parents[2] / "docs/python.md"


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SPACES, "tiny", QuickSpace)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(BuildConfig, "make_backend", lambda _: SizedMachine())
    make_images(Path("images"))


def test_settings_are_the_flags_with_the_same_recipe() -> None:
    from_python = api.train_supernet(space="tiny", data="images", epochs=1, batch_size=8, amp="off", run="python")
    train_supernet.main(["--space", "tiny", "--data", "images", "--epochs", "1", "--batch-size", "8", "--amp", "off",
                         "--run", "shell"])  # fmt: skip
    one, other = (read_json(Path("runs") / run / "supernet/config.json") for run in ("python", "shell"))
    differing = {name for name in {*one, *other} if one.get(name) != other.get(name)}
    assert differing == {"command", "run"}
    assert one["command"].startswith("python -m nas.train_supernet --data images"), "as it could be typed"
    assert one["lr"] == 0.016, "the recipe of small images, not ImageNet's"
    assert from_python.folder == Path("runs/python") and from_python.info.space == "tiny"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"epoch": 1}, "there is no setting 'epoch'; choose from epochs"),
        ({"epochs": 0}, "--epochs is 0; give a number at least 1"),
        ({"epochs": "3"}, "--epochs is '3'; give a whole number"),
        ({"resume": True, "run": Path("runs/none")}, "runs/none"),
        ({"recipe": "best"}, "--recipe is 'best'; choose from "),
    ],
)
def test_a_wrong_setting_is_one_line(flags: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        api.train_supernet(**flags)


def test_what_the_documentation_shows_runs() -> None:
    """On the first example's own words, but with images and a space that train in seconds."""
    first = re.findall(r"```python\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)[0]
    assert 'data="digits", epochs=1' in first
    code = first.replace('data="digits", epochs=1', 'data="images", space="tiny", epochs=1, batch_size=8, amp="off"')
    code = code.replace("found.retrain(epochs=1)", 'found.retrain(epochs=1, batch_size=8, amp="off")')
    names: dict[str, object] = {}
    exec(compile(code, "docs/python.md", "exec"), names)
    run, found, winner = names["run"], names["found"], names["winner"]
    assert isinstance(run, api.Run) and isinstance(found, api.Search) and isinstance(winner, api.Winner)

    rows = found.evaluated
    assert len(rows) == 8 and rows["pareto"].any()
    assert list(rows["accuracy"]) == [e["accuracy"] for e in found.result["evaluations"]]
    archs = [run.info.search_space().from_json(e["arch"]) for e in found.result["evaluations"]]
    choices = [choice.name for choice in run.info.search_space().choices]
    assert [tuple(row) for row in rows[choices].to_numpy()] == [arch.values for arch in archs]
    assert (found.folder / "result.csv").read_text().splitlines()[0] == ",".join(rows.columns.drop("pareto"))

    assert [s.folder for s in run.searches] == [found.folder]
    assert list(found.winners.index) == [winner.name]
    network = names["network"]
    assert isinstance(network, torch.nn.Module) and not network.training
    assert network(torch.zeros(1, 3, 16, 16)).shape == (1, 3)
    assert (run.folder / "export" / winner.name / "model.onnx").exists() and (run.folder / "report.html").exists()
    assert [trained.name for trained in run.trained] == [winner.name]
    locks = [try_lock(path) for path in run.folder.rglob(".lock")]
    assert len(locks) >= 3 and all(locks), "this process has ended its work, and goes on"


def test_a_search_whose_limits_nothing_meets_has_no_winners() -> None:
    folder = Path("runs/r")
    add_strategy(folder, make_run(folder, 16, ["a", "b", "c"], "tiny"), "random", 0, budget=3)
    path = next(folder.glob("search*/result.json"))
    write_json(path, {**read_json(path), "winners": []})
    (found,) = api.Run(folder).searches
    assert len(found.evaluated) == 3
    for name in ("winners", "recommended"):
        with pytest.raises(UserError, match=r"picked no winner; go on with search\(resume=True\) and limits that can"):
            getattr(found, name)


def test_a_run_has_its_table_built() -> None:
    make_run(Path("runs/r"), 16, ["a", "b", "c"], "tiny")
    table = api.Run.open("r").build_table(samples=2)
    assert (table.space, table.image_size, table.num_classes) == ("tiny", 16, 3)


@pytest.mark.parametrize("trained", [("b",), ()])
def test_networks_that_were_stopped_are_not_returned(trained: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path("runs/r")
    space = make_run(folder, 16, ["a", "b", "c"], "tiny")
    add_supernet(folder)
    write_json(Path("archs.json"), [{"name": name, "arch": space.to_json(space.largest)} for name in ("a", "b")])

    def train(config: object, run_folder: Path, jobs: list[Job], scheduler: str) -> None:
        assert (scheduler, len(jobs)) == ("asha", 2)
        for job in jobs:
            if job.folder.name in trained:
                add_retrain(run_folder, space, (job.folder.name,))
            else:
                write_json(job.folder / "stopped.json", {"epoch": 1, "accuracy": 0.4})

    monkeypatch.setattr("nas.training.winners.train_parallel", train)
    found = api.Run(folder).retrain(archs="archs.json", ray_workers=2, init="scratch")
    assert [winner.name for winner in found] == list(trained)


@pytest.fixture
def elsewhere() -> str:
    """An interpreter that only tells how it was called, as if it had written a table, and ends with $STATUS."""
    script = Path("elsewhere")
    script.write_text(
        '#!/bin/sh\nif [ "$1" = -c ]; then echo new; exit; fi\nprintf "%s\\n" "$@" > call\n'
        "mkdir -p runs/tables && cp table.json runs/tables/new.json\nexit ${STATUS:-0}\n"
    )
    script.chmod(0o755)
    make_table(QuickSpace()).save(Path("table.json"))
    return str(script.resolve())


def test_what_another_interpreter_is_to_do_it_does(elsewhere: str, monkeypatch: pytest.MonkeyPatch) -> None:
    table = api.build_table(space="tiny", samples=2, python=elsewhere)
    assert table == LatencyTable.load(Path("table.json"))
    assert Path("call").read_text().split() == [
        *("-m", "latency_lut.build", "--python", elsewhere, "--space", "tiny", "--samples", "2")
    ]
    folder = Path("runs/r")
    assert api.Run(folder).export(formats="litert", python=Path(elsewhere)) == folder / "export"
    called = Path("call").read_text().split()
    assert called == ["-m", "nas.export", "--formats", "litert", "--run", "runs/r", "--python", elsewhere]
    monkeypatch.setenv("STATUS", "2")
    with pytest.raises(UserError, match=r"/elsewhere -m nas.export has ended with status 2; its last line says why$"):
        api.Run(folder).export(python=elsewhere)
    monkeypatch.setenv("STATUS", "130")
    with pytest.raises(KeyboardInterrupt):
        api.Run(folder).export(python=elsewhere)


def test_tables_are_frames() -> None:
    table = make_table(QuickSpace())
    frame = table.frame()
    assert list(frame.index) == list(table.rows)
    assert frame["min_ms"].sum() == pytest.approx(sum(row.min_ms for row in table.rows.values()))
    assert frame["clamped"].sum() == len(table.clamped)
