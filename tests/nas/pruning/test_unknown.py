"""Networks of no known family, from the flag to the recipe."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from nas.prune import main
from nas.pruning import job, unknown
from nas.pruning.child import Child, ChildFailed, ChildLate
from nas.pruning.recipe import FILE, Recipe, load, load_prunable, read, save, timm_recipe
from nas.pruning.slicing import prune
from nas.pruning.traced import Layouts, trace
from nas.pruning.unknown import describe
from search_spaces import UserError
from tests.contracts.pruning import randomized, split
from tests.nas.tiny import make_images

TRAINING = ("--batch-size", "8", "--amp", "off", "--samples", "2", "--dense-epochs", "1", "--finetune-epochs", "1")
ARGS = ("--model", "test_resnet", "--image-size", "32", "--data", "images", "--structure", "torch-pruning", *TRAINING)
PRUNED = Path("runs/test_resnet-images/prune/test_resnet-macs-0.5-taylor-global")


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch-Pruning in this process: another takes seconds to start."""
    monkeypatch.setattr(Child, "call", lambda _, function, *args: function(*args))


def answers(monkeypatch: pytest.MonkeyPatch, answer: Callable[[], Any]) -> None:
    monkeypatch.setattr(Child, "call", lambda *_: answer())


def failing(error: Exception) -> Callable[[], Any]:
    def fail() -> Any:
        raise error

    return fail


def test_a_network_is_pruned_trained_exported_and_pruned_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    make_images(Path("images"))
    main([*ARGS, "--formats", "onnx"])
    assert "test_resnet: 11 dimensions, described by Torch-Pruning and verified" in capsys.readouterr().out
    found = json.loads((PRUNED / "result.json").read_text())
    dense, pruned = (found["networks"][name] for name in ("dense", "pruned"))
    assert 0.49 <= pruned["macs"] / dense["macs"] <= 0.5
    assert found["export"]["onnx"]["same_class"] == 1.0
    assert json.loads((PRUNED / "config.json").read_text())["structure"] == "torch-pruning"

    monkeypatch.setitem(sys.modules, "torch_pruning", None)
    monkeypatch.setattr(job, "export_onnx", lambda *_: {})
    (PRUNED / "result.json").unlink()
    main(["--resume"])
    assert json.loads((PRUNED / "result.json").read_text())["accuracy"] == found["accuracy"]
    assert sum(p.numel() for p in load(PRUNED).parameters()) == pruned["num_params"]
    main(["--model", str(PRUNED), "--target", "params=0.8", "--name", "again", *TRAINING, "--formats", "onnx"])
    first, second = read(PRUNED), read(PRUNED.parent / "again")
    assert second.layouts == first.layouts
    assert all(set(second.kept[name]) <= set(first.kept[name]) for name in first.kept)


def made(folder: Path) -> Recipe:
    base = timm_recipe("test_resnet", 32, tuple("abc"), ours=True)
    model, _ = replace(base, layouts=Layouts({}, {}, {})).build()
    base = replace(base, layouts=trace(model, 32))
    model, structure = base.build()
    kept, _ = split(structure, lambda _: True)
    prune(randomized(model), structure, kept)
    save(folder, recipe := base.narrowed(structure, kept), model)
    loaded, _ = load_prunable(read(folder), folder)
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in loaded.state_dict().items())
    return recipe


def test_a_recipe_has_its_layouts(tmp_path: Path) -> None:
    recipe = made(tmp_path)
    assert read(tmp_path) == recipe


@pytest.mark.parametrize(
    "change",
    [
        {"sizes": {"conv1.width": 8}},
        {"axes": {"conv1.weight": ["none.width"]}},
        {"axes": {"none.weight": ["3"]}},
        {"attributes": {"layer1.0.none": "layer1.0.conv1.width"}},
        {"attributes": {"layer1.0.training": "layer1.0.conv1.width"}},
        {"attributes": {"layer1.0.training": "layer1.0.conv1.width + 3"}},
    ],
)
def test_damaged_layouts_are_refused(change: dict[str, Any], tmp_path: Path) -> None:
    made(tmp_path)
    raw = json.loads((tmp_path / FILE).read_text())
    raw["layouts"] |= change
    (tmp_path / FILE).write_text(json.dumps(raw))
    with pytest.raises(UserError, match=r"pruned.json describes another network than test_resnet .*; restore the file"):
        load(tmp_path)


def test_a_recipe_that_is_none(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text("[1]")
    with pytest.raises(UserError, match="is no recipe of this version"):
        read(tmp_path)


@pytest.mark.usefixtures("here")
def test_what_the_network_does_not_agree_with_stays_whole(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def mistaken(model: torch.nn.Module, image_size: int) -> Layouts:
        found = trace(model, image_size)
        axes = {name: axes for name, axes in found.axes.items() if not name.startswith("layer1.0.bn1")}
        return replace(found, axes=axes)

    monkeypatch.setattr(unknown, "trace", mistaken)
    layouts = describe("test_resnet", {}, 10, 32, 60.0)
    assert "layer1.0.conv1.width" not in layouts.sizes and len(layouts.sizes) == 10
    assert "1 of 11 stay whole, the network does not agree: layer1.0.conv1.width\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (
            failing(ChildLate("not finished after 9 s")),
            "on test_resnet: not finished after 9 s; give more with",
        ),
        (
            failing(ChildFailed("KeyError: 3")),
            r"Torch-Pruning cannot describe test_resnet \(KeyError: 3\); give",
        ),
        (lambda: Layouts({}, {}, {}), "finds nothing in test_resnet that can be pruned; known are timm's ViT"),
    ],
)
def test_what_fails_is_told(answer: Callable[[], Any], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    answers(monkeypatch, answer)
    with pytest.raises(UserError, match=message):
        describe("test_resnet", {}, 10, 32, 9.0)


def test_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unknown, "installed", lambda: False)
    with pytest.raises(UserError, match=r"needs Torch-Pruning, the extra torch-pruning; pip install torch-pruning==1"):
        describe("test_resnet", {}, 10, 32, 9.0)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ("--model", "test_resnet"),
            "test_resnet: cannot prune this ResNet; .* --structure torch-pruning tries",
        ),
        (("--model", "test_vit", "--structure", "torch-pruning"), "is for other families than that of test_vit; leave"),
        (("--model", ".", "--structure", "torch-pruning"), "--structure is for timm's networks; . says its own: leave"),
        (("--structure-limit-s", "0"), "--structure-limit-s is 0"),
    ],
)
def test_bad_input_is_one_line(
    flags: tuple[str, ...], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        main([*TRAINING, *flags])
