from __future__ import annotations

import itertools
import json
import multiprocessing
import shutil
import sys
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import optuna
import pytest
import torch
from PIL import Image

from latency_lut.tables.table import LatencyTable
from nas.evaluation.accuracy import accuracy
from nas.evaluation.evaluator import Evaluator
from nas.evaluation.intervals import interval
from nas.evaluation.racing import Finish
from nas.evaluation.speed import Speed
from nas.evaluation.workers import LocalEvaluator
from nas.networks.inherit import calibration_batches, inherited, load_supernet
from nas.objective.mes import PUBLISHED as PUBLISHED_MES
from nas.objective.mes import Objective, Term, pareto
from nas.reporting.report import write_report
from nas.runs import load_run_data
from nas.search import main
from nas.searching import search as core
from nas.searching.evaluators import make_evaluator
from nas.searching.result import objective_of
from nas.searching.storage import open_storage
from nas.searching.study import Evaluation, Study
from search_spaces import SPACES, Arch, UserError, macs, num_params, peak_activations
from search_spaces.command.files import sha256
from tests.nas.tiny import make_table, move_run, run_killed, tiny_space

SPACE = tiny_space()
SIZE = ("--metrics", "size")
SLIMMING = (*SIZE, "--strategy", "slimming")
TABLE = Path("runs/tables/tiny.json")
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, trained: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setitem(SPACES, "tiny", tiny_space)
    monkeypatch.setattr("nas.evaluation.speed.measure_speed", lambda *_: Speed(1e-4, 1e-4))  # a third of the time
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def trials() -> list[optuna.trial.FrozenTrial]:
    return optuna.load_study(study_name="r/search", storage=open_storage(Path("runs/r/search/study.log"))).trials


def result(name: str = "search") -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path(f"runs/r/{name}/result.json").read_text())
    return found


def timeless(found: dict[str, Any]) -> dict[str, Any]:
    """Without what depends on the clock and on the name."""
    times = {"seconds_since_start": None}
    evaluations = [{**e, **times} for e in found["evaluations"]]
    winners = [{**w, **times, "name": None} for w in found["winners"]]
    rest = {k: v for k, v in found.items() if k not in ("minutes", "command", "recommended")}
    return {**rest, "evaluations": evaluations, "winners": winners}


def invented(self: Evaluator, base: Arch, archs: Any, *precision: Any) -> list[float]:
    """Accuracies that fall with the size, in no time."""
    return [0.9 - 5e3 / num_params(SPACE, arch) for arch in archs]


# ---- what it finds


