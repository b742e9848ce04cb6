from __future__ import annotations

import json
import random
import re
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from nas import train_supernet
from nas.evaluation.accuracy import accuracy
from nas.networks.inherit import calibration_batches, inherited, load_supernet
from nas.objective.costs import Costs
from nas.objective.mes import Objective, Term
from nas.objective.metrics import unit_of
from nas.runs import load_run_data
from nas.runs.checkpoint import load_tensors
from nas.training.trainer import Trainer
from scripts.rank_study import BARS, configure, main, missed
from scripts.ranking import networks, supernets
from scripts.ranking.networks import open_study, pick, pick_in_band
from scripts.ranking.report import markdown, rows, study_page, text
from search_spaces import SPACES, Arch, SearchSpace, UserError
from tests.nas.tiny import PUBLISHED, QuickSpace, json_lines, make_images, make_table, run_killed, tiny_space

SPACE = QuickSpace()
CPU = torch.device("cpu")
TRAIN = ("--space", "tiny", "--data", "images", "--batch-size", "8", "--lr", "0.3", "--clip-grad", "0", "--amp", "off")
SIZE = ("--metrics", "size")
ARGS = (*TRAIN, *SIZE, "--study", "s", "--epochs", "1", "--count", "5", "--calibration-images", "16")
ARMS = ("--arms", "ce/largest/shared")
STUDY = Path("runs/studies/s")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, and a study of it and of an arm of its own."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SPACES, "tiny", QuickSpace)
        patch.chdir(folder)
        make_images(Path("images"))
        train_supernet.main([*TRAIN, *PUBLISHED, "--epochs", "1", "--run", "r"])
        main([*ARGS, "--runs", "r", *ARMS, "--supernet-epochs", "1"])
    return folder


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, finished: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setitem(SPACES, "tiny", QuickSpace)
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def result(study: Path = STUDY) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((study / "result.json").read_text())
    return found


def forbid_training(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Trainer, description: str) -> None:
        raise AssertionError(f"trains {description}")

    monkeypatch.setattr(Trainer, "fit", fail)


# ---- the whole


def test_the_result_is_what_the_networks_and_supernets_give() -> None:
    found, data = result(), load_run_data(STUDY)
    archs = [SPACE.from_json(network["arch"]) for network in found["networks"]]
    assert (archs[0], archs[-1], len(set(archs))) == (SPACE.largest, SPACE.smallest, 5)
    for number, (arch, network) in enumerate(zip(archs, found["networks"], strict=True)):
        for seed in (0, 1):
            tensors, info = load_tensors(STUDY / f"scratch/{number:02}-seed{seed}/checkpoint.safetensors")
            model = SPACE.build(arch)
            model.load_state_dict({n.removeprefix("ema."): t for n, t in tensors.items() if n.startswith("ema.")})
            assert network["scratch"][seed] == accuracy(model.eval(), data.test, 16, CPU)
            assert info["step"] == 5
    run, arm = found["arms"]
    assert (run["label"], run["epochs"], list(run["norms"])) == ("kl/sandwich/width", 1, ["as trained", "recalibrated"])
    assert (arm["label"], arm["epochs"], list(arm["norms"])) == ("ce/largest/shared", 1, ["recalibrated"])
    assert arm["run"] == str(STUDY / "arms/ce-largest-shared")
    for each, path in ((run, Path("runs/r")), (arm, STUDY / "arms/ce-largest-shared")):
        supernet = load_supernet(path, CPU)
        for norms, entry in each["norms"].items():
            batches = calibration_batches(data.train, 16, 16, CPU) if norms == "recalibrated" else ()
            alone = [accuracy(inherited(supernet, arch, batches), data.test, 16, CPU) for arch in archs]
            assert entry["accuracies"] == alone
            gap = np.mean(found["networks"][-1]["scratch"]) - entry["accuracies"][-1]
            assert entry["statistics"]["smallest_gap"]["value"] == pytest.approx(gap)
            assert entry["missed"] == missed(entry["statistics"], found["noise"])
            assert len(entry["statistics"]["per_seed"]) == 2
    assert found["minutes"].keys() == {"scratch", "kl/sandwich/width", "ce/largest/shared"}


