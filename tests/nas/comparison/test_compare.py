"""Comparisons of invented searches: what is found, grouped, refused, counted and shown."""

from __future__ import annotations

import hashlib
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nas import runs
from nas.compare import main
from nas.comparison import compare, tables
from nas.comparison.compare import Config, reach, spread
from nas.comparison.data import check_comparable, find_searches, read_search, reference_of, under_one_mes
from nas.comparison.groups import make_groups
from nas.objective.costs import Costs
from nas.objective.hypervolume import Progress
from nas.objective.mes import PUBLISHED, Objective
from nas.objective.tables import record
from nas.searching.result import recorded_tables
from search_spaces import SearchSpace, UserError
from search_spaces.command.files import read_json, write_json
from tests.nas.synthetic_run import add_search, make_run
from tests.nas.synthetic_search import NUM_IMAGES, add_strategy, point, write_search
from tests.nas.tiny import make_table

EVIL = "<script>throw Error('evil')</script>"


@pytest.fixture
def runs_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return Path("runs")


@pytest.fixture
def space(runs_folder: Path) -> SearchSpace:
    return new_run("one")


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def new_run(name: str, weights: bytes = b"weights") -> SearchSpace:
    space = make_run(runs.RUNS / name)
    (runs.RUNS / name / "supernet").mkdir()
    (runs.RUNS / name / "supernet/supernet.safetensors").write_bytes(weights)
    return space


def points_at(space: SearchSpace, *scores: tuple[float, float]) -> list[dict[str, Any]]:
    """The largest network at MES 100, then networks of (accuracy, ln MES / 100), a second apart."""
    rng = random.Random(0)
    archs = [space.largest, *(space.sample(rng) for _ in scores)]
    at = [(0.5, 0.0), *scores]
    return [
        {
            **point(space, arch),
            "accuracy": a,
            "mes": 100 * math.exp(m),
            "seconds_since_start": 60.0 * (i + 1),
            "index": i,
        }
        for i, (arch, (a, m)) in enumerate(zip(archs, at, strict=True))
    ]


def result_of(*names: str, **flags: Any) -> Any:
    folder = compare.compare(Config(names, **flags))
    return read_json(folder / "comparison.json")


# ---- figures by hand: areas are (accuracy - 0.1) · ln(MES / 100)


def test_reach_by_hand(space: SearchSpace) -> None:
    run = runs.RUNS / "one"
    write_search(run / "search-a", "slow", points_at(space, (0.6, 1.0), (0.6, 2.0), (0.6, 4.0)))  # 0, 0.5, 1, 2
    write_search(run / "search-b", "fast", points_at(space, (0.6, 2.0), (0.2, 3.0)))  # 0, 1, 1.1
    result = result_of("one")
    assert result["reference"] == {"accuracy": 0.1, "mes": 100.0}
    final = {label: group["hypervolume"]["mean"] for label, group in result["groups"].items()}
    assert final == pytest.approx({"slow": 2.0, "fast": 1.1})
    medians = {a: {b: cell["median"] for b, cell in row.items()} for a, row in result["evaluations_to_reach"].items()}
    assert medians == {"slow": {"slow": 4, "fast": 4}, "fast": {"slow": None, "fast": 3}}
    assert result["minutes_to_reach"]["slow"]["fast"]["values"] == [4.0]


def test_mean_and_spread_over_seeds_by_hand(space: SearchSpace) -> None:
    run = runs.RUNS / "one"
    for seed, gain in enumerate((1.0, 2.0, 3.0)):  # final 0.5, 1, 1.5
        write_search(run / f"search-{seed}", "tpe", points_at(space, (0.6, gain)), seed=seed)
    write_search(run / "search-other", "gp", points_at(space, (0.3, 1.0), (0.6, 2.0)))  # 0, 0.2, 1
    result = result_of("one")
    tpe = result["groups"]["tpe"]
    assert tpe["hypervolume"]["mean"] == pytest.approx(1.0)
    assert tpe["hypervolume"]["std"] == pytest.approx(0.5)
    assert (tpe["hypervolume"]["min"], tpe["hypervolume"]["max"]) == pytest.approx((0.5, 1.5))
    assert [search["seed"] for search in tpe["searches"]] == [0, 1, 2]
    assert result["evaluations_to_reach"]["gp"]["tpe"]["values"] == [3.0]
    assert result["evaluations_to_reach"]["tpe"]["gp"]["values"] == [None, 2.0, 2.0]