def test_a_search_by_latency_and_size(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(Evaluator, "accuracies", invented)
    table = make_table(SPACE)
    table.save(TABLE)
    main(["--alpha-latency", "1.0", "--alpha-size", "0.5", "--exact", "--budget", "30"])
    found = result()
    assert objective_of(found) == PUBLISHED_MES
    assert found["tables"] == {"latency_ms": {"path": "runs/tables/tiny.json", "sha256": sha256(TABLE)}}
    trajectory = found["trajectory"]
    assert trajectory[0]["arch"] == SPACE.to_json(SPACE.largest) and trajectory[0]["action"] is None
    assert all(b["mes"] > a["mes"] for a, b in itertools.pairwise(trajectory))
    assert len({p["accuracy"] for p in trajectory}) > 2
    frontiers = {action.arch for p in trajectory[:-1] for action in SPACE.slim(SPACE.from_json(p["arch"]))}
    assert found["num_evaluations"] == len(frontiers | {SPACE.largest})  # each once; here every action gains
    for point in trajectory:
        arch = SPACE.from_json(point["arch"])
        assert point["num_params"] == num_params(SPACE, arch) and point["macs"] == macs(SPACE, arch)
        assert point["latency_ms"] == table.latency_ms(SPACE, arch)
        assert point["memory_mb"] == peak_activations(SPACE, arch) * 4 / 1e6
        expected = 100 / point["latency_ms"] * (3e6 / point["num_params"]) ** 0.5
        assert point["mes"] == pytest.approx(expected, rel=1e-12)
    front = pareto(np.array([[p["accuracy"], p["mes"]] for p in trajectory]))
    assert [p["pareto"] for p in trajectory] == front.tolist()
    assert [w["name"] for w in found["winners"]][:2] == ["winner-1", "winner-2"]
    known = [p for p in trajectory if p["pareto"]]
    for winner in found["winners"]:
        own = {"name": winner["name"], "accuracy_interval": interval(winner["accuracy"], 19)}
        assert winner in [{**p, **own} for p in known]
    out = capsys.readouterr().out
    assert "slimming, 30 networks on 19 search images: about " in out
    assert "wrote runs/r/search/result.json" in out and f"\n{found['recommended']['sentence']}\nnext: " in out


def test_accuracies_are_of_the_search_split_and_the_test_split_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    load = core.runs.load_run_images
    seen = []

    def guarded(run: Path) -> Any:
        data = load(run)
        seen.append(data)
        return replace(data, train=cast(Any, None), test=cast(Any, None))

    monkeypatch.setattr(core.runs, "load_run_images", guarded)
    main([*SLIMMING, "--budget", "14"])
    assert result()["num_images"] == len(seen[0].search) == 19
    assert all(round(p["accuracy"] * 19) / 19 == p["accuracy"] for p in result()["trajectory"])


@pytest.mark.parametrize(
    ("flags", "kill_at"),
    [
        (("--exact",), "nas.searching.study:Study._record:22"),
        pytest.param(("--exact",), "nas.searching.picking:write_json:1", marks=pytest.mark.heavy),
        pytest.param(
            ("--strategy", "predictor", "--seed", "3"),
            "nas.searching.study:Study._record:22",
            marks=pytest.mark.heavy,
        ),
    ],
    ids=["exact", "exact, before the result", "predictor"],
)
def test_killed_and_resumed_equals_uninterrupted(
    folder: Path, flags: tuple[str, ...], kill_at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_table(SPACE).save(Path("runs/tables/tiny.json"))
    flags = (*flags, "--budget", "24")
    main([*flags, "--name", "whole"])
    run_killed(folder, "nas.search", *flags, kill_at=kill_at)
    assert not Path("runs/r/search/result.json").exists()
    known = len(trials())
    evaluated: list[Arch] = []
    accuracies = Evaluator.accuracies

    def counting(self: Evaluator, base: Arch, archs: Any, *precision: Any) -> list[float]:
        evaluated.extend(archs)
        return accuracies(self, base, archs, *precision)

    monkeypatch.setattr(Evaluator, "accuracies", counting)
    make_table(SPACE, 0.2).save(Path("runs/tables/newer.json"))  # is not taken: the search began with the other
    main(["--resume"])
    found, whole = result(), result("search-whole")
    assert timeless(found) == timeless(whole)
    assert {w["name"].rpartition("-")[0] for w in found["winners"]} == {"winner"}
    assert len(evaluated) == found["num_evaluations"] - known
    assert "--resume" not in found["command"]


def test_searches_beside_each_other(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(Evaluator, "accuracies", invented)
    short = (*SIZE, "--strategy", "random", "--budget", "3")
    main([*short])
    main([*short])
    main([*short, "--name", "fast", "--alpha-size", "2"])
    names = [w["name"] for n in ("search", "search-2", "search-fast") for w in result(n)["winners"][:1]]
    assert names == ["winner-1", "search-2-winner-1", "search-fast-winner-1"]
    with pytest.raises(
        UserError, match=r"runs/r/search-fast exists; go on with it by --resume, or make another with --n"
    ):
        main([*SIZE, "--name", "fast"])
    with pytest.raises(UserError, match=r"--name is '\.\./x'; give letters"):
        main([*SIZE, "--name", "../x"])
    capsys.readouterr()
    main(["--resume"])
    assert "runs/r/search-fast is finished: nothing to search" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"runs/r/search-2 with other settings: alpha_size was 0.5, now 3.0"):
        main(["--resume", "--name", "2", "--alpha-size", "3"])


# ---- races


RACING = (*SLIMMING, "--calibration-images", "28", "--batch-size", "8")


@pytest.fixture
def racing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few images are enough for races, also rough ones."""
    monkeypatch.setattr("nas.networks.inherit.BATCH_SIZE", 8)
    monkeypatch.setattr("nas.evaluation.evaluator.ROUGH_IMAGES", 0)
    monkeypatch.setattr("nas.evaluation.racing.FIRST", 8)
    monkeypatch.setattr("nas.evaluation.racing.DELTA", 0.4)


@pytest.mark.usefixtures("racing")
def test_what_a_race_drops_is_no_evaluation() -> None:
    main([*RACING, "--budget", "40"])
    found = result()
    data, supernet = load_run_data(Path("runs/r")), load_supernet(Path("runs/r"), CPU)
    calibration = calibration_batches(data.train, 16, 28, CPU)
    for point in found["trajectory"]:
        network = inherited(supernet, SPACE.from_json(point["arch"]), calibration)
        assert point["accuracy"] == accuracy(network, data.search, 16, CPU)
    evaluated = [e["arch"] for e in found["evaluations"]]
    assert all(point["arch"] in evaluated for point in found["trajectory"])
    states = [trial.state.name for trial in trials()]
    assert states.count("PRUNED") == found["num_dropped"] > 5
    assert states.count("COMPLETE") == found["num_evaluations"] == len(evaluated)
    first_race = [SPACE.to_json(action.arch) for action in SPACE.slim(SPACE.largest)]
    asked = [e["num_asked"] for e in found["evaluations"]]
    assert asked[0] == 1 and max(e["num_asked"] for e in found["evaluations"] if e["arch"] in first_race) == 1 + len(
        first_race
    )
    assert asked[-1] == found["num_evaluations"] + found["num_dropped"] > len(asked)
    assert 0 < found["image_forwards"]["run"] != found["image_forwards"]["shared"] < found["image_forwards"]["alone"]
    main([*RACING, "--budget", "2", "--exact"])
    exact = result("search-2")
    assert [e["num_asked"] for e in exact["evaluations"]] == list(range(1, exact["num_evaluations"] + 1))
    assert exact["num_dropped"] == 0 and exact["image_forwards"]["run"] == exact["image_forwards"]["shared"]


@pytest.mark.heavy  # tests/nas/test_kills.py has a search
@pytest.mark.usefixtures("racing")
@pytest.mark.parametrize("race_number", [1, 2])
def test_a_race_killed_while_it_is_recorded_is_run_again(race_number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    first = 1 + len(SPACE.slim(SPACE.largest))  # trials of the largest network and of the first race
    recorded = first - 3 if race_number == 1 else first + 2
    flags = (*RACING, "--budget", "26")
    main([*flags, "--name", "whole"])
    record, race = Study._record, Evaluator.race
    raced: list[Arch] = []

    def killed(self: Study, evaluation: Evaluation) -> None:
        if len(trials()) == recorded:
            raise KeyboardInterrupt
        record(self, evaluation)

    def counting(self: Evaluator, base: Arch, archs: Any, gains: Any, *precision: Any) -> list[Finish]:
        raced.append(base)
        return race(self, base, archs, gains, *precision)

    monkeypatch.setattr(Study, "_record", killed)
    with pytest.raises(KeyboardInterrupt):
        main([*flags])
    assert len(trials()) == recorded
    monkeypatch.setattr(Study, "_record", record)
    monkeypatch.setattr(Evaluator, "race", counting)
    main(["--resume"])
    found, whole = result(), result("search-whole")
    assert timeless(found) == timeless(whole)
    assert len(raced) == len(whole["trajectory"]) - race_number  # those before were recorded by then
    assert len(trials()) == found["num_evaluations"] + found["num_dropped"]


def test_races_are_of_one_process() -> None:
    with pytest.raises(
        UserError, match="--ray-workers is 2, but the actions of a race wait for one another; add --exact"
    ):
        main([*SIZE, "--ray-workers", "2", "--strategy", "slimming"])
    assert not list(Path("runs/r").glob("search*"))


# ---- norms


def test_norms_may_be_recalibrated(capsys: pytest.CaptureFixture[str]) -> None:
    main([*SLIMMING, "--budget", "14", "--calibration-images", "16", "--batch-size", "8"])
    found = result()
    assert found["calibration_images"] == 16
    data, supernet = load_run_data(Path("runs/r")), load_supernet(Path("runs/r"), CPU)
    calibration = calibration_batches(data.train, 16, 16, CPU)
    for point in found["trajectory"]:
        network = inherited(supernet, SPACE.from_json(point["arch"]), calibration)
        assert point["accuracy"] == accuracy(network, data.search, 16, CPU)
    with pytest.raises(UserError, match=r"other settings: calibration_images was 16, now 8"):
        main(["--resume", "--calibration-images", "8"])
    main(["--resume"])
    assert "is finished" in capsys.readouterr().out


def test_norms_of_each_width_are_the_supernets_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nas.evaluation.evaluator.measure_statistics", lambda *_: pytest.fail("recalibrated"))
    main([*SLIMMING, "--budget", "14"])
    assert result()["calibration_images"] == 0


def test_one_calibration_image_is_refused() -> None:
    with pytest.raises(UserError, match="--calibration-images is 1, which has no variance"):
        main([*SIZE, "--calibration-images", "1"])
    assert not list(Path("runs/r").glob("search*"))


# ---- strategies


@pytest.mark.parametrize("strategy", [pytest.param("random", marks=pytest.mark.heavy), "tpe"])
def test_a_strategy_evaluates_its_budget_within_the_limits(strategy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Evaluator, "accuracies", invented)
    make_table(SPACE).save(Path("runs/tables/tiny.json"))
    flags = ("--strategy", strategy, "--budget", "20", "--max-params", "60000")
    main([*flags, "--seed", "1"])
    main([*flags, "--seed", "1", "--name", "again"])
    main([*flags, "--seed", "2", "--name", "other"])
    found = result()
    assert (found["strategy"], found["seed"], found["budget"], found["num_evaluations"]) == (strategy, 1, 20, 20)
    evaluations = found["evaluations"]
    assert len({json.dumps(e["arch"]) for e in evaluations}) == 20
    assert [e["index"] for e in evaluations] == list(range(20))
    assert all(e["num_params"] <= 60000 for e in evaluations)
    times = [e["seconds_since_start"] for e in evaluations]
    assert times == sorted(times) and times[-1] <= 60 * found["minutes"]
    front = pareto(np.array([[e["accuracy"], e["mes"]] for e in evaluations]))
    assert found["front"] == np.flatnonzero(front).tolist()
    assert {w["index"] for w in found["winners"]} <= set(found["front"])
    assert timeless(result("search-again")) == timeless(found)
    assert timeless(result("search-other"))["evaluations"] != timeless(found)["evaluations"]
    write_report(Path("runs/r"))


def test_a_search_without_a_progress_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with TQDM_DISABLE=1, which tqdm reads when it is imported."""
    monkeypatch.setattr(Evaluator, "accuracies", invented)
    monkeypatch.setattr(core, "tqdm", partial(core.tqdm, disable=True))
    main([*SIZE, "--strategy", "random", "--budget", "5"])
    main([*SLIMMING, "--exact", "--budget", "5"])
    assert result()["num_evaluations"] == 5 <= result("search-2")["num_evaluations"]


def test_slimming_stops_with_the_step_that_reaches_its_budget() -> None:
    main([*SLIMMING, "--budget", "40"])
    main([*SLIMMING, "--budget", "20"])
    whole, found = result(), result("search-2")
    assert 20 <= found["num_evaluations"] + found["num_dropped"] < whole["num_evaluations"] + whole["num_dropped"]
    assert 1 < len(found["trajectory"]) < len(whole["trajectory"])
    assert [p["arch"] for p in found["trajectory"]] == [
        p["arch"] for p in whole["trajectory"][: len(found["trajectory"])]
    ]
    main(["--resume", "--budget", "none"])
    archs = [[p["arch"] for p in found["trajectory"]] for found in (whole, result("search-2"))]
    assert archs[1][: len(archs[0])] == archs[0] and len(archs[1]) > len(archs[0])


def test_a_small_budget_without_a_strategy_is_a_predictors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Evaluator, "accuracies", invented)
    main([*SIZE, "--budget", "21"])
    assert (result()["strategy"], result()["num_evaluations"]) == ("predictor", 21)
    with pytest.raises(UserError, match=r"20 is too small for predictor, .* give at least 21, or another --strategy"):
        main([*SIZE, "--budget", "20"])
    assert not Path("runs/r/search-2").exists()


def test_a_seed_is_refused_where_the_plan_is_slimming() -> None:
    """Which has no randomness; it was recorded, and refused when the search was to go on."""
    with pytest.raises(UserError, match="--seed is for strategies with randomness, slimming has none; leave it out"):
        main([*SIZE, "--seed", "3"])
    assert not Path("runs/r/search").exists()


def test_a_search_begins_with_the_trajectory_of_another() -> None:
    main([*SLIMMING, "--budget", "14"])
    main([*SIZE, "--strategy", "predictor", "--budget", "21", "--seed-search", "search"])
    seeds, found = result(), result("search-2")
    assert found["seed_search"] == "search"
    begin = [e["arch"] for e in found["evaluations"][:20]]
    assert all(p["arch"] in begin for p in seeds["trajectory"])
    main([*SIZE, "--strategy", "predictor", "--budget", "21", "--seed-search", "search-2"])
    begin = [e["arch"] for e in result("search-3")["evaluations"][:20]]
    assert all(found["evaluations"][i]["arch"] in begin for i in found["front"])
    path = Path("runs/r/search/result.json")
    path.write_text(json.dumps({**seeds, "trajectory": seeds["trajectory"][:-1]}))  # as if it had gone on
    main(["--resume", "--name", "2", "--budget", "22"])
    again = result("search-2")["evaluations"]
    assert len(again) == 22 and again[:21] == found["evaluations"]
    with pytest.raises(UserError, match=r"cannot resume runs/r/search-2 with other settings: seed_archs_sha256"):
        main(["--resume", "--name", "2", "--budget", "23", "--seed-search", "search-3"])


def test_a_study_on_a_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PASSWORD", "secret")
    storage = ("--storage", "sqlite:///$PASSWORD.db")
    main([*SLIMMING, "--budget", "1", *storage])
    main([*SLIMMING, "--budget", "1", *storage])
    assert not Path("runs/r/search/study.log").exists()
    assert {s.study_name for s in optuna.get_all_study_summaries("sqlite:///secret.db")} == {"r/search", "r/search-2"}
    assert "secret" not in Path("runs/r/search/config.json").read_text() + Path("runs/r/search/result.json").read_text()
    shutil.rmtree("runs/r/search")
    with pytest.raises(UserError, match=r"sqlite:///\$PASSWORD.db holds a study r/search already; search under"):
        main([*SIZE, *storage])


# ---- limits


def test_a_limit_that_cannot_be_met_is_named_before_anything_runs() -> None:
    smallest = num_params(SPACE, SPACE.smallest)
    with pytest.raises(UserError, match=f"no network has num_params of at most 1000, the smallest is {smallest}"):
        main(["--max-params", "1000"])  # there is no table either: none is measured
    table = make_table(SPACE)
    table.save(Path("runs/tables/tiny.json"))
    latency_ms = f"{table.latency_ms(SPACE, SPACE.smallest):.6g}"
    with pytest.raises(UserError, match=f"no network has latency_ms of at most 0.001, the smallest is {latency_ms}"):
        main(["--max-latency-ms", "0.001"])
    with pytest.raises(UserError, match="no network has macs of at most 1, the smallest is"):
        main([*SIZE, "--max-macs", "1"])
    least = f"{peak_activations(SPACE, SPACE.smallest) * 4 / 1e6:.6g}"
    with pytest.raises(UserError, match=f"no network has memory_mb of at most 0.001, the smallest is {least}"):
        main(["--max-memory-mb", "0.001"])
    with pytest.raises(UserError, match="no network that --only width leads to has num_params of at most"):
        main([*SIZE, "--only", "width", "--max-params", str(smallest)])
    assert not list(Path("runs/r").glob("search*"))


def test_limits_may_be_mended_until_winners_are_picked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Evaluator, "accuracies", lambda self, base, archs, *_: [0.5] * len(archs))
    with pytest.raises(UserError, match="no network found reaches accuracy"):
        main([*SIZE, "--exact", "--budget", "14", "--min-accuracy", "0.9"])
    assert result()["winners"] == [] and result()["trajectory"]  # nothing is lost
    monkeypatch.setattr(Evaluator, "accuracies", lambda self, base, archs, *_: pytest.fail("evaluated again"))
    main(["--resume", "--min-accuracy", "0.4"])
    assert result()["winners"] and result()["min_accuracy"] == 0.4
    assert result()["command"].endswith("--min-accuracy=0.4")


