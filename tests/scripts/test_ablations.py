from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch

from nas import runs
from nas.evaluation.evaluator import Evaluator
from nas.evaluation.racing import Finish
from nas.networks.inherit import load_supernet
from nas.runs import load_run_data
from nas.searching.search import Config as SearchConfig
from scripts import ablations
from scripts.ablation import networks
from scripts.ablations import Config
from search_spaces import Arch, UserError, get_space, macs, num_params
from search_spaces.command.files import read_json
from search_spaces.structure.fvcore_macs import fvcore_macs
from supernet import Supernet
from tests.nas.tiny import tiny_space

CONFIG = Config(run="r", levels=1, num_random=1, samples=5)
FOLDER = Path("runs/r/ablations")


def invented(self: Evaluator, base: Arch, archs: Sequence[Arch], *precision: object) -> list[float]:
    """Accuracies that fall with the size, in no time."""
    return [0.9 - 5e3 / num_params(self.space, arch) for arch in archs]


def raced(
    self: Evaluator, base: Arch, archs: Sequence[Arch], gains: Sequence[float], *precision: object
) -> list[Finish]:
    """Of which none is dropped."""
    return [Finish(accuracy, self.num_images) for accuracy in invented(self, base, archs)]


@pytest.mark.heavy
def test_all_parts_from_one_supernet(
    supernet: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Evaluator, "accuracies", invented)
    monkeypatch.setattr(Evaluator, "race", raced)
    monkeypatch.setattr(ablations, "measured_ms", lambda models, *_: dict.fromkeys(models, 1.0))
    ablations.ablations(CONFIG)
    result = read_json(FOLDER / "result.json")
    joint, shallow = result["curves"]["joint"], result["curves"]["depth and width"]
    assert {p["action"]["choice"].partition(".")[0] for p in shallow[1:]} <= {"present", "attention", "width"}
    assert "expansion" in {p["action"]["choice"].partition(".")[0] for p in joint[1:]}
    largest = joint[0]["num_params"]
    for level, point in enumerate(result["levels"]):
        rows = {row["method"]: row for row in result["table5"] if row["level"] == level}
        assert len(rows) == 6 and rows["joint"]["num_params"] == point["num_params"]
        for method, row in rows.items():
            assert row["latency_ms"] > 0 and 0 <= row["accuracy"] <= 1 and row["num_params"] < largest
            if "pruned" in method:
                assert row["num_params"] <= point["num_params"]
        assert [row["alphas"] for row in result["table6"] if row["level"] == level] == [[1, 0.5], [1, 1], [0.5, 1]]
    levels = [point["latency_ms"] for point in result["levels"]]
    for network in result["random"]:
        assert network["latency_ms"] == pytest.approx(levels[network["level"]], rel=ablations.NEAR)
    page = (FOLDER / "ablations.html").read_text()
    assert "Table 5" in page and "random" in page
    assert "largest, pruned by Taylor" in capsys.readouterr().out
    assert len(list(FOLDER.glob("search-*/result.json"))) == len(ablations.ALPHAS) + 1
    assert not list(Path("runs/r").glob("search*")), "which the run's newest search is taken from"

    def fail(*_: object) -> None:
        pytest.fail("evaluated again")

    monkeypatch.setattr(Evaluator, "accuracies", fail)
    monkeypatch.setattr(networks, "accuracy", fail)
    ablations.ablations(CONFIG)
    again = read_json(FOLDER / "result.json")
    assert again["table6"] == result["table6"] and again["random"] == result["random"]
    with pytest.raises(UserError, match="--table gives 2 tables, the ablations are of one device; give one"):
        ablations.ablations(Config(run="r", table=("a=x.json", "b=y.json")))
    with pytest.raises(UserError, match="levels was 1, now 3"):
        ablations.ablations(Config(run="r", levels=3, num_random=1, samples=5))


@pytest.mark.usefixtures("supernet")
def test_networks_of_no_known_family_are_pruned_too() -> None:
    space = get_space("timm/test_resnet", 32, 3)
    supernet, data = Supernet(space).eval(), load_run_data(Path("runs/r"))
    weights = networks.Weights(supernet, data, "images", (), None, Path("known.json"))
    whole = networks.whole(weights, space.largest)
    assert (whole.num_params, whole.macs) == (num_params(space, space.largest), macs(space, space.largest))
    limit = whole.num_params // 2
    pruned = networks.pruned(weights, space.largest, "taylor", limit, ablations.CHANNELS)
    assert 0.9 * limit < pruned.num_params <= limit and pruned.macs < whole.macs
    assert fvcore_macs(pruned.model, torch.zeros(1, 3, 32, 32)) == pruned.macs


def test_networks_that_cannot_be_pruned_are_refused_before_the_searches(
    supernet: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(networks, "is_known", lambda _: False)
    monkeypatch.setattr(networks, "describe", Mock(side_effect=UserError("nothing can be narrowed")))
    monkeypatch.setattr(ablations, "search", None)
    with pytest.raises(UserError, match="nothing can be narrowed"):
        ablations.ablations(CONFIG)


def test_depth_and_width_are_all_choices_but_those_inside_of_blocks() -> None:
    assert ablations.depth_and_width(tiny_space()) == ("width", "present", "attention")


def test_all_searches_are_by_the_table_that_the_first_has_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Whichever is the newest by then, and wherever the run is."""
    asked: list[SearchConfig] = []
    table = (f"{tmp_path}/old/t.json",)

    def search(config: SearchConfig, folder: Path) -> Path:
        asked.append(config)
        if not config.resume:
            runs.begin(folder, replace(config, table=table, precision=("int8",)))
        return folder

    monkeypatch.setattr(ablations, "search", search)
    monkeypatch.setattr(ablations, "read_result", str)
    run = tmp_path / "new/run"
    for name, settings in ablations._searches(tiny_space()).items():
        ablations._searched(CONFIG, run, run / "ablations", name, settings)
    (run / "t.json").touch()
    ablations._searched(CONFIG, run, run / "ablations", "joint", {})
    first, *others, again = asked
    assert (first.table, first.precision, first.resume) == ((), (), False)
    assert {(c.table, c.precision, c.resume) for c in others} == {(table, ("int8",), False)}
    assert (again.table, again.precision, again.resume) == ((str(run / "t.json"),), ("int8",), True)


def test_networks_are_trained_on_and_known_by_all_that_they_depend_on(
    supernet: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of them: the others differ in their tensors alone."""
    run = Path("runs/r")
    weights = networks.Weights(
        load_supernet(run, torch.device("cpu")), load_run_data(run), "images", (), None, Path("known.json")
    )
    network = networks.pruned(weights, tiny_space().largest, "magnitude", 60_000)
    assert network.num_params <= 60_000 and network.num_params > 0.9 * 60_000
    found = networks.retrained(weights, Path("retrained"), network, epochs=1, seed=0)
    monkeypatch.setattr(networks, "make_trainer", None)
    assert networks.retrained(weights, Path("retrained"), network, epochs=1, seed=0) == found

    tested = Mock(return_value=0.5)
    monkeypatch.setattr(networks, "accuracy", tested)
    again = networks.pruned(weights, tiny_space().largest, "magnitude", 60_000)
    assert replace(again, model=network.model) == network and not tested.called
    networks.pruned(replace(weights, num_images=3), tiny_space().largest, "magnitude", 60_000)
    monkeypatch.setattr(networks, "default_scope", lambda _: "global")
    other = networks.pruned(weights, tiny_space().largest, "magnitude", 60_000)
    assert other.name != network.name
    assert [len(call.args[1]) for call in tested.call_args_list] == [3, len(weights.data.test)]
