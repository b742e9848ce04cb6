"""What is said, and what is asked, of a checkpoint that does not tell how its images were normalized."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from huggingface_hub import constants, is_offline_mode
from timm.layers import resample_abs_pos_embed

from nas.networks.start import load_start
from nas.networks.weights import normalization
from nas.runs.checkpoint import save_tensors
from search_spaces import UserError, get_space
from search_spaces.command import start
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


def test_a_folder_that_names_another_network_is_refused_though_its_tensors_fit(tmp_path: Path) -> None:
    space = get_space("timm/test_resnet", 32, 3)
    save_tensors(tmp_path / "model.safetensors", space.build(space.largest).state_dict(), {})
    write_config(tmp_path, "test_resnet")
    assert load_start(space, str(tmp_path))[0] == space.largest
    write_config(tmp_path, "resnet18")
    with pytest.raises(
        UserError, match=r"has the weights of resnet18, as .* says, not of test_resnet; .* --model resnet18"
    ):
        load_start(space, str(tmp_path))


def test_positions_of_another_image_size_are_resized_and_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trained = timm.create_model("test_vit", num_classes=3, img_size=160).state_dict()
    save_tensors(tmp_path / "w.safetensors", trained, {})
    network = load_start(get_space("timm/test_vit", 64, 3), str(tmp_path / "w.safetensors"))[1]
    assert "trained at another size; pos_embed and the like are resized" in capsys.readouterr().out
    expected = {**trained, "pos_embed": resample_abs_pos_embed(trained["pos_embed"], [4, 4], num_prefix_tokens=1)}
    assert all(torch.equal(tensor, expected[name]) for name, tensor in network.state_dict().items())


@pytest.mark.parametrize("of_user", [True, False])
def test_published_weights_are_downloaded_if_the_user_lets_them(of_user: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command keeps everything else from being downloaded."""
    seen: list[bool] = []

    def create(*_: Any, **__: Any) -> None:
        seen.append(is_offline_mode())
        raise RuntimeError("no connection")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv(*start.OURS)
    if of_user:
        monkeypatch.delenv(start.OURS[0])
    space = get_space("timm/test_resnet", 32, 3)
    monkeypatch.setattr("timm.create_model", create)
    why = r"HF_HUB_OFFLINE is set: unset it, or fetch" if of_user else r"\(no connection\); fetch"
    with pytest.raises(UserError, match=why):
        load_start(space, "pretrained")
    assert seen == [of_user]