def test_a_finished_search_goes_on_with_other_limits(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Evaluator, "accuracies", invented)
    main([*SIZE, "--exact"])
    first = result()
    archs = {w["name"]: w["arch"] for w in first["winners"]}
    limit = sorted(w["num_params"] for w in first["winners"])[1]
    monkeypatch.setattr(Evaluator, "accuracies", lambda self, base, archs, *_: pytest.fail("evaluated again"))
    main(["--resume", "--max-params", str(limit)])
    second = result()
    assert second["trajectory"] == first["trajectory"] and second["settings"]["max_params"] == limit
    assert all(w["num_params"] <= limit for w in second["winners"])
    names = {w["name"]: w["arch"] for w in [*second["winners"], *second["earlier_winners"]]}
    assert names.items() >= archs.items(), "a name stays its arch's: its files in retrain/ are under it"
    assert {w["name"] for w in second["winners"]} - archs.keys() <= {"winner-4", "winner-5"}
    gone = [w["name"] for w in second["earlier_winners"]]
    assert gone and f"no longer winners, what was trained of them stays: {', '.join(gone)}" in capsys.readouterr().out
    main(["--resume"])
    assert "is finished: nothing to search" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"no network found reaches accuracy 1\.0.*; nothing has changed, its winners "):
        main(["--resume", "--min-accuracy", "1.0"])
    assert result() == second
    assert json.loads(Path("runs/r/search/config.json").read_text())["command"] == second["command"]
    main(["--resume"])
    assert "is finished: nothing to search" in capsys.readouterr().out
    main(["--resume", "--min-accuracy", "0.01", "--winners", "1"])
    assert [w["name"] for w in result()["winners"]] == [second["winners"][0]["name"]]