def test_a_finished_study_trains_and_evaluates_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = result()
    forbid_training(monkeypatch)
    monkeypatch.setattr(supernets, "load_supernet", lambda *_: pytest.fail("evaluates"))
    monkeypatch.setattr(networks.runs, "load_run_data", lambda *_: pytest.fail("reads images"))
    main(["--study", "s", "--runs", "r", *ARMS])
    after = result()
    assert {n: v for n, v in after.items() if n not in ("date", "command", "settings")} == {
        n: v for n, v in before.items() if n not in ("date", "command", "settings")
    }
    printed = capsys.readouterr().out
    assert "kl/sandwich/width, recalibrated" in printed and f"wrote {STUDY}/result.json" in printed
    main(["--study", "s"])
    assert [arm["label"] for arm in result()["arms"]] == [], "only what is named"


def test_another_calibration_evaluates_only_what_it_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    before = result()["arms"][0]["norms"]
    evaluated: list[int] = []
    real = supernets.right_answers
    monkeypatch.setattr(
        supernets,
        "right_answers",
        lambda models, *rest: evaluated.append(len(models)) or real(models, *rest),  # type: ignore[func-returns-value]
    )
    main(["--study", "s", "--runs", "r", "--calibration-images", "8"])
    assert evaluated == [5]
    after = result()["arms"][0]["norms"]
    assert after["as trained"] == before["as trained"]
    assert json.loads((STUDY / "config.json").read_text())["calibration_images"] == 8