def test_what_never_reaches_a_front_counts() -> None:
    def progress(*values: float) -> Progress:
        return Progress(np.arange(1.0, len(values) + 1), np.array(values))

    fast, slow, never, shorter = progress(0, 1, 1, 1), progress(0, 0, 0, 1), progress(0, 0, 0, 0), progress(0, 0, 0)
    assert reach([fast, slow, fast], 1.0) == {"median": 2, "more_than": None, "reached": 3, "values": [2, 4, 2]}
    assert reach([fast, slow, never], 1.0) == {"median": 4, "more_than": None, "reached": 2, "values": [2, 4, None]}
    assert reach([fast, never, shorter], 1.0) == {
        "median": None,
        "more_than": 3,
        "reached": 1,
        "values": [2, None, None],
    }
    assert reach([fast, never], 1.0)["median"] is None, "the mean of the middle two is not known either"
    assert reach([], 1.0) == {"median": None, "more_than": None, "reached": 0, "values": []}
    cells = [tables._reach_cell(reach(of, 1.0), "{:.0f}") for of in ([fast], [fast, slow, never], [never, fast], [])]
    assert cells == ["2", "4 (2 of 3)", "> 4 (1 of 2)", "–"]


def test_spread_of_few() -> None:
    assert spread([2.0]) == {"mean": 2.0, "std": None, "min": 2.0, "max": 2.0, "values": [2.0]}
    assert spread([None, 1.0, 3.0])["std"] == pytest.approx(math.sqrt(2))
    assert spread([None])["mean"] is None


def test_best_accuracy_within_limits(space: SearchSpace, capsys: pytest.CaptureFixture[str]) -> None:
    run = runs.RUNS / "one"
    a, b = points_at(space, (0.7, 1.0)), points_at(space, (0.8, 1.0))
    for points, latency in ((a, 2.0), (b, 3.0)):
        points[0]["latency_ms"], points[1]["latency_ms"] = 9.0, latency
    write_search(run / "search-a", "a", a)
    write_search(run / "search-b", "b", b)
    best = {
        label: [(cell["limit"], cell["mean"]) for cell in group["best_accuracy"]]
        for label, group in result_of("one", max_latency_ms=(2.5, 3.0), max_params=(1.0,))["groups"].items()
    }
    assert best == {"a": [(2.5, 0.7), (3.0, 0.7), (1.0, None)], "b": [(2.5, None), (3.0, 0.8), (1.0, None)]}
    assert "latency ≤ 2.5 ms" in capsys.readouterr().out


def test_limits_are_quartiles_of_the_fronts_unless_given(space: SearchSpace) -> None:
    run = runs.RUNS / "one"
    for name in ("a", "b"):
        points = points_at(space, (0.4, 1.0))
        points[0].update(latency_ms=5.0, num_params=4_000_000)
        points[1].update(latency_ms=1.0, num_params=2_000_000)
        write_search(run / f"search-{name}", name, points)
    limits = [(cell["metric"], cell["limit"]) for cell in result_of("one")["groups"]["a"]["best_accuracy"]]
    sizes = [("num_params", limit) for limit in (2.5e6, 3e6, 3.5e6)]
    assert limits == [("latency_ms", 2.0), ("latency_ms", 3.0), ("latency_ms", 4.0), *sizes]


# ---- what is read


def test_slimming_without_evaluations_counts_its_frontiers(space: SearchSpace) -> None:
    run = runs.RUNS / "one"
    add_search(run, space)
    result = read_json(run / "search/result.json")
    points = result["trajectory"]
    actions = [len(space.slim(space.from_json(p["arch"]))) for p in points]
    write_json(run / "search/result.json", {**result, "num_images": NUM_IMAGES, "num_evaluations": 1 + sum(actions)})
    write_json(run / "search/config.json", {})
    search = read_search(run / "search")
    assert search.evaluations[:3].tolist() == [1, 1 + actions[0], 1 + actions[0] + actions[1]]
    assert search.evaluations[-1] == 1 + sum(actions)
    assert (len(search.points), search.minutes_at) == (len(points), None)


def test_what_races_dropped_counts_as_evaluated(space: SearchSpace) -> None:
    run = runs.RUNS / "one"
    points = [{**p, "num_asked": n} for p, n in zip(points_at(space, (0.6, 1.0), (0.6, 2.0)), (1, 9, 15), strict=True)]
    write_search(run / "search-raced", "slimming", points, num_dropped=12)  # 0, 0.5, 1
    write_search(run / "search-other", "other", points_at(space, (0.6, 1.0)))  # 0, 0.5
    result = result_of("one")
    assert result["evaluations_to_reach"]["slimming"]["other"]["values"] == [9.0]
    assert result["groups"]["slimming"]["num_evaluations"]["values"] == [15.0]
    assert result["groups"]["slimming"]["searches"][0]["hypervolume"]["evaluations"] == [1.0, 9.0, 15.0]