def test_other_limits_of_a_finished_search_outlive_a_kill(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Evaluator, "accuracies", invented)
    flags = (*SIZE, "--strategy", "random", "--budget", "5", "--winners", "1")
    main([*flags])
    limit = num_params(SPACE, SPACE.smallest) * 1.3

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(core, "pick", killed)
        with pytest.raises(KeyboardInterrupt):
            main(["--resume", "--max-params", str(limit)])
    main(["--resume"])
    assert result()["settings"]["max_params"] == limit
    assert all(winner["num_params"] <= limit for winner in result()["winners"])


def test_a_resumed_search_says_how_long_it_takes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Evaluator, "accuracies", invented)
    monkeypatch.setattr("search_spaces.command.forecast.LEAST_S", 0.0)
    monkeypatch.setattr("search_spaces.command.forecast.WORTH_SAYING_S", 0.0)
    main([*SIZE, "--strategy", "random", "--budget", "5"])
    assert "networks more" not in capsys.readouterr().err
    main(["--resume", "--budget", "15"])
    assert "random, 10 networks more: about 0 seconds" in capsys.readouterr().err


@pytest.mark.parametrize(("strategy", "budget"), [("random", 15), pytest.param("nsga2", 55, marks=pytest.mark.heavy)])
def test_a_finished_search_goes_on_with_a_larger_budget(
    strategy: str, budget: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Evaluator, "accuracies", invented)
    flags = (*SIZE, "--strategy", strategy)
    more = ("--budget", str(budget + 5))
    main([*flags, *more, "--name", "whole"])
    main([*flags, "--budget", str(budget)])
    evaluated: list[Arch] = []

    def counting(self: Evaluator, base: Arch, archs: Any, *precision: Any) -> list[float]:
        evaluated.extend(archs)
        return invented(self, base, archs)

    monkeypatch.setattr(Evaluator, "accuracies", counting)
    main(["--resume", *more])
    assert len(evaluated) == 5
    assert [e["arch"] for e in result()["evaluations"]] == [e["arch"] for e in result("search-whole")["evaluations"]]
    main(["--resume", "--max-params", "none", "--max-latency-ms", "none"])
    assert result()["settings"]["max_params"] is None and result()["objective"]["limits"] == {}


