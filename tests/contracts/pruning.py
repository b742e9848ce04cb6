"""What pruning must do in every family."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.layers import LayerNorm2d
from torch import Tensor, nn

from nas.data.batches import MEAN, STD
from nas.exporting.onnx import write_onnx
from nas.exporting.parity import example_images, normalized
from search_spaces.deployed import deployed
from search_spaces.layout import places
from search_spaces.structure.base import Dimension, Kind, Structure
from search_spaces.structure.costs import Costs
from search_spaces.structure.families.registry import prepare
from search_spaces.structure.fvcore_macs import fvcore_macs
from search_spaces.structure.slicing import prune, zero
from tests.rounding import assert_equal_but_for_rounding, rounding


def randomized(model: nn.Module, seed: int = 0, gain: float = 0.5) -> nn.Module:
    """In evaluation mode, with no tensor left at a constant: a norm of ones and zeros would hide mistakes.

    Args:
        gain: of weights; so much that all units are felt, not so much that rounding is.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            noise = torch.randn(tensor.shape, generator=generator)
            base = 1.0 if name.endswith(("running_var", "norm.weight", "bn.weight", "gamma")) else 0.0
            tensor.copy_(base + noise * (0.1 if base else gain / max(1, tensor[0].numel()) ** 0.5))
            if name.endswith("running_var"):
                tensor.abs_()
    return model.eval()


class PruningContract:
    """For a subclass that says how to make small models of the family."""

    image_size = 32
    kinds: tuple[Kind, ...]  # of its dimensions
    gain = 0.5  # of random weights

    def model(self) -> nn.Module:
        """A small model, fresh."""
        raise NotImplementedError

    def prepare(self, model: nn.Module) -> Structure:
        return prepare(model)

    @pytest.fixture
    def whole(self) -> nn.Module:
        return randomized(self.model(), gain=self.gain)

    @pytest.fixture
    def images(self) -> Tensor:
        return torch.randn(2, 3, self.image_size, self.image_size, generator=torch.Generator().manual_seed(1))

    @torch.no_grad()
    def test_a_prepared_model_computes_the_same(self, whole: nn.Module, images: Tensor) -> None:
        before = whole(images)
        names = list(whole.state_dict())
        self.prepare(whole)
        assert list(whole.state_dict()) == names
        assert_equal_but_for_rounding(whole(images), before, whole)

    @torch.no_grad()
    def test_zeroed_units_can_be_sliced_away(self, images: Tensor) -> None:
        """Layer norms, whose means and variances zeros would change, take them over the remaining units."""
        assert {d.kind for d in self.prepare(self.model()).dimensions} == set(self.kinds)
        for kind in self.kinds:
            self.check_zeroed_is_sliced(kind, randomized(self.model(), gain=self.gain), images)

    def check_zeroed_is_sliced(self, kind: Kind, whole: nn.Module, images: Tensor) -> None:
        structure = self.prepare(whole)
        before = whole(images)
        kept, removed = split(structure, lambda d: d.kind == kind)
        masked = copy.deepcopy(whole)
        zero(masked, structure, removed)
        for name, norm in masked.named_modules():
            if isinstance(norm, nn.LayerNorm) and (axes := structure.axes.get(f"{name}.weight")):
                norm.register_forward_hook(normalize_over(torch.from_numpy(places(axes[0], structure.sizes, kept))))
        expected = masked(images)
        prune(whole, structure, kept)
        assert_equal_but_for_rounding(whole(images), expected, whole)
        limit = 10 * rounding(whole) * float(before.abs().max())
        assert (expected - before).abs().max() > limit, f"the units of {kind} counted"

    @torch.no_grad()
    def test_costs_are_those_of_the_network_built(self, whole: nn.Module, images: Tensor) -> None:
        structure = self.prepare(whole)
        costs = Costs(whole, structure, images[:1])
        assert costs.num_params(structure.sizes) == num_params(deployed(whole))
        kept, _ = split(structure, lambda _: True)
        pruned = prune(whole, structure, kept)
        assert self.prepare(whole).sizes == pruned.sizes, "a pruned model is described by the same function"
        assert costs.num_params(pruned.sizes) == num_params(deployed(whole))
        assert costs.macs(pruned.sizes) == Costs(whole, pruned, images[:1]).macs(pruned.sizes)
        assert whole(images).shape == (2, 10)

    def test_a_pruned_model_trains(self, whole: nn.Module, images: Tensor) -> None:
        structure = self.prepare(whole)
        kept, _ = split(structure, lambda _: True)
        prune(whole, structure, kept)
        whole.train()(images).square().mean().backward()
        assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in whole.parameters())

    def test_every_parameter_is_described(self, whole: nn.Module) -> None:
        structure = self.prepare(whole)
        assert [name for name, _ in whole.named_parameters() if name not in structure.axes] == []


class PublishedContract:
    """For a subclass that names a model of the family: as published, whole and with half of every dimension."""

    name: str  # timm's
    image_size = 224

    @pytest.fixture
    def whole(self) -> nn.Module:
        return timm.create_model(self.name).eval()

    @torch.no_grad()
    def test_costs_are_those_counted(self, whole: nn.Module) -> None:
        image = torch.zeros(1, 3, self.image_size, self.image_size)
        counted = fvcore_macs(deployed(whole), image)
        structure = prepare(whole)
        costs = Costs(whole, structure, image)
        assert costs.num_params(structure.sizes) == num_params(deployed(whole))
        assert costs.macs(structure.sizes) == counted
        kept, _ = split(structure, lambda _: True)
        pruned = prune(whole, structure, kept)
        assert costs.num_params(pruned.sizes) == num_params(deployed(whole))
        assert costs.macs(pruned.sizes) == fvcore_macs(deployed(whole), image)

    @pytest.mark.heavy
    def test_halved_it_trains_and_is_exported(self, whole: nn.Module, tmp_path: Path) -> None:
        import onnxruntime

        structure = prepare(whole)
        kept, _ = split(structure, lambda _: True)
        prune(randomized(whole), structure, kept)
        images = normalized(example_images(3, self.image_size), MEAN, STD)
        whole.train()(images).square().mean().backward()
        assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in whole.parameters())
        whole.eval()
        write_onnx(deployed(whole), tmp_path / "model.onnx", self.image_size, {}, None)
        session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
        with torch.inference_mode():
            expected = whole(images)
        assert expected.shape == (3, 1000)
        exported = torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])
        assert_equal_but_for_rounding(exported, expected, whole)


def num_params(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def normalize_over(kept: Tensor) -> Callable[[nn.Module, tuple[Tensor], Tensor], Tensor]:
    """What a layer norm of the kept channels alone computes, zero elsewhere."""

    def hook(norm: Any, inputs: tuple[Tensor], _: Tensor) -> Tensor:
        axis = 1 if isinstance(norm, LayerNorm2d) else -1
        x = inputs[0].movedim(axis, -1)
        output = torch.zeros_like(x)
        output[..., kept] = F.layer_norm(x[..., kept], (len(kept),), norm.weight[kept], norm.bias[kept], norm.eps)
        return output.movedim(-1, axis)

    return hook


def split(
    structure: Structure, of: Callable[[Dimension], bool], seed: int = 2
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Random halves (kept, removed) of the dimensions."""
    generator = torch.Generator().manual_seed(seed)
    kept, removed = {}, {}
    for dimension in structure.dimensions:
        count = max(1, dimension.size // 2)
        if of(dimension) and count < dimension.size:
            order = torch.randperm(dimension.size, generator=generator)
            kept[dimension.name], removed[dimension.name] = order[:count].sort().values, order[count:].sort().values
    return kept, removed
