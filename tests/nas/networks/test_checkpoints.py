"""Weights of timm's networks in the shapes that people have them."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn

from nas.networks.weights import load_timm
from search_spaces import UserError
from search_spaces.structure.families.registry import prepare

State = dict[str, Tensor]


def create(name: str = "test_resnet", **options: Any) -> Any:
    return timm.create_model(name, num_classes=3, **options)


def loaded(tmp_path: Path, content: Any, network: Any = None, name: str = "test_resnet") -> State:
    """What a network of other weights has after loading the file."""
    torch.save(content, tmp_path / "w.pth")
    network = network or create(name)
    load_timm(network, name, tmp_path / "w.pth", 3, 160, "--image-size")
    state: State = network.state_dict()
    return state


def refused(tmp_path: Path, content: Any, network: Any = None, name: str = "test_resnet") -> str:
    with pytest.raises(UserError) as error:
        loaded(tmp_path, content, network, name)
    return str(error.value)


def assert_same(found: State, expected: State) -> None:
    assert found.keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in found.items())


def prefixed(prefix: str, state: State) -> State:
    return {prefix + name: tensor for name, tensor in state.items()}


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda state: state,
        lambda state: {"model": state, "epoch": 3, "args": argparse.Namespace(lr=0.1)},
        lambda state: {"model": state, "best": np.float64(0.9), "epoch": np.int64(3), "seen": np.float32(1)},
        lambda state: {"state_dict": prefixed("module.", state)},
        lambda state: {"model_state_dict": prefixed("module._orig_mod.", state), "optimizer_state_dict": {}},
        lambda state: {"model": create().state_dict(), "ema": state},
        lambda state: {"model": {"state_dict": state}},
        lambda state: {**state, "epoch": 3},
        lambda state: prefixed("module.", state) | {"n_averaged": torch.tensor(5)},
        lambda state: state | {"total_ops": torch.zeros(1), "fc.total_params": torch.zeros(1)},
        lambda state: {name: tensor for name, tensor in state.items() if "num_batches_tracked" not in name},
    ],
)
def test_wrappers_and_what_tools_add_are_seen_through(tmp_path: Path, wrapped: Callable[[State], Any]) -> None:
    state = create().state_dict()
    assert_same(loaded(tmp_path, wrapped(state)), state)


@pytest.mark.parametrize("prefix", ["model.", "backbone.", "net.encoder.", "timm_model.", "0."])
def test_a_prefix_of_all_names_is_taken_off_and_said(
    tmp_path: Path, prefix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    state = create().state_dict()
    assert_same(loaded(tmp_path, {"state_dict": prefixed(prefix, state)}), state)
    assert f"w.pth: read without the prefix {prefix}\n" in capsys.readouterr().out


def test_what_lies_beside_the_network_is_left_out_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = create().state_dict()
    content = prefixed("model.", state) | {"criterion.weight": torch.zeros(3)}
    assert_same(loaded(tmp_path, {"state_dict": content}), state)
    assert "prefix model.; left out 1 tensors without it, such as criterion.weight" in capsys.readouterr().out


def test_of_two_networks_the_averaged_one_is_read(tmp_path: Path) -> None:
    state = create().state_dict()
    assert_same(loaded(tmp_path, prefixed("model.", create().state_dict()) | prefixed("model_ema.", state)), state)


def test_an_average_of_parameters_alone_has_the_other_tensors_of_the_network(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network, average = create(), create()
    parameters = {name: parameter.detach() for name, parameter in average.named_parameters()}
    network.get_buffer("bn1.running_mean").fill_(3)
    found = loaded(tmp_path, {"model": prefixed("module.", network.state_dict()), "ema": parameters})
    assert_same(found, {**network.state_dict(), **parameters})
    assert "ema lacks " in (said := capsys.readouterr().out) and "such as bn1.num_batches_tracked, which model" in said


def test_an_average_that_is_no_network_is_passed_over_and_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As torch_ema saves it."""
    network = create()
    average = {"decay": 0.99, "shadow_params": [parameter.detach() for parameter in network.parameters()]}
    assert_same(loaded(tmp_path, {"ema": average, "model": network.state_dict()}), network.state_dict())
    assert "ema holds no network, so model is taken, which is not averaged" in capsys.readouterr().out


def test_of_two_networks_that_are_as_good_none_is_guessed(tmp_path: Path) -> None:
    state = create().state_dict()
    message = refused(tmp_path, prefixed("student.", state) | prefixed("teacher.", state))
    assert "w.pth has several networks: names begin with student. and teacher.; save one of them alone" in message