def test_a_search_that_finds_nothing_to_evaluate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nas.searching.samplers.TRIES", 0)
    monkeypatch.setattr("nas.searching.samplers.find_within", lambda _: None)
    flags = ("--strategy", "random", "--budget", "5", "--max-params", "60000")
    with pytest.raises(UserError, match="no network within the limits was found; relax num_params"):
        main([*SIZE, *flags])
    assert not Path("runs/r/search/result.json").exists()


# ---- several devices


PHONE, LAPTOP = "phone=phone.json", "laptop=laptop.json"


def two_tables() -> None:
    make_table(SPACE, 0.2).save(Path("phone.json"))
    make_table(SPACE, 0.05).save(Path("laptop.json"))


def test_a_search_for_devices_of_both_floating_points_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Core ML's tables are of float16; a search records that it is in float32, which asks for no other table."""
    monkeypatch.setattr(Evaluator, "accuracies", invented)
    two_tables()
    table = LatencyTable.load(Path("phone.json"))
    runtime = replace(table.provenance.runtime, precision="float16")
    replace(table, provenance=replace(table.provenance, runtime=runtime)).save(Path("phone.json"))
    flags = ("--metrics", "latency", "--strategy", "random", "--budget", "6")
    main(["--table", PHONE, LAPTOP, *flags])
    main(["--resume", "--budget", "8"])
    assert result()["num_evaluations"] == 8


