"""Networks of no known family, from the flag to the recipe."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from nas.prune import main
from nas.pruning import source
from nas.pruning.recipe import FILE, Recipe, load, load_prunable, read, save, timm_recipe
from search_spaces import UserError
from search_spaces.structure import verify
from search_spaces.structure.layouts import Layouts
from search_spaces.structure.slicing import prune
from search_spaces.structure.tracing import trace
from search_spaces.timm_network.timm_models import create_timm
from tests.contracts.pruning import randomized, split
from tests.nas.tiny import export_nothing, make_images

TRAINING = ("--batch-size", "8", "--amp", "off", "--samples", "2", "--finetune-epochs", "1")
ARGS = ("--model", "test_resnet", "--image-size", "32", "--data", "images", "--dense-epochs", "1", *TRAINING)
PRUNED = Path("runs/test_resnet-images/prune/test_resnet-macs-0.5-taylor-global")


@pytest.mark.heavy
def test_a_network_is_pruned_trained_exported_and_pruned_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    make_images(Path("images"))
    main([*ARGS, "--formats", "onnx"])
    assert "test_resnet: 11 dimensions, verified by running it" in capsys.readouterr().out
    found = json.loads((PRUNED / "result.json").read_text())
    dense, pruned = (found["networks"][name] for name in ("dense", "pruned"))
    assert 0.49 <= pruned["macs"] / dense["macs"] <= 0.5
    assert found["export"]["files"]["onnx"]["same_class"] == 1.0

    monkeypatch.setattr(source, "describe", None)
    export_nothing(monkeypatch)
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


def test_what_the_network_does_not_agree_with_stays_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    def mistaken(model: torch.nn.Module, image_size: int) -> Layouts:
        found = trace(model, image_size)
        axes = {name: axes for name, axes in found.axes.items() if not name.startswith("layer1.0.bn1")}
        return replace(found, axes=axes)

    monkeypatch.setattr(verify, "trace", mistaken)
    layouts, whole = verify.describe(create_timm("--model", "test_resnet", 10, {}), 32)
    assert whole == ("layer1.0.conv1.width",) and len(layouts.sizes) == 10


def test_nothing_can_be_narrowed() -> None:
    with pytest.raises(UserError, match="nothing in Flatten can be narrowed; give another network"):
        verify.describe(torch.nn.Flatten(), 4)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--model", ".", "--image-size", "32"), "--image-size is for timm's networks; . says its own: leave it out"),
    ],
)
def test_bad_input_is_one_line(
    flags: tuple[str, ...], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        main([*TRAINING, *flags])