def test_races_from_before_that_was_recorded_count_their_frontiers(space: SearchSpace) -> None:
    points = points_at(space, (0.6, 1.0), (0.6, 2.0))
    steps = [{**p, "step": i, "action": None, "pareto": True} for i, p in enumerate(points[::2])]
    changes: dict[str, Any] = {"trajectory": steps, "num_evaluations": 3, "num_dropped": 200}
    search = read_search(write_search(runs.RUNS / "one/search", "slimming", points, **changes))
    assert (search.points, search.evaluations.tolist()) == (tuple(steps), [1, 1 + len(space.slim(space.largest))])
    few = read_search(write_search(runs.RUNS / "one/search", "slimming", points, **{**changes, "num_dropped": 2}))
    assert few.evaluations.tolist() == [1, 5], "never more than there were"
    none = read_search(write_search(runs.RUNS / "one/search", "slimming", points, **{**changes, "num_dropped": 0}))
    assert (none.points, none.evaluations.tolist()) == (tuple(points), [1, 2, 3])


def test_a_search_without_times_has_no_minutes(space: SearchSpace) -> None:
    run = runs.RUNS / "one"
    add_strategy(run, space, "random", 0, budget=4)
    untimed = [{k: v for k, v in p.items() if k != "seconds_since_start"} for p in points_at(space, (0.6, 1.0))]
    write_search(run / "search-old", "old", untimed)
    result = result_of("one")
    assert result["minutes_to_reach"]["old"]["random"]["values"] == []
    assert result["evaluations_to_reach"]["old"]["old"]["values"] == [2.0]


def test_a_run_stands_for_its_finished_searches(space: SearchSpace, capsys: pytest.CaptureFixture[str]) -> None:
    run = runs.RUNS / "one"
    kept = [add_strategy(run, space, "random", seed, budget=2) for seed in range(2)]
    write_json(run / "search-begun/config.json", {})
    assert [search.folder for search in find_searches(["one"])] == kept
    assert f"{run}/search-begun has not finished: left out" in capsys.readouterr().out
    assert [search.folder for search in find_searches([])] == kept
    assert [search.folder for search in find_searches([str(kept[1]), "one", f"{kept[0]}/"])] == kept[::-1]


def test_without_any_search(runs_folder: Path) -> None:
    with pytest.raises(UserError, match=r"no run under runs/ has search\*/result\.json; make it with: python -m nas"):
        find_searches([])
    with pytest.raises(UserError, match="there is no run or search runs/nowhere"):
        find_searches(["nowhere"])


def test_groups(space: SearchSpace) -> None:
    run = runs.RUNS / "one"
    seeds = (("tpe", 0), ("gp", 0), ("tpe", 1))
    searches = [read_search(add_strategy(run, space, strategy, seed, budget=2)) for strategy, seed in seeds]
    bigger = write_search(run / "search-big", "tpe", points_at(space, (0.6, 1.0)), budget=9)
    limited = Objective(PUBLISHED.terms, {"num_params": 2e6, "latency_ms": 0.5})
    small = write_search(run / "search-small", "gp", points_at(space, (0.6, 1.0)), budget=2, objective=limited)
    searches += [read_search(bigger), read_search(small)]
    groups = make_groups(searches, reference_of(searches))
    assert [(group.label, len(group.searches)) for group in groups] == [
        ("tpe budget 2", 2),
        ("gp", 1),
        ("tpe budget 9", 1),
        ("gp parameters ≤ 2 M latency ≤ 0.5 ms", 1),
    ]


def test_asynchronous_searches_are_no_seeds_of_sequential_ones(space: SearchSpace) -> None:
    cases = [("tpe", 0, None), ("tpe", 4, 4), ("tpe", 0, None), ("tpe", 4, 4), ("nsga2", 0, None), ("nsga2", 4, None)]
    for seed, (strategy, workers, at_once) in enumerate(cases):
        folder = runs.RUNS / f"one/search-{seed}"
        write_search(folder, strategy, points_at(space, (0.6, 1.0)), seed=seed, ray_workers=workers)
        write_json(folder / "result.json", {**read_json(folder / "result.json"), "asynchronous": at_once})
    searches = find_searches(["one"])
    groups = {g.label: [s.seed for s in g.searches] for g in make_groups(searches, reference_of(searches))}
    assert groups == {"tpe": [0, 2], "tpe asynchronous 4": [1, 3], "nsga2": [4, 5]}