def old_swin(network: nn.Module) -> State:
    """As Microsoft publishes it: tables of indices, downsampling at the end of a stage, another classifier."""
    old = {}
    for name, tensor in network.state_dict().items():
        parts = name.replace("head.fc.", "head.").split(".")
        if parts[0] == "layers" and parts[2] == "downsample":
            parts[1] = str(int(parts[1]) - 1)
        old[".".join(parts)] = tensor
    return old | buffers(network, "relative_position_index")


def buffers(network: nn.Module, kind: str) -> State:
    return {name: buffer for name, buffer in network.named_buffers() if name.endswith(kind)}


def old_deit3(network: nn.Module) -> State:
    names = {
        name: name.replace("ls1.gamma", "gamma_1").replace("ls2.gamma", "gamma_2") for name in network.state_dict()
    }
    return {names[name]: tensor for name, tensor in network.state_dict().items()}


@pytest.mark.parametrize(
    ("name", "old"),
    [
        ("swin_tiny_patch4_window7_224", old_swin),
        ("efficientvit_m0", lambda network: network.state_dict() | buffers(network, "attention_bias_idxs")),
        ("deit3_small_patch16_224", old_deit3),
    ],
)
@pytest.mark.parametrize("prefix", ["", "model."])
def test_layouts_of_authors_become_timms(
    tmp_path: Path, name: str, old: Callable[[nn.Module], State], prefix: str
) -> None:
    network, other = create(name), create(name)
    if not name.startswith("deit3"):
        prepare(other)  # as nas.prune has it
    assert_same(loaded(tmp_path, {"model": prefixed(prefix, old(network))}, other, name), network.state_dict())


def renamed(state: State) -> State:
    """As another implementation names them: its own numbers, the kinds that PyTorch's layers have."""
    return {f"_blocks.{i}.{name.rpartition('.')[2]}": tensor for i, (name, tensor) in enumerate(state.items())}


@pytest.mark.parametrize(
    ("start", "package", "unlike", "alike"),
    [
        ("model.features.", "torchvision", "tf_efficientnet_b0", "efficientnet_b0"),
        ("_conv_stem.", "efficientnet_pytorch", "efficientnet_b0", "tf_efficientnet_b0"),
    ],
)
def test_names_of_what_computes_something_else_are_refused(
    tmp_path: Path, start: str, package: str, unlike: str, alike: str
) -> None:
    """Of equal tensors: timm's two differ in padding and in the eps of batch norm."""
    state = create(alike).state_dict()
    named = {start + f"{i}.{name.rpartition('.')[2]}": tensor for i, (name, tensor) in enumerate(state.items())}
    assert_same(loaded(tmp_path, named, name=alike), state)
    assert f"tensors of {package}'s network, whose eps" in refused(tmp_path, named, name=unlike)


def test_other_names_of_the_same_tensors_are_taken_in_order_and_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = create().state_dict()
    assert_same(loaded(tmp_path, renamed(state)), state)
    assert "w.pth: other names of the same tensors, taken in their order\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    "changed",
    [
        lambda items: items[::-1],
        lambda items: items[:-1],
        lambda items: [("fc.bias", items[0][1]), *items[1:]],
    ],
    ids=["another order", "one fewer", "one that the network knows"],
)
def test_tensors_that_are_not_the_same_are_not_taken_in_order(
    tmp_path: Path, changed: Callable[[list[tuple[str, Tensor]]], list[tuple[str, Tensor]]]
) -> None:
    state = dict(changed(list(renamed(create().state_dict()).items())))
    assert "does not fit test_resnet" in refused(tmp_path, state)


def test_images_of_other_channels_are_named(tmp_path: Path) -> None:
    message = refused(tmp_path, create(in_chans=1).state_dict())
    assert message.endswith("it takes images of 1 channels, the network 3; give weights trained on RGB images")


def test_a_backbone_without_classifier_is_named(tmp_path: Path) -> None:
    state = {name: tensor for name, tensor in create().state_dict().items() if not name.startswith("fc.")}
    assert "it has no classifier (fc.bias is missing); give weights trained on these classes" in refused(
        tmp_path, state
    )


@pytest.mark.parametrize("name", ["test_vit", "vit_tiny_patch16_224"])
def test_another_size_is_named_and_not_interpolated(tmp_path: Path, name: str) -> None:
    message = refused(tmp_path, create(name, img_size=64).state_dict(), create(name, img_size=160), name)
    assert "was trained at another size (pos_embed is (1, 17, " in message and message.endswith("with --image-size")


def test_another_network_is_named(tmp_path: Path) -> None:
    message = refused(tmp_path, create("test_efficientnet").state_dict())
    assert "does not fit test_resnet at 160 px" in message and "give that network's weights" in message
