from __future__ import annotations

import io
import json
import re
import shutil
from base64 import b64decode
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import balanced_accuracy_score, confusion_matrix, top_k_accuracy_score
from torch import nn

from nas import train_supernet
from nas.data import Data
from nas.data.batches import eval_batches
from nas.evaluate import main
from nas.evaluation.accuracy import accuracy
from nas.evaluation.confusion_plot import mistakes
from nas.evaluation.quantized import quantized
from nas.inspection import evaluate as core
from nas.inspection.confusion import Confusion
from nas.inspection.page import evaluation_page
from nas.inspection.text import as_text
from nas.networks.inherit import calibration_batches, inherited, load_supernet
from nas.objective import tables
from nas.objective.mes import PUBLISHED as PUBLISHED_MES
from nas.objective.mes import Objective, Term
from nas.objective.precisions import RANGE_IMAGES
from nas.reporting.recommended import look_closer
from nas.runs import load_run_data
from nas.runs.checkpoint import save_tensors
from nas.searching.result import recorded_tables
from search_spaces import SPACES, Arch, UserError, macs, num_params
from search_spaces.command.files import sha256, write_json
from tests.nas.reporting.test_report import EVIL, Page, browse, needs_browser
from tests.nas.synthetic_baselines import WHOLE, WINNER, baselines
from tests.nas.synthetic_search import point, write_search
from tests.nas.tiny import make_table, tiny_space

SPACE = tiny_space()
CPU = torch.device("cpu")
MIDDLE = SPACE.slim(SPACE.slim(SPACE.largest)[0].arch)[0].arch
TRAIN = ("--space", "tiny", "--data", "images", "--batch-size", "8", "--amp", "off", "--search-fraction", "0.4")