def test_one_search_for_two_devices(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(Evaluator, "accuracies", invented)
    two_tables()
    phone, laptop = make_table(SPACE, 0.2), make_table(SPACE, 0.05)
    limit = 1.2 * phone.latency_ms(SPACE, SPACE.smallest)
    flags = ("--alpha-latency", "1", "laptop=0.5", "--unit-latency-ms", "phone=2", "--max-latency-ms", f"phone={limit}")
    metrics = ("--metrics", "latency", "size", "memory", "macs", "--alpha-memory", "0.25", "--alpha-macs", "0.125")
    main(["--table", PHONE, LAPTOP, *flags, *metrics, "--strategy", "random", "--budget", "6"])
    found = result()
    latencies = (("latency_ms_phone", 2.0, 1.0), ("latency_ms_laptop", 1.0, 0.5))
    terms = (*latencies, ("num_params", 3e6, 0.5), ("memory_mb", 6.0, 0.25), ("macs", 300e6, 0.125))
    assert objective_of(found) == Objective(tuple(itertools.starmap(Term, terms)), {"latency_ms_phone": limit})
    for point in found["evaluations"]:
        arch = SPACE.from_json(point["arch"])
        assert point["latency_ms_phone"] == phone.latency_ms(SPACE, arch) <= limit
        assert point["latency_ms_laptop"] == laptop.latency_ms(SPACE, arch)
        expected = 100 * np.prod([(point[metric] / unit) ** -alpha for metric, unit, alpha in terms])
        assert point["mes"] == pytest.approx(expected, rel=1e-12)
    out = capsys.readouterr().out
    assert "latency_ms_phone: " in out and "latency laptop, ms" in out
    write_report(Path("runs/r"))
    page = Path("runs/r/report.html").read_text(encoding="utf-8")
    main(["--resume", "--max-latency-ms", "phone=9", "laptop=9"])
    assert result()["command"].endswith(" --max-latency-ms=phone=9 --max-latency-ms=laptop=9")
    assert objective_of(result()).limits == {"latency_ms_phone": 9.0, "latency_ms_laptop": 9.0}
    assert "(latency phone / 2 ms)<sup>−1</sup>" in page and "(memory / 6 MB)<sup>−0.25</sup>" in page


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--table", "phone.json", "laptop.json"), "--table gives 2 tables; give each a name of its own"),
        (("--table", PHONE, "phone=laptop.json"), "--table gives 2 tables; give each a name of its own"),
        (("--table", PHONE, LAPTOP, "--alpha-latency", "tv=1"), "names a table tv; choose from phone, laptop"),
        (
            ("--table", "phone.json", "--max-latency-ms", "tv=1"),
            "names a table tv; name it by --table, as in ph",
        ),
        (("--table", PHONE, LAPTOP, "--unit-latency-ms", "phone=x"), "--unit-latency-ms is 'x'; give a number above 0"),
        (("--table", PHONE, LAPTOP, "--alpha-latency", "phone=inf"), "--alpha-latency is inf; give a number above 0"),
        (("--table", PHONE, "laptop=none.json"), "cannot read none.json"),
        (
            ("--table", PHONE, LAPTOP, "--max-latency-ms", "phone=1e-4"),
            "no network has latency_ms_phone of at most",
        ),
    ],
)
def test_tables_that_cannot_be_told_apart(flags: tuple[str, ...], message: str) -> None:
    two_tables()
    with pytest.raises(UserError, match=message):
        main([*flags])
    assert not list(Path("runs/r").glob("search*"))


