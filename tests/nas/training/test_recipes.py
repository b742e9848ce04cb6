"""Losses, samplers, norms and shrinking of nas.train_supernet."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from nas import retrain, search
from nas.evaluation.accuracy import accuracy
from nas.networks.inherit import calibration_batches, inherited, load_supernet
from nas.runs import load_run_data
from nas.runs.checkpoint import load_tensors
from nas.supernets import elastic as core
from nas.train_supernet import main
from nas.training.trainer import Trainer
from search_spaces import SPACES, Arch, UserError
from supernet import SAMPLERS
from supernet.sampling import Estimate, Sampler
from tests.nas.supernets.test_classification import ARGS, RUN, assert_equal_runs
from tests.nas.tiny import PUBLISHED, QuickSpace, json_lines, make_images

SPACE = QuickSpace()
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SPACES, "tiny", QuickSpace)
    monkeypatch.chdir(tmp_path)
    make_images(Path("images"))


def train(*flags: str, name: str = "r") -> dict[str, Any]:
    main([*ARGS, *PUBLISHED, *flags, "--run", name])
    result: dict[str, Any] = json.loads(Path(f"runs/{name}/supernet/result.json").read_text())
    return result


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Arch, ...]]:
    """The networks of each step."""
    steps: list[tuple[Arch, ...]] = []
    train_step = core.train_step

    def recording(supernet: Any, images: Any, target: Any, archs: Sequence[Arch], *rest: Any) -> torch.Tensor:
        steps.append(tuple(archs))
        return train_step(supernet, images, target, archs, *rest)

    monkeypatch.setattr(core, "train_step", recording)
    return steps


@pytest.mark.parametrize(
    ("loss", "sampling", "norm", "size"),
    [
        ("ce", "uniform", "shared", 2),
        ("alpha", "balanced", "shared", 4),
        pytest.param("kl", "best-up", "width", 4, marks=pytest.mark.heavy),
        ("alpha", "worst-up", "width", 4),
        ("ce", "largest", "shared", 1),
    ],
)
def test_every_recipe_trains(loss: str, sampling: str, norm: str, size: int, trained: list[tuple[Arch, ...]]) -> None:
    flags = ("--loss", loss, "--sampling", sampling, "--norm", norm, "--epochs", "1", "--drop-path", "0.2")
    result = train(*flags, "--checkpoint-activations")
    assert (result["loss"], result["sampling"], result["norm"]) == (loss, sampling, norm)
    assert max(map(len, trained)) == size and len(trained) == 5
    data, supernet = load_run_data(RUN), load_supernet(RUN, CPU)
    assert supernet.normalization == norm
    calibration = calibration_batches(data.train, 16, 2048 if norm == "shared" else 0, CPU)
    for name in ("largest", "smallest"):
        network = inherited(supernet, SPACE.named[name], calibration)
        assert accuracy(network, data.test, 16, CPU) == result["test_accuracy"][name]


def test_shared_norms_are_recalibrated_wherever_a_network_is_inherited() -> None:
    train("--norm", "shared", "--epochs", "2", "--search-fraction", "0.4")
    data, supernet = load_run_data(RUN), load_supernet(RUN, CPU)
    calibration = calibration_batches(data.train, 16, 2048, CPU)
    search.main(["--metrics", "size", "--winners", "2", "--strategy", "slimming", "--budget", "14"])
    found = json.loads((RUN / "search/result.json").read_text())
    assert found["calibration_images"] == len(data.train)
    for point in found["trajectory"]:
        network = inherited(supernet, SPACE.from_json(point["arch"]), calibration)
        assert point["accuracy"] == accuracy(network, data.search, 16, CPU)
    retrain.main(["--winners", "winner-1", "--epochs", "1", "--batch-size", "8", "--amp", "off"])
    result = json.loads((RUN / "retrain/winner-1/result.json").read_text())
    network = inherited(supernet, SPACE.from_json(result["arch"]), calibration)
    assert result["start_test_accuracy"] == accuracy(network, data.test, 16, CPU)


# ---- settings


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--sampling", "uniform"), "--loss kl learns from the largest network, which --sampling uniform does not"),
        (("--sampling", "uniform", "--loss", "ce", "--num-random", "0"), "--num-random 0 leaves --sampling uniform"),
        (
            ("--sampling", "largest", "--loss", "ce"),
            "only the largest network would be trained, and no other width's normalization",
        ),
        (("--largest-epochs", "4"), "only the largest network would be trained"),
        (("--largest-epochs", "3", "--shrink-epochs", "2"), "3.0 and --shrink-epochs 2.0 are more than the 4 epochs"),
        (("--norm", "batch"), "--norm is 'batch'; choose from width, shared"),
    ],
)
def test_settings_that_cannot_go_together(flags: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        train(*flags)
    assert not Path("runs").exists()


# ---- shrinking and estimates


def test_smaller_options_join_after_the_largest_network(trained: list[tuple[Arch, ...]]) -> None:
    train("--largest-epochs", "1", "--shrink-epochs", "2")
    steps_per_epoch = 5
    assert all(archs == (SPACE.largest,) for archs in trained[: steps_per_epoch + 1])
    smallest = [archs[min(1, len(archs) - 1)].values for archs in trained]  # that is open
    assert smallest == sorted(smallest, reverse=True) and len(set(smallest)) > 3, "step by step"
    assert all(archs[1] == SPACE.smallest for archs in trained[3 * steps_per_epoch :])
    assert all(len(set(archs)) == len(archs) for archs in trained), "each network once"


@pytest.mark.heavy
def test_resumed_equals_uninterrupted_with_shrinking_and_estimates(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = "--sampling best-up --shrink-epochs 1 --epochs 2 --drop-path 0.3"
    flags = (*recipe.split(), "--checkpoint-seconds", "0")
    train(*flags, name="whole")
    one, count = Trainer._one, 0

    def interrupted(self: Trainer, *batch: Any) -> None:
        nonlocal count
        count += 1
        if count == 4:
            raise KeyboardInterrupt
        one(self, *batch)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_one", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(*flags)
    main(["--resume", "--run", "r"])
    assert_equal_runs(RUN, Path("runs/whole"))


def test_estimates_leave_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step whose sampler has asked for losses trains as one whose sampler has not."""
    asked: dict[Arch, list[float]] = {}

    def with_estimates(ask: bool) -> Callable[..., Sampler]:
        def sample(_: Any, estimate: Estimate) -> tuple[Arch, ...]:
            for arch in (SPACE.smallest, SPACE.largest) if ask else ():
                asked.setdefault(arch, []).append(estimate(arch))
            return SPACE.largest, SPACE.smallest

        return lambda space, num_random: sample

    for name, ask in (("asked", True), ("plain", False)):
        monkeypatch.setitem(SAMPLERS, "sandwich", with_estimates(ask))
        train("--epochs", "1", "--loss", "ce", name=name)
    one, other = (load_tensors(Path(f"runs/{name}/supernet/supernet.safetensors"))[0] for name in ("asked", "plain"))
    assert all(torch.equal(one[name], tensor) for name, tensor in other.items())
    first = json_lines(Path("runs/asked/supernet/metrics.jsonl"))[0]
    losses = [sum(pair) / 2 for pair in zip(*asked.values(), strict=True)]
    assert first["loss"] == pytest.approx(losses[first["step"] - 1], rel=1e-4), "what is asked for is trained"


def test_a_shrunken_network_is_estimated_as_it_would_be_trained(
    monkeypatch: pytest.MonkeyPatch, trained: list[tuple[Arch, ...]]
) -> None:
    estimates: list[list[float]] = []

    def sample(_: Any, estimate: Estimate) -> tuple[Arch, ...]:
        estimates.append([estimate(SPACE.smallest), estimate(SPACE.largest)])
        return SPACE.largest, SPACE.smallest

    monkeypatch.setitem(SAMPLERS, "sandwich", lambda space, num_random: sample)
    train("--epochs", "2", "--shrink-epochs", "2")
    assert trained[0] == trained[1] == (SPACE.largest,), "at first, nothing smaller is open"
    assert estimates[0][0] == estimates[0][1]
    assert len(trained[-1]) == 2 and estimates[-1][0] != estimates[-1][1]
    assert len(estimates) == len(trained) - 1, "nor is there anything to choose from"


def test_all_parts_of_a_step_train_the_same_networks(trained: list[tuple[Arch, ...]]) -> None:
    """Though each would choose others by its own images."""
    train("--accumulation-steps", "2", "--sampling", "best-up", "--epochs", "1")
    assert trained[0::2] == trained[1::2] and len(set(trained)) == 5
