"""A network with weights goes all the way: fine-tuned, its parts trained, searched, retrained, exported, reported."""

from __future__ import annotations

import copy
import shutil
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

from latency_lut import build
from latency_lut.measurement.build import BuildConfig
from nas import baselines, export, finetune, report, retrain, search, train_supernet
from nas import compare as nas_compare
from nas.comparison.compare import Config as CompareConfig
from nas.data import DataConfig, load_data
from nas.data.batches import eval_batches, normalize
from nas.networks import start
from nas.networks.checkpoints import classifiers
from nas.proving.families import compare_families
from nas.proving.search import Config, find_search
from nas.reporting.verdict import verdict
from nas.runs.baselines import read_baselines
from nas.runs.checkpoint import load_tensors, save_tensors
from nas.training.recipe import StepConfig
from scripts import bench_search_peers
from scripts.search_peers.compute import winner_compute
from search_spaces import UserError, get_space, macs
from search_spaces.command.files import read_json, write_json
from supernet import Supernet, recalibrate, train_step
from tests.latency_lut.fake import SizedMachine
from tests.nas.tiny import make_images
from tests.nas.unreadable import unreadable

NAME = "test_resnet"
SPACE = f"timm/{NAME}"
SIZE = 32
ARGS = ("--batch-size", "8", "--amp", "off")
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_images(Path("images"))


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables are built and networks timed on it."""
    monkeypatch.setattr(BuildConfig, "make_backend", lambda _: SizedMachine())
    monkeypatch.setattr("nas.proving.search.backend_of", lambda _: SizedMachine())
    monkeypatch.setattr("nas.pruning.job.make_backend", lambda *_: SizedMachine())


def weights(path: Path, num_classes: int = 7, name: str = NAME) -> Path:
    save_tensors(path, timm.create_model(name, num_classes=num_classes).state_dict(), {})
    return path


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """(MACs, images) of each network that a supernet's training runs."""
    found: list[tuple[int, int]] = []

    def spied(supernet: Supernet, images: torch.Tensor, target: Any, archs: Any, *rest: Any) -> torch.Tensor:
        found.extend((macs(supernet.space, arch), len(images)) for arch in archs)
        return train_step(supernet, images, target, archs, *rest)

    monkeypatch.setattr("nas.supernets.elastic.train_step", spied)
    return found


@pytest.mark.usefixtures("machine")
def test_a_pretrained_network_goes_from_photos_to_files(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture, passes: list[tuple[int, int]]
) -> None:
    file, folder = weights(Path("resnet.safetensors")), Path("runs/r")
    of = ("--model", NAME, "--init", str(file), "--image-size", str(SIZE), "--data", "images", "--run", "r")
    finetune.main([*of, "--epochs", "3", *ARGS])
    whole = read_json(folder / "retrain/whole/result.json")
    assert "next: python -m nas.train_supernet --run r\n" in capsys.readouterr().out
    finetune.main(["--run", "r", "--resume"])
    assert "is finished: nothing to train" in capsys.readouterr().out

    train_supernet.main(["--run", "r", "--epochs", "1", *ARGS])
    settings = read_json(folder / "supernet/config.json")
    assert settings["space"] == SPACE and settings["init"] == str(folder / "retrain/whole")
    assert (settings["recipe"], settings["norm"], settings["lr"]) == ("finetune", "shared", 0.048)
    assert "largest starts with " in capsys.readouterr().out

    build.main(["--space", SPACE, "--image-size", str(SIZE), "--num-classes", "3", "--samples", "2"])
    search.main(
        ["--run", "r", "--strategy", "slimming", "--winners", "1", "--budget", "60", "--calibration-images", "8"]
    )
    assert "no latency table" not in capsys.readouterr().out  # the one that was built is found
    retrain.main(["--run", "r", "--epochs", "1", "--layer-decay", "0.9", *ARGS])
    stand_beside_baselines(folder, capsys)
    stand_beside_peers(folder, capsys, sum(num_macs * count for num_macs, count in passes))
    assert "lr decay has no effect" not in caplog.text
    export.main(["--run", "r", "--formats", "onnx", "timm"])
    assert [path.name for path in (folder / "export").iterdir()] == ["winner-1"], "neither baselines nor the whole"
    exported = read_json(folder / "export/winner-1/result.json")
    assert exported["files"]["onnx"]["same_class"] == 1 and exported["files"]["timm"]["max_abs_diff"] == 0
    source = (folder / "export/winner-1/model.py").read_text()
    assert "import timm" in source and "search_spaces" not in source
    report.main(["--run", "r"])
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "What you would have picked instead" in page
    assert "whole" in page and f"{100 * whole['test_accuracy']:.1f}" in page