def test_searches_that_began_with_other_archs_are_no_seeds(space: SearchSpace) -> None:
    for seed, digest in enumerate(("a" * 64, "b" * 64)):
        folder = runs.RUNS / f"one/search-{seed}"
        write_search(folder, "predictor", points_at(space, (0.6, 1.0)), seed=seed, seed_archs_sha256=digest)
    searches = find_searches(["one"])
    labels = [group.label for group in make_groups(searches, reference_of(searches))]
    assert labels == ["predictor seed-archs aaaaaa", "predictor seed-archs bbbbbb"]


def test_slimming_has_no_seeds(space: SearchSpace) -> None:
    folders = [
        write_search(runs.RUNS / f"one/search-{seed}", "slimming", points_at(space, (0.6, 1.0)), seed=seed)
        for seed in range(2)
    ]
    searches = [read_search(folder) for folder in folders]
    assert [group.label for group in make_groups(searches, reference_of(searches))] == [
        f"slimming ({folder})" for folder in folders
    ]


def test_a_repeated_seed_is_a_group_of_its_own(space: SearchSpace) -> None:
    folders = [
        write_search(runs.RUNS / f"one/search-{i}", "tpe", points_at(space, (0.6, 1.0)), seed=seed)
        for i, seed in enumerate((0, 1, 0))
    ]
    searches = [read_search(folder) for folder in folders]
    groups = make_groups(searches, reference_of(searches))
    assert [[s.seed for s in group.searches] for group in groups] == [[0, 1], [0]]
    assert [group.label for group in groups] == [f"tpe ({folders[0]})", f"tpe ({folders[2]})"]


# ---- the reference point


def test_mes_of_the_largest_is_the_tables_if_no_search_evaluated_it(space: SearchSpace) -> None:
    make_table(space).save(Path("runs/tables/t.json"))
    searches, tables = [], record({"latency_ms": Path("runs/tables/t.json")})
    for name in ("a", "b"):
        points = points_at(space, (0.6, 1.0))[1:]
        folder = write_search(runs.RUNS / f"one/search-{name}", name, points, tables=tables)
        searches.append(read_search(folder))
    expected = Costs(space, {"latency_ms": make_table(space)}, PUBLISHED).one(space.largest)["mes"]
    assert reference_of(searches).mes == pytest.approx(expected)
    runs.RUNS.rename("moved")
    assert reference_of([read_search(Path("moved/one/search-a"))]).mes == pytest.approx(expected)


def test_in_two_precisions_the_reference_is_the_least_whichever_was_evaluated_first(space: SearchSpace) -> None:
    paths = {"float32": Path("runs/tables/t.json"), "int8": Path("runs/tables/i.json")}
    for precision, path in paths.items():
        make_table(space, 0.1 if precision == "int8" else 0.3).save(path)
    own = {precision: record({"latency_ms": path}) for precision, path in paths.items()}
    of, turned = recorded_tables(own), recorded_tables(dict(reversed(own.items())))
    float32, int8 = (
        {**points_at(space)[0], "precision": p, "mes": m} for p, m in (("float32", 100.0), ("int8", 300.0))
    )
    both = [(float32, int8), (int8, float32)]
    for name, points in zip("ab", both, strict=True):
        write_search(runs.RUNS / f"one/search-{name}", "random", list(points), **(of if name == "a" else turned))
    for names in (("one/search-a", "one/search-b"), ("one/search-b", "one/search-a")):
        searches = under_one_mes(find_searches([str(runs.RUNS / name) for name in names]))
        assert reference_of(searches).mes == 100.0
    only = write_search(runs.RUNS / "one/search-c", "random", [int8], tables=of["other_tables"]["int8"])
    assert reference_of([read_search(only)]).mes == 300.0


def test_the_table_must_be_the_searches_own(space: SearchSpace) -> None:
    search = read_search(write_search(runs.RUNS / "one/search", "a", points_at(space, (0.6, 1.0))[1:]))
    with pytest.raises(UserError, match=r"cannot read runs/tables/t\.json.*the MES of runs/one/search needs it"):
        reference_of([search])
    make_table(space).save(Path("runs/tables/t.json"))
    with pytest.raises(UserError, match=r"t\.json has changed since it was searched with"):
        reference_of([search])


