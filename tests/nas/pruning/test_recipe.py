"""Folders that a pruned network is loaded from again."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from nas.pruning import recipe
from nas.pruning.recipe import Recipe, load, load_prunable, open_timm, read, save, timm_recipe
from search_spaces import UserError
from search_spaces.structure.base import Structure
from search_spaces.structure.slicing import prune
from tests.contracts.pruning import randomized, split

CLASSES = tuple("abc")
IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def made() -> tuple[Recipe, nn.Module, Structure]:
    base = timm_recipe("deit_tiny_patch16_224", 32, CLASSES, ours=True)
    base = replace(base, options={**base.options, "embed_dim": 24, "depth": 2, "num_heads": 4})
    model, structure = base.build()
    return base, randomized(model), structure


def pruned_twice(folder: Path) -> nn.Module:
    """A network pruned, saved, loaded, pruned again and saved."""
    present, model, structure = made()
    for seed in (1, 2):
        kept, _ = split(structure, lambda d: d.name != "blocks.1.ffn", seed)
        pruned = prune(model, structure, kept)
        present = present.narrowed(structure, kept)
        save(folder, present, model)
        model, structure = load_prunable(read(folder), folder)
        assert structure.sizes == pruned.sizes
    return model


def test_a_folder_gives_back_the_network(tmp_path: Path) -> None:
    present, model, structure = made()
    kept, _ = split(structure, lambda _: True)
    prune(model, structure, kept)
    save(tmp_path, present.narrowed(structure, kept), model)
    with torch.no_grad():
        torch.testing.assert_close(load(tmp_path)(IMAGES), model.eval()(IMAGES), rtol=0, atol=0)


def test_pruning_again_counts_units_of_the_original(tmp_path: Path) -> None:
    """A network whose every number says where it was shows which are left."""
    present, model, structure = made()
    bias = "blocks.0.mlp.fc1.bias"
    with torch.no_grad():
        model.get_parameter(bias).copy_(torch.arange(structure.sizes["blocks.0.ffn"]))
    for seed in (1, 2):
        kept, _ = split(structure, lambda d: d.kind == "ffn", seed)
        pruned = prune(model, structure, kept)
        present, structure = present.narrowed(structure, kept), pruned
    assert list(present.kept["blocks.0.ffn"]) == model.get_parameter(bias).int().tolist()
    assert len(present.kept["blocks.0.ffn"]) == 24 and set(present.kept) == {"blocks.0.ffn", "blocks.1.ffn"}


def test_twice_pruned_keeps_the_scale_of_its_attention(tmp_path: Path) -> None:
    model = pruned_twice(tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(load(tmp_path)(IMAGES), model.eval()(IMAGES), rtol=0, atol=0)
    attention: Any = model.get_submodule("blocks.0.attn")
    assert attention.scale == 6**-0.5 and attention.key_dim == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kept": {"blocks.7.ffn": [0]}}, "keeps units of blocks.7.ffn, which deit_tiny_patch16_224 does not have"),
        ({"kept": {"blocks.0.ffn": [3, 2]}}, "not ascending numbers from 0 to 95"),
        ({"kept": {"blocks.0.ffn": [95, 96]}}, "not ascending numbers from 0 to 95"),
        ({"kept": {"blocks.0.ffn": []}}, "not ascending numbers from 0 to 95"),
        ({"kept": {}}, "of another shape"),
        ({"image_size": "32"}, "pruned.json.image_size is '32', not a valid int; prune again"),
        ({"model": "deit_mini"}, "pruned.json.model is 'deit_mini', no network of timm"),
        ({"model": "hf-hub:someone/something"}, "pruned.json.model is 'hf-hub:someone/something', no network of timm"),
        ({"options": {"checkpoint_path": "/etc/passwd"}}, "options has 'checkpoint_path'; allowed are whole numbers"),
        ({"options": {"pretrained": True}}, "options has 'pretrained'; allowed are whole numbers for img_size"),
        ({"options": {"img_size": "/etc/passwd"}}, "options has 'img_size'; allowed are whole numbers"),
        ({"image_size": 10**9}, "image_size is 1000000000, not of 1 to 4096"),
        ({"classes": []}, "has no classes"),
    ],
)
def test_a_damaged_recipe_is_refused(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    pruned_twice(tmp_path)
    path = tmp_path / recipe.FILE
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(UserError, match=message):
        load(tmp_path)


def test_a_family_that_is_not_known_is_refused_by_its_name() -> None:
    with pytest.raises(UserError, match=r"resnet18: cannot prune this ResNet; known are .*ViT"):
        timm_recipe("resnet18", 32, CLASSES, ours=True).build()
    with pytest.raises(UserError, match=r"--model deit_tiny_patch16_24 is neither a folder .* deit_tiny"):
        timm_recipe("deit_tiny_patch16_24", 32, CLASSES, ours=True)


def test_a_checkpoint_of_timm_is_loaded_or_refused(tmp_path: Path) -> None:
    base = timm_recipe("deit_tiny_patch16_224", 32, CLASSES, ours=False)
    weights = timm.create_model("deit_tiny_patch16_224", num_classes=3, img_size=32).state_dict()
    save_file(weights, tmp_path / "w.safetensors")
    model, _ = open_timm(base, tmp_path / "w.safetensors")
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())
    with pytest.raises(UserError, match=r"has 3 classes, the data 2"):
        open_timm(replace(base, classes=CLASSES[:2]), tmp_path / "w.safetensors")
    torch.save({f"{name}.reparam_conv.weight": tensor for name, tensor in weights.items()}, tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"w.pth is already fused for inference"):
        open_timm(base, tmp_path / "w.pth")