@pytest.fixture(scope="module")
def whole(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a supernet, one with shared norms, a search with a winner, and the winner's weights of its own."""
    folder = tmp_path_factory.mktemp("whole")
    shutil.copytree(trained, folder, dirs_exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SPACES, "tiny", tiny_space)
        patch.chdir(folder)
        train_supernet.main([*TRAIN, "--epochs", "1", "--norm", "shared", "--run", "shared"])
    (folder / "runs/r/supernet/result.json").touch()  # the newest run
    size, found = Objective.of(num_params=0.5), {**point(SPACE, MIDDLE), "index": 0}
    winners = [{"name": "winner-1", **found}]
    write_search(folder / "runs/r/search", "slimming", [found], objective=size, tables={}, winners=winners)
    accuracies = {"init": "inherit", "start_test_accuracy": 0.4, "test_accuracy": 0.5, "minutes": 1.0}
    retrained = {"command": "python -m nas.retrain", "arch": SPACE.to_json(MIDDLE), **accuracies}
    write_json(folder / "runs/r/retrain/winner-1/result.json", retrained)
    torch.manual_seed(1)
    save_tensors(folder / "runs/r/retrain/winner-1/model.safetensors", SPACE.build(MIDDLE).state_dict(), {})
    return folder


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setitem(SPACES, "tiny", tiny_space)
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def evaluated(*argv: str, name: str = "x", run: str = "r") -> dict[str, Any]:
    main([*argv, "--run", run, "--name", name])
    found: dict[str, Any] = json.loads(Path(f"runs/{run}/evaluate/{name}.json").read_text())
    return found


def expected(arch: Arch, split: str = "search", count: int | None = None) -> float:
    images = getattr(load_run_data(Path("runs/r")), split)
    return accuracy(load_supernet(Path("runs/r"), CPU).extract(arch), images.spread(count or len(images)), 16, CPU)


# ---- what it finds


def test_bare_it_evaluates_the_extremes_on_the_search_split_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    load = core.runs.load_run_data
    with monkeypatch.context() as patch:
        patch.setattr(core.runs, "load_run_data", lambda run: replace(load(run), test=cast(Any, None)))
        main([])
    found = json.loads(Path("runs/r/evaluate/largest+smallest.json").read_text())
    assert (found["split"], found["num_images"], found["calibration_images"]) == ("search", 19, 0)
    assert found["digest"] == load_run_data(Path("runs/r")).splits.digest
    for network, arch in zip(found["networks"], (SPACE.largest, SPACE.smallest), strict=True):
        assert network["arch"] == SPACE.to_json(arch) and network["weights"] == "inherited"
        assert network["top1"]["value"] == expected(arch)
        assert (network["num_params"], network["macs"]) == (num_params(SPACE, arch), macs(SPACE, arch))
        assert np.sum(network["confusion"], axis=1).tolist() == found["class_sizes"]
        assert np.trace(network["confusion"]) / 19 == network["top1"]["value"]
        assert "latency_ms" not in network and network["top5"] is None
        assert network["mes"] == Objective.of(num_params=0.5).mes(network), "that of the run's search"
    out = capsys.readouterr().out
    assert f"{100 * expected(SPACE.largest):.2f} % (" in out
    assert "wrote runs/r/evaluate/largest+smallest.json and largest+smallest.html" in out


def test_the_test_split_on_request() -> None:
    main(["--arch", "smallest", "--split", "test"])
    found = json.loads(Path("runs/r/evaluate/smallest-test.json").read_text())
    assert found["networks"][0]["top1"]["value"] == expected(SPACE.smallest, "test")
    assert found["num_images"] == len(load_run_data(Path("runs/r")).test)


def test_some_images_and_batches_of_any_size() -> None:
    found = evaluated("--num-images", "7", "--batch-size", "3")
    assert found["num_images"] == 7
    assert found["networks"][0]["top1"]["value"] == expected(SPACE.largest, count=7)
    assert evaluated("--num-images", "1000")["num_images"] == 19


def test_winners_files_and_named_archs(folder: Path) -> None:
    Path("mine.json").write_text(json.dumps(SPACE.to_json(MIDDLE)))
    found = evaluated("--arch", "winner-1", "mine.json", "Smallest", "--arch", "largest", "winner-1")["networks"]
    assert [n["name"] for n in found] == ["winner-1", "mine", "smallest", "largest"]
    archs = (MIDDLE, MIDDLE, SPACE.smallest, SPACE.largest)
    assert [n["arch"] for n in found] == [SPACE.to_json(arch) for arch in archs]
    assert found[0]["confusion"] == found[1]["confusion"]


def test_retrained_weights() -> None:
    only = evaluated("--retrained", "winner-1")["networks"]
    both = evaluated("--retrained", "winner-1", "--arch", "winner-1")["networks"]
    assert [(n["name"], n["weights"]) for n in only] == [("winner-1 retrained", "retrained")]
    assert [n["name"] for n in both] == ["winner-1", "winner-1 retrained"]
    torch.manual_seed(1)
    model = SPACE.build(MIDDLE).eval()
    assert only[0]["top1"]["value"] == accuracy(model, load_run_data(Path("runs/r")).search, 16, CPU)
    assert both[1]["confusion"] == only[0]["confusion"] and both[0]["top1"]["value"] == expected(MIDDLE)


def test_examples_are_images_of_the_split_with_what_was_answered() -> None:
    found = evaluated("--arch", "largest", "smallest")
    images = load_run_data(Path("runs/r")).search
    seen = [np.asarray(images.image(i).convert("RGB").resize((16, 16)), dtype=float) for i in range(len(images))]
    for network in found["networks"]:
        right = round(network["top1"]["value"] * len(images))
        assert [len(network[kind]) for kind in ("right", "wrong")] == [min(6, right), min(6, len(images) - right)]
        for kind in ("right", "wrong"):
            for example in network[kind]:
                assert (example["label"] == example["answer"]) == (kind == "right")
                assert network["confusion"][example["label"]][example["answer"]] and 0 < example["chance"] <= 1
                photo = np.asarray(Image.open(io.BytesIO(b64decode(example["jpeg"]))), dtype=float)
                nearest = np.argmin([np.abs(photo - image).mean() for image in seen])
                assert images.labels[nearest] == example["label"]


def test_norms_are_recalibrated_where_the_supernet_shares_them(capsys: pytest.CaptureFixture[str]) -> None:
    run = Path("runs/shared")
    data, supernet = load_run_data(run), load_supernet(run, CPU)
    by_default = evaluated("--arch", "smallest", run="shared")
    assert by_default["calibration_images"] == len(data.train)
    assert "norms recalibrated on 29 images" in capsys.readouterr().out
    for count, found in (
        (len(data.train), by_default),
        (5, evaluated("--arch", "smallest", "--calibration-images", "5", run="shared")),
    ):
        model = inherited(supernet, SPACE.smallest, calibration_batches(data.train, 16, count, CPU))
        assert found["networks"][0]["top1"]["value"] == accuracy(model, data.search, 16, CPU)
        assert found["calibration_images"] == count
    fails(
        "--calibration-images is 0, but the supernet's norms are shared", "--run", "shared", "--calibration-images", "0"
    )


def test_latency_and_mes_by_the_newest_table_that_fits(capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree("runs/r/search")
    table = make_table(SPACE)
    table.save(Path("runs/tables/t.json"))
    make_table(tiny_space(image_size=32)).save(Path("runs/tables/other.json"))
    found = evaluated("--arch", "smallest")
    (network,) = found["networks"]
    latency = table.latency_ms(SPACE, SPACE.smallest)
    assert network["latency_ms"] == latency
    assert network["mes"] == pytest.approx(100 / latency * (3e6 / num_params(SPACE, SPACE.smallest)) ** 0.5)
    assert found["tables"]["latency_ms"]["path"] == "runs/tables/t.json"
    assert "from runs/tables/t.json" in capsys.readouterr().out and found["table_warnings"] == []


def test_a_busy_table_is_named_in_the_terminal_the_file_and_the_page(capsys: pytest.CaptureFixture[str]) -> None:
    table = make_table(SPACE)
    replace(table, provenance=replace(table.provenance, busy=True)).save(Path("busy.json"))
    (warning,) = evaluated("--arch", "smallest", "--table", "busy.json")["table_warnings"]
    assert warning.startswith("latency: WARNING: the machine was busy when this table was measured")
    assert f"\n{warning}\n" in capsys.readouterr().out
    assert f"<strong>{warning}</strong>" in Path("runs/r/evaluate/x.html").read_text(encoding="utf-8")


def test_latency_and_mes_are_those_of_the_newest_search(capsys: pytest.CaptureFixture[str]) -> None:
    table, own = make_table(SPACE), make_table(SPACE, 0.3)
    table.save(Path("devices/phone.json"))
    own.save(Path("own.json"))
    objective = Objective((Term("latency_ms_phone", 2.0, 0.5), Term("memory_mb", 6.0, 1.0)), {"macs": 1.0})
    recorded = tables.record({"latency_ms_phone": Path("devices/phone.json")})
    points = [{**point(SPACE, MIDDLE), "index": 0, "latency_ms_phone": 1.0, "memory_mb": 1.0}]
    write_search(Path("runs/r/search-2"), "slimming", points, objective=objective, tables=recorded)
    (network,) = evaluated("--arch", "smallest")["networks"]
    assert network["latency_ms_phone"] == table.latency_ms(SPACE, SPACE.smallest)
    assert network["mes"] == pytest.approx(objective.mes(network), rel=1e-12)
    assert "MES is that of runs/r/search-2" in capsys.readouterr().out
    shutil.move("devices/phone.json", "runs/r/phone.json")  # as a run does that takes it along
    assert evaluated("--arch", "smallest")["networks"] == [network]
    (network,) = evaluated("--arch", "smallest", "--table", "own.json")["networks"]
    assert network["mes"] == pytest.approx(PUBLISHED_MES.mes(network), rel=1e-12)
    assert network["latency_ms"] == own.latency_ms(SPACE, SPACE.smallest)
    own.save(Path("runs/r/phone.json"))
    (network,) = evaluated("--arch", "smallest")["networks"]
    assert "mes" not in network and "latency_ms_phone" not in network
    assert "phone.json has changed since it was searched with" in capsys.readouterr().out


def int8_accuracy(model: nn.Module, data: Data) -> float:
    ranges = calibration_batches(data.train, 16, RANGE_IMAGES, CPU)
    return accuracy(quantized(model, ranges), data.search, 16, CPU)


def tables_in(*precisions: str) -> dict[str, Any]:
    """Of a table of each, as a search records them; those in int8 are faster."""
    paths = {precision: Path(f"{precision}.json") for precision in precisions}
    for precision, path in paths.items():
        table = make_table(SPACE, 0.1 if precision == "int8" else 0.3)
        runtime = replace(table.provenance.runtime, precision=precision)
        replace(table, provenance=replace(table.provenance, runtime=runtime)).save(path)
    return recorded_tables({precision: tables.record({"latency_ms": path}) for precision, path in paths.items()})


def test_networks_are_in_the_precision_that_they_were_searched_in(capsys: pytest.CaptureFixture[str]) -> None:
    """Of a search in two precisions: a winner's accuracy, latency and memory are of its own, others' of the first."""
    points = [
        {**point(SPACE, arch), "index": i, "precision": precision}
        for i, (arch, precision) in enumerate(((MIDDLE, "float32"), (MIDDLE, "int8")))
    ]
    winners = [{"name": f"mine-{p['precision']}", **p} for p in points]
    write_search(Path("runs/r/search-2"), "random", points, winners=winners, **tables_in("float32", "int8"))
    float32, int8, smallest = evaluated("--arch", "mine-float32", "mine-int8", "smallest")["networks"]
    assert [n["precision"] for n in (float32, int8, smallest)] == ["float32", "int8", "float32"]
    data, supernet = load_run_data(Path("runs/r")), load_supernet(Path("runs/r"), CPU)
    assert float32["top1"]["value"] == expected(MIDDLE)
    assert int8["top1"]["value"] == int8_accuracy(supernet.extract(MIDDLE), data)
    assert int8["latency_ms"] == make_table(SPACE, 0.1).latency_ms(SPACE, MIDDLE) < float32["latency_ms"]
    assert int8["memory_mb"] == float32["memory_mb"] / 4
    out = capsys.readouterr().out
    assert f", int8 simulated with ranges of {len(data.train)} images" in out
    assert re.search(r"^mine-int8 +int8 ", out, re.MULTILINE) and re.search(r"^smallest +float32 ", out, re.MULTILINE)


def test_a_winner_is_in_its_precision_whichever_search_is_newer(capsys: pytest.CaptureFixture[str]) -> None:
    """The newest search is in float32; with its winner there is no search of both."""
    for name, precision in (("search-2", "int8"), ("search-3", "float32")):
        found = {**point(SPACE, MIDDLE), "index": 0, "precision": precision}
        winners = [{"name": f"{name}-winner-1", **found}]
        write_search(Path(f"runs/r/{name}"), "random", [found], winners=winners, **tables_in(precision))
    trained = Path("runs/r/retrain/winner-1/result.json")
    write_json(trained, {**json.loads(trained.read_text()), "precision": "int8"})
    for flags in (("--arch", "search-2-winner-1"), ("--retrained", "winner-1")):
        (network,) = evaluated(*flags)["networks"]
        assert network["precision"] == "int8"
        assert network["latency_ms"] == make_table(SPACE, 0.1).latency_ms(SPACE, MIDDLE)
        assert "MES is that of runs/r/search-2\n" in capsys.readouterr().out
    assert evaluated("--arch", "search-3-winner-1")["networks"][0]["precision"] == "float32"
    shutil.rmtree("runs/r/evaluate")
    of = "search-2-winner-1 was searched in int8, and runs/r/search-3 is in float32; give a --search of that"
    fails(of, "--arch", "search-2-winner-1", "--search", "search-3")
    fails(of, "--arch", "search-2-winner-1", "search-3-winner-1")
    write_search(Path("runs/r/search-4"), "random", [found], **tables_in("int8"))
    replace(baselines(WHOLE, WINNER), search="search-2").write(Path("runs/r"))
    look_closer(Path("runs/r"))
    assert "MES is that of runs/r/search-2\n" in capsys.readouterr().out


def test_an_int8_file_is_asked_for_its_own_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a table in int8 all networks are in int8: their logits are those of the quantized network."""
    table = make_table(SPACE)
    runtime = replace(table.provenance.runtime, precision="int8")
    replace(table, provenance=replace(table.provenance, runtime=runtime)).save(Path("int8.json"))
    seen: list[core.Network] = []

    def look(networks: Any, images: Any, *more: Any) -> Any:
        seen.extend(networks)
        return original(networks, images, *more)

    original = core.look
    monkeypatch.setattr(core, "look", look)
    found = evaluated("--retrained", "winner-1", "--table", "int8.json")
    data, (network,) = load_run_data(Path("runs/r")), seen
    torch.manual_seed(1)
    model = SPACE.build(MIDDLE).eval()
    ranges = calibration_batches(data.train, 16, RANGE_IMAGES, CPU)
    assert torch.equal(network.model(ranges[0]), quantized(model, ranges)(ranges[0]))
    assert not torch.equal(network.model(ranges[0]), model(ranges[0]))
    assert found["networks"][0]["precision"] == "int8" and found["range_images"] == len(data.train)
    weights = Path("runs/r/retrain/winner-1/model.safetensors")
    assert found["networks"][0]["weights_sha256"] == sha256(weights)


def test_again_it_overwrites_with_the_same() -> None:
    main(["--arch", "largest"])
    paths = [Path("runs/r/evaluate/largest.json"), Path("runs/r/evaluate/largest.html")]
    before = [path.read_bytes() for path in paths]
    paths[0].write_text("old")
    main(["--arch", "largest", "--num-workers", "1"])
    assert [path.read_bytes() for path in paths] == before
    assert len(list(Path("runs/r/evaluate").iterdir())) == 2


def test_corrupt_images_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes, labels = evaluated()["class_sizes"], load_run_data(Path("runs/r")).search.labels
    monkeypatch.setattr(core, "eval_batches", corrupt(first=1))
    found = evaluated()
    assert found["num_images"] == 18
    assert found["class_sizes"] == [size - (i == labels[0]) for i, size in enumerate(sizes)]


def corrupt(first: int) -> Callable[..., Iterator[tuple[torch.Tensor, torch.Tensor]]]:
    """`eval_batches` of images of which the first cannot be read."""

    def batches(*arguments: Any) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for images, labels in eval_batches(*arguments):
            labels[:first] = -1
            yield images, labels

    return batches


# ---- the figures


def tally(num_classes: int, count: int, right: float = 2.0) -> tuple[Confusion, np.ndarray, np.ndarray]:
    """Counts of random logits, added in two batches, their labels, and the logits."""
    generator = torch.Generator().manual_seed(num_classes)
    labels = torch.randint(num_classes, (count,), generator=generator)
    logits = torch.randn(count, num_classes, generator=generator)
    logits[torch.arange(count), labels] += right
    found = Confusion(num_classes)
    found.add(logits[:7], labels[:7])
    found.add(logits[7:], labels[7:])
    found.add(logits[:2], torch.tensor([-1, -1]))
    return found, labels.numpy(), logits.numpy()


def test_figures_are_those_of_scikit_learn() -> None:
    found, labels, logits = tally(12, 300)
    predicted = logits.argmax(axis=1)
    assert found.num_images == 300
    assert found.counts.tolist() == confusion_matrix(labels, predicted, labels=range(12)).tolist()
    assert found.top1.value == pytest.approx((labels == predicted).mean())
    assert found.top5 is not None
    assert found.top5.value == pytest.approx(top_k_accuracy_score(labels, logits, k=5))
    assert found.mean_per_class.value == pytest.approx(balanced_accuracy_score(labels, predicted))
    assert [a.value for a in found.per_class] == pytest.approx((np.diag(found.counts) / np.bincount(labels)).tolist())
    assert tally(9, 50)[0].top5 is None


def test_a_class_without_images_has_no_accuracy() -> None:
    found = Confusion(3)
    found.add(torch.eye(3)[[0, 0, 1, 2]], torch.tensor([0, 0, 0, 1]))
    assert [a.value for a in found.per_class] == [2 / 3, 0.0, None]
    assert (found.per_class[2].low, found.per_class[2].high) == (0.0, 1.0)
    assert found.mean_per_class.value == pytest.approx(1 / 3)


def test_the_interval_of_the_mean_is_that_of_top1_for_classes_of_one_size() -> None:
    found = Confusion(4)
    labels = torch.arange(4).repeat_interleave(25)
    found.add(torch.eye(4)[torch.where(torch.arange(100) % 5 == 0, 0, labels)], labels)
    assert asdict(found.mean_per_class) == pytest.approx(asdict(found.top1))


def test_the_most_frequent_mistakes_come_first() -> None:
    counts = np.array([[5, 2, 0], [3, 9, 1], [0, 0, 4]])
    assert mistakes(counts, 9) == [(1, 0, 3), (0, 1, 2), (1, 2, 1)]
    assert mistakes(counts, 1) == [(1, 0, 3)]


# ---- text and page


JPEG = "AAAA"


def result(num_classes: int, names: tuple[str, ...] = ("net",), right: float = 2.0) -> dict[str, Any]:
    """What the command writes, of random logits."""
    found, *_ = tally(num_classes, 20 * num_classes, right)
    figures = {
        "weights": "inherited",
        "precision": "int8",
        "top1": asdict(found.top1),
        "top5": found.top5 and asdict(found.top5),
        "mean_per_class": asdict(found.mean_per_class),
        "num_params": 1_000_000,
        "macs": 2_000_000,
        "memory_mb": 0.5,
        "per_class": [asdict(a) for a in found.per_class],
        "confusion": found.counts.tolist(),
        "right": [{"label": 0, "answer": 0, "chance": 0.9, "jpeg": JPEG}],
        "wrong": [{"label": 1, "answer": 0, "chance": 0.6, "jpeg": EVIL}],
    }
    return {
        "command": f"python {EVIL}",
        "run": f"a {EVIL}",
        "space": "tiny",
        "split": "search",
        "num_images": found.num_images,
        "calibration_images": 0,
        "tables": {},
        "table_warnings": [EVIL],
        "classes": [EVIL, *(f"class {i}" for i in range(1, num_classes))],
        "class_sizes": found.class_sizes.tolist(),
        "networks": [{"name": name, **figures} for name in names],
    }


def test_of_many_classes_the_terminal_shows_the_worst_and_the_best() -> None:
    few, many = result(30), result(31)
    assert all(f"\n{name} " in as_text(few) for name in few["classes"])
    lines = as_text(many).splitlines()
    shown = lines[lines.index("…") - 10 :]
    assert len(shown) == 10 + 1 + 5
    accuracies = [float(re.findall(r"([\d.]+) %", line)[0]) for line in shown if line != "…"]
    assert accuracies == sorted(accuracies)
    assert accuracies[0] == pytest.approx(100 * min(a["value"] for a in many["networks"][0]["per_class"]), abs=0.01)
    assert "images  accuracy" not in as_text(result(5, ("a", "b")))  # the page has those of several


def test_a_line_of_the_terminal_says_what_a_class_is_taken_for() -> None:
    found = result(3)
    network = found["networks"][0]
    network["confusion"][1] = [4, 5, 1]
    (line,) = (line for line in as_text(found).splitlines() if line.startswith("class 1 "))
    assert line.endswith("<script>throw Error('evil')</script><img src=http://evil.example/> (4)")


def plot_data(html: str, name: str) -> list[dict[str, Any]]:
    (data,) = re.findall(rf'data-plot="{name}">(.*)</script>', html)
    found: list[dict[str, Any]] = json.loads(data)["data"]
    return found


@pytest.mark.parametrize("num_classes", [3, 60, 61])
def test_the_page_has_every_class_of_every_network(num_classes: int) -> None:
    html = evaluation_page(result(num_classes, ("a", "b")))
    page = Page(html)
    assert len([row for row in page.rows if len(row) == 4]) == num_classes
    bars = plot_data(html, "classes")
    shown = num_classes if num_classes <= 60 else 30
    assert [trace["name"] for trace in bars] == ["a", "b"]
    assert all(len(trace["x"]) == len(trace["error_x"]["array"]) == shown for trace in bars)
    assert bars[0]["x"] == sorted(bars[0]["x"])
    for name in ("mistakes-0", "mistakes-1"):
        kinds = [trace["type"] for trace in plot_data(html, name)]
        assert kinds == (["heatmap", "heatmap"] if num_classes <= 60 else ["bar"])
    assert EVIL not in html
    sources = [attributes["src"] for tag, attributes in page.tags if tag == "img"]
    assert sources == [f"data:image/jpeg;base64,{jpeg}" for _ in "ab" for jpeg in (JPEG, EVIL)]
    assert not [a["href"] for tag, a in page.tags if "href" in a and tag != "link"]


def test_photos_say_what_they_are_and_were_taken_for() -> None:
    said = Page(evaluation_page(result(3) | {"classes": ["cat", "dog", "cow"]})).words["figcaption"]
    assert said == ["cat (90 %)", "dog, taken for cat (60 %)"]


def test_perfect_networks_have_a_page() -> None:
    for num_classes in (3, 61):
        assert "<h2>What is taken for what</h2>" in evaluation_page(result(num_classes, right=100.0))


@needs_browser
def test_renders_without_console_errors(tmp_path: Path) -> None:
    (tmp_path / "p.html").write_text(evaluation_page(result(3, ("a", "b"))), encoding="utf-8")
    dom, console = browse(tmp_path / "p.html", tmp_path / "profile")
    assert console == []
    plots = [a["id"] for _, a in Page(dom).tags if "js-plotly-plot" in (a.get("class") or "")]
    assert plots == ["classes", "mistakes-0", "mistakes-1"]
    assert len([tag for tag, _ in Page(dom).tags if tag == "img"]) == 4, "of names none was read as one"


# ---- what cannot be used


def fails(match: str, *argv: str) -> None:
    with pytest.raises(UserError, match=match) as error:
        main([*argv])
    assert "\n" not in str(error.value)
    assert not Path("runs/r/evaluate").exists()


def test_networks_that_are_not_there() -> None:
    fails("--arch winner-9 is neither a file nor one of smallest, largest, winner-1$", "--arch", "winner-9")
    fails("--arch x.json is neither a file nor one of", "--arch", "x.json")
    fails("no retrained 'winner-9'; choose from winner-1, or run nas.retrain", "--retrained", "winner-9")


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("{", "x.json is not JSON"),
        ("[1]", r"--arch x.json: arch must be a JSON object"),
        ('{"space": "efficientformerv2"}', "--arch x.json is of space efficientformerv2, and the run is of tiny; give"),
        ('{"space": "tiny", "width": [8]}', "--arch x.json: arch has no field present"),
        ("{}", "--arch x.json: arch has no field width"),
    ],
)
def test_files_that_are_no_arch(text: str, match: str) -> None:
    Path("x.json").write_text(text)
    fails(match, "--arch", "x.json")


def test_two_networks_of_one_name() -> None:
    Path("a").mkdir()
    Path("a/winner-1.json").write_text(json.dumps(SPACE.to_json(SPACE.smallest)))
    fails(
        "gives the name winner-1 to two networks; rename the file a/winner-1.json",
        "--arch",
        "winner-1",
        "a/winner-1.json",
    )


def test_flags_that_cannot_be() -> None:
    fails(r"--name is '\.\./x'; give letters", "--name", "../x")
    fails("--num-images is 0; give a number at least 1", "--num-images", "0")
    fails("--calibration-images is -1; give a number at least 0", "--calibration-images", "-1")
    fails("--split is 'train'; choose from search, test", "--split", "train")
    make_table(tiny_space(image_size=32)).save(Path("size.json"))
    fails("the table's image size is 32, not 16", "--table", "size.json")
    fails("--search search brings its own tables; leave out --table", "--search", "search", "--table", "size.json")
    fails("runs/r has no finished search search-3", "--search", "search-3")


def test_runs_that_cannot_be_evaluated() -> None:
    fails(r"no run runs/nowhere; see `ls runs`", "--run", "nowhere")
    Path("runs/r/supernet/result.json").unlink()
    fails(
        "runs/r has no supernet/result.json; make it with: python -m nas.train_supernet --resume --run r", "--run", "r"
    )


def test_data_changed_since_the_run() -> None:
    Image.new("RGB", (16, 16)).save("images/red/new.png")
    fails("images has changed since runs/r was begun")


def test_images_that_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core, "eval_batches", corrupt(first=99))
    fails("none of the 19 images can be read; see the warnings")