# ---- what cannot be compared


def test_other_images_are_refused(space: SearchSpace) -> None:
    write_search(runs.RUNS / "one/search-a", "a", points_at(space))
    write_search(runs.RUNS / "one/search-b", "b", points_at(space), num_images=50)
    message = f"one/search-b: the number of search images is {NUM_IMAGES} in the one and 50 in the other; search again"
    with pytest.raises(UserError, match=message):
        compare.compare(Config(("one",)))
    assert not compare.OUT.exists()


def test_searches_by_another_mes_are_scored_by_the_first(
    space: SearchSpace, capsys: pytest.CaptureFixture[str]
) -> None:
    tables = []
    for name in ("a", "b"):
        make_table(space, 0.1 if name == "a" else 0.3).save(Path(f"{name}.json"))
        tables.append(record({"latency_ms": Path(f"{name}.json")}))
    run, points = runs.RUNS / "one", points_at(space, (0.6, 1.0))
    small = Objective.of(latency_ms=1.0, num_params=2.0)
    write_search(run / "search-a", "tpe", points, tables=tables[0])
    write_search(run / "search-b", "tpe", points, tables=tables[0], objective=small)
    write_search(run / "search-c", "tpe", points, tables=tables[1])
    first, *others = under_one_mes(find_searches(["one"]))
    assert list(first.points) == points
    own = Costs(space, {"latency_ms": make_table(space, 0.1)}, PUBLISHED)
    for search in others:
        for scored in search.points:
            assert scored.items() >= own.one(space.from_json(scored["arch"])).items()
        assert [p["accuracy"] for p in search.points] == [p["accuracy"] for p in points]
    assert "all are scored by the MES and tables of runs/one/search-a" in capsys.readouterr().out
    labels = list(result_of("one")["groups"])
    digests = [table["latency_ms"]["sha256"][:6] for table in tables]
    assert labels == [
        f"tpe α parameters 0.5 table of latency {digests[0]}",
        f"tpe α parameters 2.0 table of latency {digests[0]}",
        f"tpe α parameters 0.5 table of latency {digests[1]}",
    ]
    Path("a.json").unlink()
    with pytest.raises(UserError, match=r"cannot read a\.json.*; the MES of runs/one/search-a needs it"):
        under_one_mes(find_searches(["one"]))


def test_a_search_that_evaluated_nothing(space: SearchSpace) -> None:
    folder = write_search(runs.RUNS / "one/search", "a", points_at(space))
    write_json(folder / "result.json", {**read_json(folder / "result.json"), "evaluations": []})
    with pytest.raises(UserError, match="runs/one/search has evaluated nothing; remove it, or name the searches"):
        read_search(folder)


def test_runs_are_comparable_if_their_supernets_are_the_same_file(space: SearchSpace) -> None:
    new_run("same")
    new_run("other", b"other weights")
    new_run("gone")
    (runs.RUNS / "gone/supernet/supernet.safetensors").unlink()
    one, same, other, gone = (
        write_search(runs.RUNS / name / "search", name, points_at(space)) for name in ("one", "same", "other", "gone")
    )
    check_comparable(find_searches([str(one), str(same)]))
    recorded = write_search(runs.RUNS / "gone/search-b", "b", points_at(space), supernet_sha256=sha256(b"weights"))
    check_comparable(find_searches([str(one), str(recorded)]))
    with pytest.raises(UserError, match="runs/one/search with runs/other/search: the supernet's sha256 is"):
        check_comparable(find_searches([str(one), str(other)]))
    with pytest.raises(UserError, match=r"unknown: .*runs/gone/supernet/supernet\.safetensors is missing in the other"):
        check_comparable(find_searches([str(one), str(gone)]))