def stand_beside_baselines(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of the run's winner: trained as it was, to its time, on the same images; nothing is made twice."""
    baselines.main(["--run", "r", "--samples", "2"])
    found = read_baselines(folder)
    assert found is not None and not found.missing
    named = {network.kind: network for network in found.networks}
    winner, narrowed, pruned = named["winner"], named["narrowed"], named["pruned"]
    assert (narrowed.folder, pruned.folder) == ("retrain/narrowed-winner-1", "prune/as-fast-as-winner-1")
    assert pruned.latency_ms <= winner.latency_ms < named["whole"].latency_ms
    for place in (folder / narrowed.folder, folder / pruned.folder):
        begun, winners = (read_json(where / "config.json") for where in (place, folder / "retrain/winner-1"))
        assert begun.get("finetune_epochs", begun.get("epochs")) == 1
        assert begun["layer_decay"] == 0.9
        assert [begun[f.name] for f in fields(StepConfig)] == [winners[f.name] for f in fields(StepConfig)]
    for network, name in ((winner, "winner-1"), (narrowed, "narrowed-winner-1"), (named["whole"], "whole")):
        result = read_json(folder / "retrain" / name / "result.json")
        assert network.accuracy.value == pytest.approx(result["test_accuracy"])
        assert (network.num_params, network.macs) == (result["num_params"], result["macs"])
    assert all(network.mes for network in found.networks)
    said = capsys.readouterr().out
    assert verdict(found) in said and "winner-1 is " in said

    (folder / "baselines/result.json").unlink()
    before = {path: path.stat().st_mtime_ns for path in folder.glob("*/*/model.safetensors")}
    baselines.main(["--run", "r", "--samples", "2"])
    assert read_baselines(folder) == found
    assert before == {path: path.stat().st_mtime_ns for path in before}
    baselines.main(["--run", "r", "--samples", "2"])
    assert "is finished: nothing to do" in capsys.readouterr().out

    # a second run, as it would be of another family on the same images
    shutil.copytree(folder, folder.parent / "other")
    nas_compare.main(["--winners", "r", "other", "--samples", "2", "--out", "families"])
    both = read_json(Path("families/families.json"))["networks"]
    assert {n["family"] for n in both} == {f"{SPACE} (r)", f"{SPACE} (other)"}
    by_name = {network.name: network for network in found.networks}
    for network in both:
        same = by_name[network["name"]]
        assert network["accuracy"]["value"] == same.accuracy.value
        assert (network["num_params"], network["macs"]) == (same.num_params, same.macs)
    assert "is best: its" in capsys.readouterr().out
    with pytest.raises(UserError, match="--winners compares runs: name two or more"):
        compare_families(CompareConfig(("r",), winners=True))
    info = read_json(folder.parent / "other/run.json")
    write_json(folder.parent / "other/run.json", {**info, "splits": {**info["splits"], "digest": "other"}})
    with pytest.raises(UserError, match=r"other was made with other images, or other splits, than .*r; give runs of"):
        compare_families(CompareConfig(("r", "other"), winners=True))


def stand_beside_peers(folder: Path, capsys: pytest.CaptureFixture[str], supernet_macs: int) -> None:
    """As fast as the run's winner, for as much training; nothing is made twice."""
    command = ["--run", "r", "--methods", "nas.prune", "--round-to", "1", "--images", "8", "--samples", "2"]
    bench_search_peers.main(command)
    found = read_json(folder / "bench-peers/result.json")
    whole, winner, pruned = found["networks"]
    assert [network["name"] for network in found["networks"]] == ["whole", "winner-1", "nas.prune-winner-1"]
    assert max(pruned["sessions_ms"]) <= min(winner["sessions_ms"]) < min(whole["sessions_ms"])
    (difference,) = found["differences"]
    assert difference["value"] == pytest.approx(winner["accuracy"]["value"] - pruned["accuracy"]["value"])
    count = read_json(folder / "run.json")["splits"]["train"]
    own = winner["macs"] * (count // 8) * 8  # an epoch
    assert winner_compute(find_search(Config(run="r")), "winner-1", count) == supernet_macs + own
    assert pruned["epochs"] == round((supernet_macs + own) / pruned["macs"] / (count // 8) / 8)
    said = capsys.readouterr().out
    assert "nas.prune-winner-1: " in said and "winner - this, points" in said

    before = {path: path.stat().st_mtime_ns for path in folder.glob("bench-peers/*/*.safetensors")}
    bench_search_peers.main(command)
    assert len(before) == 3 and before == {path: path.stat().st_mtime_ns for path in before}
    with pytest.raises(
        UserError, match=r"bench-peers with other settings: images was 8, now 9; round_to was 1, now 2$"
    ):
        bench_search_peers.main([*command, "--images", "9", "--round-to", "2"])
    weights = folder / "retrain/winner-1/model.safetensors"
    content, (tensors, info) = weights.read_bytes(), load_tensors(weights)
    save_tensors(weights, tensors, {**info, "trained": "anew"})
    with pytest.raises(UserError, match=r"^winner-1 has been trained anew since .*move .*nas.prune-winner-1 away$"):
        bench_search_peers.main(command)
    weights.write_bytes(content)


def test_the_supernets_largest_network_is_the_one_it_starts_from() -> None:
    data = load_data(DataConfig(data="images"))
    space = get_space(SPACE, SIZE, 3)
    arch, network, is_new = start.load_start(space, str(weights(Path("resnet.safetensors"))))
    assert arch == space.largest and is_new
    start.fit_classifier(network, data.train, SIZE, CPU)
    x = torch.randn(2, 3, SIZE, SIZE)
    before = network(x)
    start.order_units(space, network, "taylor", data.train, CPU)
    torch.testing.assert_close(network(x), before, rtol=1e-4, atol=1e-4)
    for norm in ("shared", "width"):
        supernet = Supernet(space, norm=norm).eval()
        start.take_over(supernet, arch, network)
        torch.testing.assert_close(supernet(x, arch), before, rtol=1e-4, atol=1e-4)
        part = supernet.extract(space.smallest)
        name = "layer1.0.bn1.weight" if "layer1.0.bn1.weight" in part.state_dict() else "bn1.weight"
        expected = network.state_dict()[name]
        torch.testing.assert_close(part.state_dict()[name], expected[: len(part.state_dict()[name])])


def test_the_units_that_matter_come_first() -> None:
    data = load_data(DataConfig(data="images"))
    space = get_space(SPACE, SIZE, 3)
    network: Any = space.build(space.largest)
    with torch.no_grad():
        network.get_submodule("layer2.0.conv1").weight[:-2] *= 1e-3  # the last two matter
        network.get_submodule("layer2.0.conv1").weight[-2:] *= 10
    sums = network.get_submodule("layer2.0.conv1").weight.detach().abs().sum((1, 2, 3))
    start.order_units(space, network, "magnitude", data.train, CPU)
    after = network.get_submodule("layer2.0.conv1").weight.detach().abs().sum((1, 2, 3))
    torch.testing.assert_close(after[:2].sort().values, sums[-2:].sort().values)


@pytest.mark.parametrize("order", ["taylor", "magnitude"])
def test_heads_keys_and_values_are_put_in_order(order: start.Order) -> None:
    data = load_data(DataConfig(data="images"))
    space = get_space("timm/test_vit", SIZE, 3)
    network = space.build(space.largest).eval()
    before = copy.deepcopy(network)
    start.order_units(space, network, order, data.train, CPU)
    x = torch.randn(2, 3, SIZE, SIZE)
    torch.testing.assert_close(network(x), before(x), rtol=1e-4, atol=1e-4)
    assert not torch.equal(
        network.state_dict()["blocks.0.attn.proj.weight"], before.state_dict()["blocks.0.attn.proj.weight"]
    )
    supernet = Supernet(space, norm="shared").eval()
    start.take_over(supernet, space.largest, network)


@pytest.mark.parametrize("name", [NAME, "repvit_m0_9", "dla46_c"])
def test_a_classifier_is_fitted_to_the_features_of_the_frozen_network(name: str) -> None:
    """Two classifiers, each behind a norm, or a convolution, too."""
    data = load_data(DataConfig(data="images"))
    network = timm.create_model(name, num_classes=3)
    recalibrate(network, [normalize(images, CPU) for images, _ in eval_batches(data.train, SIZE, 64)])
    before = copy.deepcopy(network.state_dict())
    start.fit_classifier(network, data.train, SIZE, CPU)
    batches = eval_batches(data.train, SIZE, 8)
    right = [(network(normalize(images, CPU)).argmax(1) == labels).float() for images, labels in batches]
    assert torch.cat(right).mean() > 0.6  # 0.33 by chance: the features are random, but of other colours
    changed = {n.rpartition(".")[0] for n, tensor in network.state_dict().items() if not torch.equal(tensor, before[n])}
    assert changed == set(classifiers(network))


def test_of_a_classifier_that_cannot_be_fitted_none_is_claimed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(start, "_is_linear", lambda _: False)
    file, data = weights(Path("resnet.safetensors")), load_data(DataConfig(data="images"))
    start.fitted_start(get_space(SPACE, SIZE, 3), str(file), data.train, CPU)
    assert "the new classifier of 3 classes begins with fresh weights" in (said := capsys.readouterr().out)
    assert "is fitted" not in said


def test_a_classifier_is_fitted_beside_a_batch_of_corrupt_images() -> None:
    train, network = load_data(DataConfig(data="images")).train, timm.create_model(NAME, num_classes=3)
    start.fit_classifier(network, unreadable(train, 150, range(128)), SIZE, CPU)
    assert network.get_parameter("fc.weight").std() > 0
    with pytest.raises(UserError, match="none of 150 training images to fit a classifier to can be read; see the warn"):
        start.fit_classifier(network, unreadable(train, 150, range(150)), SIZE, CPU)
    others = [i for i, label in enumerate(train.labels) if label != 2]
    with pytest.raises(UserError, match=r"all \d+ training images .* are of class number 2; see the warn"):
        start.fit_classifier(network, unreadable(train, len(train), others), SIZE, CPU)


def test_features_that_are_not_finite_are_one_line() -> None:
    train, network = load_data(DataConfig(data="images")).train, timm.create_model(NAME, num_classes=3)
    next(network.parameters()).data.fill_(torch.nan)
    with pytest.raises(
        UserError, match=r"features of the training images that are not finite, .*; give --init weights"
    ):
        start.fit_classifier(network, train, SIZE, CPU)


def test_a_fit_that_could_go_on_is_no_warning(
    recwarn: pytest.WarningsRecorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(start, "FIT_ITERATIONS", 1)
    data = load_data(DataConfig(data="images"))
    start.fit_classifier(timm.create_model(NAME, num_classes=3), data.train, SIZE, CPU)
    assert not [warning for warning in recwarn if "converge" in str(warning.message)]


@pytest.mark.parametrize(
    ("init", "message"),
    [
        ("none.pth", "--init none.pth: there is no none.pth; give a file of weights, a folder of ours, or pretrained"),
        ("images", "there is no images/model.safetensors"),
        ("other.safetensors", "has the weights of no network of timm/test_resnet: "),
        ("nan.safetensors", "is not finite"),
        ("pretrained", r"test_resnet cannot be had .*; HF_HUB_OFFLINE is set: unset it, or fetch timm/test_resnet"),
    ],
)
def test_what_cannot_be_started_from_is_one_line(init: str, message: str) -> None:
    weights(Path("other.safetensors"), 3, "test_efficientnet")
    broken = timm.create_model(NAME, num_classes=3).state_dict()
    broken["conv1.0.weight" if "conv1.0.weight" in broken else "conv1.weight"][0] = torch.nan
    save_tensors(Path("nan.safetensors"), broken, {})
    with pytest.raises(UserError, match=message) as error:
        start.load_start(get_space(SPACE, SIZE, 3), init)
    assert "\n" not in str(error.value)