def test_more_seeds_are_added(monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[str] = []
    monkeypatch.setattr(Trainer, "fit", lambda self, description: trained.append(description))
    main(["--study", "s", "--seeds", "3"])
    assert trained == [f"network {n}, seed 2 ({n + 1} of 5)" for n in range(5)]
    found = result()
    assert [len(network["scratch"]) for network in found["networks"]] == [3] * 5
    assert "ceiling, mean of 3 trainings" in text(found)


@pytest.mark.heavy
def test_killed_and_started_again_equals_uninterrupted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = STUDY.rename("runs/studies/whole")
    arguments = (*ARGS, "--seeds", "1", "--checkpoint-seconds", "0")
    run_killed(
        folder, "scripts.rank_study", *arguments, kill_at="nas.training.trainer:Trainer._one:13"
    )  # the third network
    assert [path.parent.name for path in sorted(STUDY.glob("scratch/*/result.json"))] == ["00-seed0", "01-seed0"]
    steps: list[int] = []
    real = Trainer._one
    monkeypatch.setattr(
        Trainer,
        "_one",
        lambda self, images, labels: steps.append(self.step) or real(self, images, labels),  # type: ignore[func-returns-value]
    )
    main(["--study", "s"])
    assert steps == [2, 3, 4, *range(5), *range(5)]
    for number in range(5):
        name = f"scratch/{number:02}-seed0"
        ours, theirs = (load_tensors(study / name / "checkpoint.safetensors")[0] for study in (STUDY, whole))
        assert all(torch.equal(ours[n], t) for n, t in theirs.items())
        assert [line["step"] for line in json_lines(STUDY / name / "metrics.jsonl")] == [5]
    assert [n["scratch"] for n in result()["networks"]] == [n["scratch"][:1] for n in result(whole)["networks"]]
    assert result()["noise"] is None
    assert "give --seeds 2" in text(result())


@pytest.mark.heavy
def test_ray_trains_the_same_networks(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["--data", "images", "--batch-size", "16", "--amp", "off", "--epochs", "1", "--seeds", "1", *SIZE]
    arguments += ["--count", "5", "--image-size", "32"]  # a space that Ray's processes know
    main([*arguments, "--study", "one"])
    monkeypatch.setenv("PYTHONPATH", "")
    main([*arguments, "--study", "two", "--ray-workers", "2"])
    one, two = (result(Path("runs/studies") / name) for name in ("one", "two"))
    assert one["networks"] == two["networks"]
    assert "network 0, seed 0" in (folder / "runs/studies/two/scratch/00-seed0/progress.log").read_text()


class FakeRay:
    """Runs a task when its result is asked for, in this process."""

    class exceptions:  # noqa: N801
        WorkerCrashedError = type("WorkerCrashedError", (Exception,), {})
        OutOfMemoryError = type("OutOfMemoryError", (Exception,), {})

    def __init__(self, gpus: int) -> None:
        self.resources = {"CPU": 3, **({"GPU": gpus} if gpus else {})}
        self.calls: list[Any] = []
        self.crash_at: int | None = None
        self.asked: dict[str, Any] = {}
        self.running = False

    def init(self, **options: Any) -> None:
        self.asked, self.running = options, True

    def shutdown(self) -> None:
        self.running = False

    def cluster_resources(self) -> dict[str, int]:
        return self.resources

    def remote(self, function: Any) -> Any:
        return SimpleNamespace(options=lambda **options: self._task(function, options))

    def _task(self, function: Any, options: dict[str, Any]) -> Any:
        self.asked |= options
        return SimpleNamespace(remote=lambda *arguments: lambda: function(*arguments))

    def wait(self, tasks: list[Any]) -> tuple[list[Any], list[Any]]:
        return tasks[-1:], tasks[:-1]

    def get(self, task: Any) -> Any:
        self.calls.append(task)
        if len(self.calls) == self.crash_at:
            raise self.exceptions.OutOfMemoryError
        return task()


def train_in_this_process(study: networks.Study, number: int, seed: int, cwd: str) -> str:
    networks.train_one(study, number, seed, study.data, "")
    return ""


@pytest.mark.parametrize(("workers", "gpus", "share"), [(2, 0, 0), (2, 1, 0.5), (2, 8, 1), (3, 2, 0.5)])
def test_trainings_share_what_ray_has(workers: int, gpus: int, share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    ray = FakeRay(gpus)

    def train(study: networks.Study, number: int, seed: int, cwd: str) -> str:
        """As it was trained: no need to do it again."""
        name = f"{number:02}-seed{seed}"
        Path(name).rename(STUDY / "scratch" / name)
        return ""

    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setattr(networks, "_train_task", train)
    before = result()
    for name in ("04-seed1", "02-seed1"):
        (STUDY / "scratch" / name).rename(name)
    main(["--study", "s", "--ray-workers", str(workers)])
    assert len(ray.calls) == 2 and not ray.running
    assert (ray.asked["num_cpus"], ray.asked["num_gpus"], ray.asked["max_retries"]) == (1, share, 0)
    assert result()["networks"] == before["networks"]


def test_a_process_of_ray_that_dies_loses_only_its_own_network(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = FakeRay(0)
    ray.crash_at = 2
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setattr(networks, "_train_task", train_in_this_process)
    shutil.rmtree(STUDY / "scratch")
    with pytest.raises(
        UserError, match=r"the process of network 3 has died, perhaps of memory; go on with fewer --ray-wo"
    ):
        main(["--study", "s", "--seeds", "1", "--ray-workers", "2"])
    assert not ray.running
    assert [path.parent.name for path in STUDY.glob("scratch/*/result.json")] == ["04-seed0"]


def test_a_task_of_ray_returns_what_the_user_can_mend(folder: Path) -> None:
    Image.new("RGB", (16, 16)).save("images/red/0.png")
    study = open_study(configure(["--study", "s"]))
    message = networks._train_task(study, 0, 0, str(folder))
    assert message.startswith("images has changed since runs/studies/s was begun")


# ---- which networks


class ByMes:
    """Costs whose MES is the number of parameters' inverse."""

    def __init__(self, space: SearchSpace = SPACE) -> None:
        self.costs = Costs(space, {}, Objective((Term("num_params", unit_of("num_params"), 1.0),), {}))

    def log(self, archs: list[Arch]) -> np.ndarray:
        return np.asarray(np.log(self.costs.batch(archs)["mes"]))


def test_networks_are_the_nearest_to_equally_spaced_log_mes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(networks, "POOL", 300)
    by_mes = ByMes()
    archs = pick(SPACE, by_mes.costs, 8, seed=3)
    assert archs == pick(SPACE, by_mes.costs, 8, seed=3) != pick(SPACE, by_mes.costs, 8, seed=4)
    rng = random.Random(3)
    pool = {SPACE.sample(rng) for _ in range(networks.POOL)} - {SPACE.largest, SPACE.smallest}
    scores = by_mes.log(sorted(pool, key=lambda arch: arch.values))
    low, high = by_mes.log([SPACE.largest, SPACE.smallest])
    for target, score in zip(np.linspace(low, high, 8)[1:-1], by_mes.log(archs)[1:-1], strict=True):
        assert abs(score - target) == pytest.approx(np.abs(scores - target).min())


def test_networks_of_a_band_take_about_as_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(networks, "POOL", 300)
    costs = Costs(SPACE, {"latency_ms": make_table(SPACE)}, Objective((Term("latency_ms", 1.0, 1.0),), {}))
    middle = float(np.median(costs.batch([SPACE.sample(random.Random(i)) for i in range(50)])["latency_ms"]))
    archs = pick_in_band(SPACE, costs, 5, middle, seed=3)
    latencies = costs.batch(archs)["latency_ms"]
    assert len(set(archs)) == 5 and np.all(np.abs(latencies / middle - 1) <= 0.15)
    assert list(latencies) == sorted(latencies, reverse=True)
    assert archs == pick_in_band(SPACE, costs, 5, middle, seed=3) != pick_in_band(SPACE, costs, 5, middle, seed=4)
    with pytest.raises(UserError, match=r"--band 1000 ms: 0 of \d+ random networks .*--count asks for 5; most take"):
        pick_in_band(SPACE, costs, 5, 1000, seed=3)
    with pytest.raises(UserError, match="--band 1 needs a latency"):
        pick_in_band(SPACE, ByMes().costs, 5, 1.0, seed=3)


def test_no_network_is_taken_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(networks, "POOL", 8)
    space = tiny_space()
    archs = pick(space, ByMes(space).costs, 9, seed=0)  # the extremes and 7 of at most 8
    assert len(set(archs)) == 9
    with pytest.raises(UserError, match=r"--count is 99, of tiny \d+ networks were found; give at most that"):
        pick(space, ByMes(space).costs, 99, seed=0)


def test_a_table_gives_latencies() -> None:
    shutil.rmtree(STUDY)
    make_table(SPACE).save(Path("runs/tables/tiny.json"))
    study = open_study(configure([*TRAIN, "--study", "s"]))
    assert study.config.table == "runs/tables/tiny.json"
    costs = study.networks[-1].costs
    assert costs["mes"] == pytest.approx(100 / costs["latency_ms"] / (costs["num_params"] / 3e6) ** 0.5)
    Path("runs/tables/tiny.json").unlink()
    again = open_study(configure(["--study", "s"]))
    assert again.networks == study.networks, "they are the study's, whatever becomes of the table"


# ---- mistakes


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--epochs", "2"), "cannot resume runs/studies/s with other settings: epochs was 1, now 2"),
        (("--count", "6"), "cannot resume runs/studies/s with other settings: count was 5, now 6"),
        (("--arms", "kl/sandwich"), "--arms kl/sandwich: give loss/sampling/norm, such as kl/sandwich/width"),
        (("--arms", "kl/all/width"), "--arms kl/all/width: --sampling is 'all'; choose from sandwich, "),
        (("--arms", "kl/uniform/width"), "--arms kl/uniform/width: --loss kl learns from the largest network"),
        (("--runs", "none"), "no run runs/none; see `ls runs`"),
        (("--count", "4"), "--count is 4; give a number at least 5"),
    ],
)
def test_a_mistake_says_what_to_do_before_anything_is_trained(
    flags: tuple[str, ...], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    forbid_training(monkeypatch)
    with pytest.raises(UserError, match=f"^{re.escape(message)}"):
        main(["--study", "s", *flags])


def test_runs_of_other_images_or_another_size(monkeypatch: pytest.MonkeyPatch) -> None:
    path = Path("runs/r/run.json")
    info = json.loads(path.read_text())
    forbid_training(monkeypatch)
    for change, message in (
        ({"image_size": 32}, "runs/r: its image size is 32, the study's 16; give runs of the same space and data"),
        ({"splits": {**info["splits"], "digest": "ab"}}, "runs/r: its digest of the splits is ab, the study's "),
    ):
        path.write_text(json.dumps({**info, **change}))
        with pytest.raises(UserError, match=f"^{re.escape(message)}"):
            main(["--study", "s", "--runs", "r"])


def test_no_latency_table() -> None:
    with pytest.raises(
        UserError,
        match=r"^no latency table of tiny at 16 px with 3 classes under runs/tables/; build one with python -m "
        r"latency_lut.build --space tiny --image-size 16 --num-classes 3, or give --metrics size$",
    ):
        main([*TRAIN, "--study", "new"])
    assert not Path("runs/studies/new").exists()


def test_a_result_of_another_network() -> None:
    path = STUDY / "scratch/01-seed0/result.json"
    shutil.copy(STUDY / "scratch/02-seed0/result.json", path)
    with pytest.raises(UserError, match=rf"^{path} is of another network or seed than this study's; give another"):
        main(["--study", "s"])


def test_images_that_have_changed() -> None:
    Image.new("RGB", (16, 16)).save("images/red/0.png")
    with pytest.raises(UserError, match=r"^images has changed since runs/studies/s was begun"):
        main(["--study", "s", "--seeds", "3"])


# ---- bars, and what readers see


def statistics(r: float, tau: float, smallest_gap: float) -> dict[str, Any]:
    def value(number: float) -> dict[str, float]:
        return {"value": number}

    found = {"pearson": value(r), "r2": value(r**2), "kendall": value(tau)}
    return {"all": found, "smallest_gap": value(smallest_gap)}


def test_bars() -> None:
    low = {"ceiling": {"all": {"r2": {"value": 0.80, "low": 0.5}, "kendall": {"value": 0.60, "low": 0.3}}}}
    noise = {"ceiling": {"all": {name: {"value": 0.02, "low": 0.0} for name in ("r2", "kendall")}}}
    assert missed(statistics(0.96, 0.75, 0.10), None) == []
    assert missed(statistics(0.95, 0.74, 0.11), None) == ["r²", "τ", "smallest gap"]
    assert missed(statistics(-0.99, -0.9, -0.2), None) == ["r²", "τ"], "reversed"
    assert missed(statistics(0.88, 0.58, 0), low) == [], "less than 0.03 below the ceiling"
    assert missed(statistics(0.87, 0.56, 0), low) == ["r²", "τ"]
    assert missed(statistics(0.2, 0.1, 0), noise) == ["r²", "τ"], "noise tells nothing"
    assert missed(statistics(0.96, 0.75, 0.5), None, {k: v for k, v in BARS.items() if k != "smallest_gap"}) == []
    assert BARS == {"r2": 0.91, "kendall": 0.75, "margin": 0.03, "smallest_gap": 0.10}


def test_reports_have_a_row_for_everything_and_escape_what_is_foreign() -> None:
    found = result()
    found["arms"][0]["label"] = "<b>x"
    labels = [row[0] for row in rows(found, "all", ())]
    assert labels == [
        "bars",
        "ceiling, mean of 2 trainings",
        "one training by another",
        "<b>x, as trained",
        "<b>x, recalibrated",
        "ce/largest/shared, recalibrated",
        "MACs, log",
        "parameters, log",
    ]
    lines = markdown(found).splitlines()
    in_table = [line for line in lines if line.startswith("|")]
    assert len(in_table) == len(labels) + 2 and len({line.count("|") for line in in_table[:3]}) == 1
    page = study_page(found)
    own = re.sub(r"<script>.*?</script>", "", page, count=1, flags=re.DOTALL)  # without Plotly's
    assert "<b>x" not in own and "&lt;b&gt;x" in own
    assert "://" not in own
    assert own.count("<figcaption>") == len(found["arms"]), "panels of their own, which a phone has below one another"
    data = re.findall(r'data-plot="scatter\d">(.*?)</script>', own)
    assert all('"error_y"' in each for each in data) and len(data) == len(found["arms"])
    for label in labels[5:]:
        assert label.split(",")[0] in page


def test_a_study_lies_in_one_folder_whatever_its_space_and_images_are_called() -> None:
    config = networks.Config(space="timm/resnet18", data="my photos")
    assert networks.study_folder(config) == Path("runs/studies/rank-timm-resnet18-my-photos")