def test_another_space_is_refused(space: SearchSpace) -> None:
    make_run(runs.RUNS / "big", image_size=64)
    folders = [write_search(runs.RUNS / run / "search", run, points_at(space)) for run in ("one", "big")]
    with pytest.raises(UserError, match=r"the space is .* at 32 px, 10 classes in the one and .* at 64 px, 10 classes"):
        compare.compare(Config(tuple(map(str, folders))))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("nowhere",), "there is no run or search runs/nowhere; give runs, or folders like"),
        (("runs/one/supernet",), "runs/one/supernet has not finished"),
        (("runs/",), "runs is neither a run nor a search of one"),
        (("runs/one/search-begun",), "go on with python -m nas.search --resume --run runs/one --name begun"),
        (("one",), "only runs/one/search-tpe-0 is there to compare; search again with another --strategy or --seed"),
    ],
)
def test_bad_names(space: SearchSpace, names: tuple[str, ...], message: str) -> None:
    add_strategy(runs.RUNS / "one", space, "tpe", 0, budget=2)
    write_json(runs.RUNS / "one/search-begun/config.json", {})
    with pytest.raises(UserError, match=message):
        compare.compare(Config(names))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"evaluations": [{"accuracy": 0.5}]}, "evaluations.0 has no mes"),
        ({"evaluations": [{"accuracy": 0.5, "mes": 0, "num_params": 5}]}, "evaluations.0.mes is 0"),
        ({"evaluations": [{"accuracy": None, "mes": 1, "num_params": 5}]}, "evaluations.0.accuracy is None"),
        ({"evaluations": 3}, "evaluations is 3, not a valid list"),
    ],
)
def test_a_result_that_is_none_of_this_version(space: SearchSpace, changes: dict[str, Any], message: str) -> None:
    folder = write_search(runs.RUNS / "one/search", "a", points_at(space))
    write_json(folder / "result.json", {**read_json(folder / "result.json"), **changes})
    with pytest.raises(UserError, match=rf"result\.json is not of this version \(.*{message}.*\)"):
        read_search(folder)


def test_a_latency_limit_needs_latencies(space: SearchSpace) -> None:
    for name in ("a", "b"):
        points = [{k: v for k, v in p.items() if k != "latency_ms"} for p in points_at(space)]
        write_search(runs.RUNS / f"one/search-{name}", name, points, objective=Objective.of(num_params=0.5), tables={})
    assert [c["metric"] for c in result_of("one")["groups"]["a"]["best_accuracy"]] == ["num_params"]
    with pytest.raises(UserError, match="--max-latency-ms 2 needs latencies; search with a --table"):
        compare.compare(Config(("one",), max_latency_ms=(2.0,)))


@pytest.mark.parametrize(
    ("points", "message"),
    [
        ({}, "entry is {}, not a valid list; give a list of objects with label, accuracy and mes"),
        ([3], "entry.0 is 3, not a valid Point"),
        ([{"label": "a", "accuracy": 0.5}], "entry.0 has no mes"),
        ([{"label": "a", "accuracy": 80, "mes": 9}], "entry.0.accuracy is 80.*; give a number from 0 to 1"),
        ([{"accuracy": 0.8, "mes": 9}], "entry.0 has no label"),
    ],
)
def test_bad_points(tmp_path: Path, points: Any, message: str) -> None:
    write_json(tmp_path / "points.json", points)
    with pytest.raises(UserError, match=message):
        compare.read_points(str(tmp_path / "points.json"))


# ---- what is written and shown


def test_page_and_text(space: SearchSpace, capsys: pytest.CaptureFixture[str]) -> None:
    run = runs.RUNS / "one"
    for seed in range(2):
        add_strategy(run, space, "tpe", seed, budget=5)
    write_search(run / f"search-{EVIL.replace('/', '')}", f"{EVIL} x", points_at(space, (0.6, 1.0)))
    write_json(Path("points.json"), [{"label": f"pruned {EVIL}", "accuracy": 0.7, "mes": 300.0, "num_params": 5}])
    main(["one", "--points", "points.json", "--out", "here"])
    out = capsys.readouterr().out
    for words in ("Hypervolume", "± ", "Evaluations to the mean final hypervolume of each", "of tpe", "wrote here/"):
        assert words in out
    html = Path("here/comparison.html").read_text(encoding="utf-8")
    assert html.count('<div id="') == 3  # over evaluations, over time, fronts
    assert EVIL not in html
    assert "pruned &lt;script>" not in html and "pruned &lt;script&gt;" in html
    assert "http-equiv" in html and 'src="http' not in html
    assert [p["label"] for p in read_json(Path("here/comparison.json"))["points"]] == [f"pruned {EVIL}"]


def test_default_folder_is_named_after_the_run_and_strategies(space: SearchSpace) -> None:
    for strategy in ("tpe", "gp"):
        add_strategy(runs.RUNS / "one", space, strategy, 0, budget=2)
    folder = compare.compare(Config(("one",)))
    assert folder == Path("runs/compare/one-gp-tpe")
    assert runs.find_run(None, "search*/result.json", "") == runs.RUNS / "one"  # and is not taken for a run
