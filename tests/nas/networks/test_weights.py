"""What is said, and what is asked, of a checkpoint that does not tell how its images were normalized."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from nas.networks.weights import normalization
from search_spaces import UserError
from search_spaces.command.files import write_json

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALVES = ((0.5,) * 3, (0.5,) * 3)


def of(folder: Path, mean: tuple[float, ...] = (), std: tuple[float, ...] = ()) -> Any:
    return normalization("vit_tiny_patch16_224", folder / "w.safetensors", mean, std, ("--mean", "--std"))


def test_what_is_given_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_config(tmp_path)
    assert of(tmp_path, *IMAGENET) == IMAGENET
    assert not capsys.readouterr().out


def test_what_is_assumed_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert of(tmp_path) == HALVES
    assert "assumed to have mean (0.5, 0.5, 0.5)" in (said := capsys.readouterr().out) and "give --mean and" in said


def write_config(folder: Path, architecture: str = "vit_tiny_patch16_224", mean: Any = IMAGENET[0]) -> None:
    config = {"mean": mean, "std": IMAGENET[1], "input_size": [3, 224, 224]}
    write_json(folder / "config.json", {"architecture": architecture, "pretrained_cfg": config})


def test_a_config_beside_the_weights_tells(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_config(tmp_path)
    assert of(tmp_path) == IMAGENET
    assert "config.json says" in capsys.readouterr().out


@pytest.mark.parametrize("wrong", [{"architecture": "resnet18"}, {"mean": [0.5]}, {"mean": "0.5"}, {"mean": None}])
def test_a_config_of_something_else_does_not(tmp_path: Path, wrong: dict[str, Any]) -> None:
    write_config(tmp_path, **wrong)
    assert of(tmp_path) == HALVES


@pytest.mark.parametrize(("mean", "std"), [((0.5,), (0.5,)), (HALVES[0], ()), ((), HALVES[1])])
def test_three_numbers_each_are_asked_for(tmp_path: Path, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    with pytest.raises(UserError, match=r"--mean and --std are \d and \d numbers; give 3 each"):
        of(tmp_path, mean, std)