# ---- what cannot be used


def test_a_bad_storage_is_found_before_the_images_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core, "evaluators", lambda *_: pytest.fail("images are read"))
    with pytest.raises(UserError, match=r"cannot use the database sqlite:////nowhere/x.db: unable to open"):
        main([*SIZE, "--storage", "sqlite:////nowhere/x.db"])
    with pytest.raises(UserError, match="--storage has a password in it"):
        main([*SIZE, "--storage", "postgresql://me:secret@host/nas"])
    assert not list(Path("runs/r").glob("search*"))


def test_killed_before_there_is_a_study(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Evaluator, "accuracies", invented)
    run_killed(folder, "nas.search", *SIZE, "--exact", "--budget", "14", kill_at="nas.searching.study:Study.__init__:1")
    assert not Path("runs/r/search/study.log").exists()
    main(["--resume"])
    assert result()["winners"]


@pytest.mark.parametrize("storage", [(), ("--storage", "sqlite:///study.db")], ids=["journal", "database"])
def test_a_renamed_search_of_a_renamed_run_goes_on_with_its_study(
    storage: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Evaluator, "accuracies", invented)
    make_table(SPACE).save(TABLE)
    main(["--exact", "--budget", "30", "--winners", "1", *storage])
    shutil.move("runs/r/search", "runs/r/search-first")
    move_run("runs/r", "moved/s")
    shutil.move("runs/tables", "moved/tables")
    if storage:
        shutil.move("study.db", "moved.db")
        flags = ("--resume", "--run", "moved/s", "--winners", "2", "--storage")
        with pytest.raises(UserError, match=r"empty\.db holds no study r/search, which the search was begun"):
            main([*flags, "sqlite:///empty.db"])
        storage = ("--storage", "sqlite:///moved.db")
    monkeypatch.setattr(Evaluator, "accuracies", lambda self, base, archs, *_: pytest.fail("evaluated again"))
    main(["--resume", "--run", "moved/s", "--winners", "2", *storage])
    found = json.loads(Path("moved/s/search-first/result.json").read_text())
    assert len(found["winners"]) == 2 and found["tables"]["latency_ms"]["path"] == "moved/tables/tiny.json"


def test_a_refused_resume_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Evaluator, "accuracies", invented)
    main([*SIZE, "--exact", "--budget", "14", "--winners", "1"])
    Path("runs/r/search/study.log").write_text("no study,\nbut two lines\n")
    before = {path: path.read_bytes() for path in Path("runs").rglob("*") if path.is_file()}
    with pytest.raises(UserError, match=r"study\.log, line 1, is not JSON"):
        main(["--resume", "--winners", "3"])
    assert {path: path.read_bytes() for path in Path("runs").rglob("*") if path.is_file()} == before


def test_a_table_that_does_not_fit() -> None:
    make_table(tiny_space(image_size=32)).save(Path("size.json"))
    make_table(tiny_space(num_classes=4)).save(Path("classes.json"))
    make_table(SPACES["efficientformerv2-nano"]()).save(Path("space.json"))
    make_table(SPACE).save(Path("good.json"))
    good = json.loads(Path("good.json").read_text())
    Path("schema.json").write_text(json.dumps({**good, "schema": 99}))
    rows = dict(list(good["rows"].items())[1:])
    Path("rows.json").write_text(json.dumps({**good, "rows": rows}))
    Path("text.json").write_text("no table")
    for name, message in (
        ("size", "the table's image size is 32, not 16"),
        ("classes", "the table's number of classes is 4, not 3"),
        ("space", "the table's space is efficientformerv2-nano, not tiny"),
        ("schema", "schema.json has schema 99"),
        ("rows", "the table lacks 1 blocks of tiny"),
        ("text", "text.json is not JSON"),
        ("none", "cannot read none.json"),
    ):
        with pytest.raises(UserError, match=message):
            main(["--table", f"{name}.json"])
    assert not list(Path("runs/r").glob("search*"))


def test_several_workers_without_a_strategy_are_led_by_a_predictor(monkeypatch: pytest.MonkeyPatch) -> None:
    """The guide's command: the actions of slimming, which would be taken else, wait for one another."""
    monkeypatch.setattr(Evaluator, "accuracies", invented)
    monkeypatch.setattr(
        core, "evaluators", lambda config, evaluator: nullcontext(LocalEvaluator(partial(make_evaluator, evaluator)))
    )
    main([*SIZE, "--ray-workers", "2"])
    assert result()["strategy"] == "predictor"


