"""What --backbone and --init name: networks of runs, of folders and of spaces, and the weights that they begin with."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from nas.data.splits import IMAGENET
from nas.dense.start import find_start
from nas.networks.weights import CheckpointImages
from nas.runs.checkpoint import load_tensors, save_tensors
from search_spaces import UserError, get_space
from search_spaces.command.files import read_json, write_json
from tests.nas.synthetic_run import make_run, trained_like


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run of 32 px with a retrained winner."""
    monkeypatch.chdir(tmp_path)
    space = make_run(folder := Path("runs/r"))
    place = folder / "retrain/winner-1"
    save_tensors(place / "model.safetensors", trained_like(space, space.smallest).state_dict(), {"space": space.name})
    result = {"command": "", "arch": space.to_json(space.smallest), "init": "scratch", "minutes": 1.0}
    write_json(place / "result.json", {**result, "start_test_accuracy": 0.1, "test_accuracy": 0.9})
    return folder


def test_a_winner_is_found_by_its_run_or_its_folder(run: Path) -> None:
    named, placed = find_start("r:winner-1", None, 64), find_start(str(run / "retrain/winner-1"), None, 64)
    assert named.space.image_size == 64 and named.arch == named.space.smallest == placed.arch
    assert named.digest == placed.digest is not None
    assert named.state is not None and placed.state is not None
    assert all(torch.equal(named.state[name], tensor) for name, tensor in placed.state.items())
    assert find_start(f"{os.path.relpath(run)}:winner-1", "scratch", 64).state is None


def test_a_network_of_a_space_has_fresh_weights_or_those_of_a_file(run: Path) -> None:
    space = get_space("efficientformerv2-nano", 64)
    largest, smallest = find_start(space.name, None, 64), find_start(f"{space.name}:smallest", None, 64)
    assert (largest.arch, smallest.arch) == (space.largest, space.smallest) and largest.digest is None
    weights = str(run / "retrain/winner-1")
    assert find_start(f"{space.name}:smallest", weights, 64).digest == find_start("r:winner-1", None, 64).digest
    with pytest.raises(UserError, match=r"^--init .* has the weights of no network of efficientformerv2-nano: "):
        find_start(space.name, weights, 64)


def test_images_are_normalized_as_those_of_the_weights_were(run: Path) -> None:
    halves = (0.5, 0.5, 0.5)
    write_json(run / "run.json", {**read_json(run / "run.json"), "mean": halves, "std": halves})
    places = ("r:winner-1", str(run / "retrain/winner-1"))
    assert [find_start(place, None, 64).normalization.mean for place in places] == [halves, halves]
    smallest = "efficientformerv2-nano:smallest"
    assert find_start(smallest, None, 64).normalization == IMAGENET
    assert find_start(smallest, places[1], 64).normalization.std == halves
    save_file(load_tensors(run / "retrain/winner-1/model.safetensors")[0], "others.safetensors")
    given = CheckpointImages(mean=halves, std=halves)
    assert find_start(smallest, "others.safetensors", 64).normalization == IMAGENET
    assert find_start(smallest, "others.safetensors", 64, given).normalization.mean == halves
    with pytest.raises(UserError, match=r"^--mean, --std are for --init FILE; leave them out$"):
        find_start(places[0], None, 64, given)


@pytest.mark.parametrize(
    ("backbone", "message"),
    [("r:winner-9", r"has no network 'winner-9'; choose from winner-1"), ("nowhere:s0", "nowhere")],
)
def test_what_is_not_there_is_one_line(backbone: str, message: str, run: Path) -> None:
    with pytest.raises(UserError, match=message):
        find_start(backbone, None, 64)


def test_a_network_with_a_head_is_no_backbone() -> None:
    with pytest.raises(UserError, match=r"--backbone .*\+ssdlite:smallest has a head .* network of mobileone-nano$"):
        find_start("mobileone-nano+ssdlite:smallest", None, 64)