def test_a_sequential_search_by_several_workers_says_so_and_keeps_to_their_number(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Here, they are all this process."""
    monkeypatch.setattr(Evaluator, "accuracies", invented)
    monkeypatch.setattr(
        core, "evaluators", lambda config, evaluator: nullcontext(LocalEvaluator(partial(make_evaluator, evaluator)))
    )
    flags = (*SIZE, "--strategy", "tpe", "--budget", "14")
    main([*flags, "--name", "alone"])
    main([*flags, "--name", "three", "--ray-workers", "3"])
    assert result("search-alone")["asynchronous"] is None and result("search-three")["asynchronous"] == 3
    with pytest.raises(
        UserError, match=r"cannot resume runs/r/search-three with other settings: ray_workers was 3, now 2"
    ):
        main(["--resume", "--name", "three", "--ray-workers", "2"])
    main([*SIZE, "--strategy", "random", "--budget", "14", "--name", "random", "--ray-workers", "3"])
    assert result("search-random")["asynchronous"] is None
    main(["--resume", "--name", "random", "--ray-workers", "2"])


def test_a_table_changed_since_the_search_began(monkeypatch: pytest.MonkeyPatch) -> None:
    make_table(SPACE).save(Path("t.json"))
    monkeypatch.setattr(core, "_slim", lambda *_: pytest.fail("interrupted"))
    with pytest.raises(pytest.fail.Exception):
        main(["--table", "t.json"])
    make_table(SPACE, 0.3).save(Path("t.json"))
    with pytest.raises(UserError, match="tables_sha256 was"):
        main(["--resume"])


def test_data_changed_since_the_supernet_was_trained() -> None:
    Image.new("RGB", (16, 16)).save("images/red/0.png")
    with pytest.raises(UserError, match="images has changed since runs/r was begun"):
        main([*SIZE])


def test_runs_that_cannot_be_searched() -> None:
    with pytest.raises(UserError, match=r"no run runs/nowhere; see `ls runs`"):
        main([*SIZE, "--run", "nowhere"])
    with pytest.raises(
        UserError, match=r"no run under runs/ has search\*/config.json; make it with: python -m nas.search"
    ):
        main(["--resume"])
    Path("runs/r/supernet/result.json").unlink()
    with pytest.raises(
        UserError,
        match=r"no run under runs/ has supernet/result.json; make it with: python -m nas.train_supernet --resume",
    ):
        main([*SIZE])


def test_a_supernet_of_another_space() -> None:
    info = json.loads(Path("runs/r/run.json").read_text())
    Path("runs/r/run.json").write_text(json.dumps({**info, "space": "efficientformerv2-nano", "image_size": 32}))
    with pytest.raises(UserError, match=r"supernet.safetensors is of another space or size"):
        main([*SIZE])
    Path("runs/r/run.json").write_text("{}")
    with pytest.raises(UserError, match=r"run.json is not a run of this version"):
        main([*SIZE])


# ---- metrics


ENERGY = """
from nas.objective.metrics import METRICS, Metric

METRICS["energy"] = Metric(
    "energy", "energy_mj", "energy", "the energy of an image", unit=2.0, alpha=0.75, limit="max_energy_mj",
    limit_help="winners may take at most this energy", shown_unit="mJ",
    block_cost=lambda block: 1e-4 * block.num_params,
)

from nas.search import main
from search_spaces import UserError

for command in COMMANDS:
    try:
        main(command.split())
    except UserError as error:
        print(error)
"""


def printed(code: str, **names: Any) -> str:
    """What it prints in a forked process in which no module of nas has been imported: a start takes much longer."""
    output = Path("output").absolute()

    def process() -> None:
        for name in [name for name in sys.modules if name.partition(".")[0] == "nas"]:
            del sys.modules[name]
        with output.open("w") as sys.stdout:
            exec(code, names)

    one = multiprocessing.get_context("fork").Process(target=process)
    one.start()
    one.join()
    assert one.exitcode == 0
    return output.read_text()


def test_a_metric_is_added_in_one_place() -> None:
    """Its flags, costs, limit, score, text and refusals follow from its entry."""
    limit = 1e-4 * num_params(SPACE, SPACE.largest) * 0.8
    commands = (
        f"--strategy random --budget 6 --metrics energy size --max-energy-mj {limit}",
        "--metrics energy --max-energy-mj 0.001",
        "--metrics size --alpha-energy 0.75",
    )
    said = printed(ENERGY, COMMANDS=commands)
    assert "energy, mJ" in said
    objective = objective_of(result())
    assert objective.terms == (Term("energy_mj", 2.0, 0.75), Term("num_params", 3e6, 0.5))
    assert objective.limits == {"energy_mj": limit}
    assert result()["num_evaluations"] == 6
    for point in result()["evaluations"]:
        assert point["energy_mj"] == pytest.approx(1e-4 * point["num_params"]) and point["energy_mj"] <= limit
    assert all("energy_mj" in trial.user_attrs for trial in trials())
    assert "no network has energy_mj of at most 0.001" in said and "raise --max-energy-mj" in said
    assert "--alpha-energy is for energy, which is not in --metrics; leave it out" in said
