from __future__ import annotations

from collections import Counter

import pytest
import timm
import torch

from nas.training.optimization import Optimization
from nas.training.recipe import TrainConfig, with_recipe
from search_spaces import Arch, SearchSpace, get_space, macs, num_params
from search_spaces.mobilevit import MobileViTSpace, Stage, mobilevit, mobilevit_tiny
from search_spaces.structure.families.registry import prepare
from search_spaces.structure.fvcore_macs import fvcore_macs
from supernet import Supernet
from tests.contracts.space import SpaceContract, TimmContract, image
from tests.contracts.supernet import SupernetContract, images, shaken


class MobileViTContract(SpaceContract):
    @staticmethod
    def is_smaller(space: SearchSpace, arch: Arch, before: Arch) -> bool:
        """Patches have no weights, residuals no products, and without a stage the later ones have more pixels."""
        fewer = num_params(space, before) - num_params(space, arch)
        return fewer > 0 or (fewer == 0 and macs(space, arch) < macs(space, before))


def make_mini(*patches: int) -> MobileViTSpace:
    stages = (
        Stage((8,), stride=1),
        Stage((8, 16), stride=1, depth=2),
        Stage((16, 24), dims=(16, 24), layers=2, may_lack=True),
    )
    return MobileViTSpace(
        "mini", stages, features=(16, 24), expansions=(2,), patches=patches or (4, 2), image_size=32, num_classes=2
    )


class TestMini(MobileViTContract):
    @classmethod
    def make_space(cls) -> SearchSpace:
        return make_mini()


class TestSupernet(SupernetContract):
    @classmethod
    def make_tiny(cls) -> SearchSpace:
        """With patches of one size: where they differ, blocks of one shape compute something else."""
        return make_mini(2)


@pytest.mark.heavy
class TestNano(MobileViTContract):
    @classmethod
    def make_space(cls) -> SearchSpace:
        return get_space("mobilevit-nano")


@pytest.mark.heavy
class TestImageNet(MobileViTContract):
    @classmethod
    def make_space(cls) -> SearchSpace:
        return get_space("mobilevit", image_size=64, num_classes=5)


@pytest.mark.heavy
class TestTinyImageNet(MobileViTContract):
    @classmethod
    def make_space(cls) -> SearchSpace:
        return get_space("mobilevit-tiny", num_classes=5)

    @classmethod
    def archs_to_build(cls, space: SearchSpace) -> list[Arch]:
        return [space.published[name] for name in ("tiny", "remove-3-4-residual", "remove-4-5", "xxs")]


class TestPublished(TimmContract):
    """The three networks of the paper's Table 4, against timm's models of the same names; parameters in M."""

    space = mobilevit()

    @pytest.mark.parametrize(
        ("name", "millions"), [("xxs", 1.3), pytest.param("xs", 2.3, marks=pytest.mark.heavy), ("s", 5.6)]
    )
    def test_is_timms_model(self, name: str, millions: float) -> None:
        self.is_timms(name)
        assert num_params(self.space, self.space.published[name]) == pytest.approx(millions * 1e6, rel=0.03)

    def test_the_largest_network_is_s(self) -> None:
        assert self.space.largest == self.space.published["s"]

    def test_images_are_wanted_as_timms_model_wants_them(self) -> None:
        wanted = timm.get_pretrained_cfg("mobilevit_xxs")
        assert wanted is not None and (self.space.mean, self.space.std) == (wanted.mean, wanted.std)


class TestMobileViTTiny:
    """The networks of Faath and Uppuluri's Table 3: XS without some stages, at 64 px and 200 classes."""

    space = mobilevit_tiny()

    def params(self, name: str) -> int:
        return num_params(self.space, self.space.published[name])

    def test_tiny_is_xs_without_stages_3_and_4_and_without_fusion(self) -> None:
        arch = self.space.published["tiny"]
        assert num_params(self.space, arch) == 817_128  # the paper says 817 k
        model = self.space.build(arch)
        assert sum(p.numel() for p in model.parameters()) == 817_128
        widest = [block for block in self.space.lower(arch) if block.kind == "attention"]
        assert [block.input_shape() for block in widest] == [(64, 144)] * 3
        assert fvcore_macs(model, image(self.space, 1)) == macs(self.space, arch)

    def test_what_is_removed_is_as_much_as_the_text_says(self) -> None:
        """Section 3.1: the fifth stage is about 36 % of the network, the fourth and fifth roughly 67 %."""
        whole = num_params(mobilevit(), mobilevit().published["xs"])
        for name, share in {"remove-5": 0.36, "remove-4-5": 0.67}.items():
            assert (self.params("xs") - self.params(name)) / whole == pytest.approx(share, abs=0.006)

    @pytest.mark.parametrize("removed", ["remove-5", "remove-4-5", "remove-3-4"])
    def test_each_reduction_is_there_with_every_fusion(self, removed: str) -> None:
        names = (removed, f"{removed}-residual", "tiny" if removed == "remove-3-4" else f"{removed}-no-fusion")
        fusions = []
        for name in names:
            blocks = self.space.lower(self.space.published[name])
            fusions.append([block.detail for block in blocks if block.kind == "fusion"])
        vits = Counter(block.kind for block in blocks)["local"]
        assert fusions == [["concatenation, 3x3"] * vits, ["residual"] * vits, []]
        assert self.params(names[0]) > self.params(names[1]) > self.params(names[2])


@torch.no_grad()
@pytest.mark.parametrize("image_size", [24, 40])
def test_images_of_other_sizes_are_resized_to_whole_patches(image_size: int) -> None:
    """As timm's network does: the supernet computes what the extracted one does."""
    space = make_mini()
    net = shaken(Supernet(space))
    fields = space.to_json(space.largest)
    x = images(space, 1)[..., :image_size, :image_size] if image_size < 32 else images(space, 1).repeat(1, 1, 2, 2)
    for fusion in (0, 1, 2):
        arch = space.from_json({**fields, "fusion": [fusion], "patch": [4]})
        found, expected = (model(x[..., :image_size, :image_size], *more) for model, more in
                           ((net, (arch,)), (net.extract(arch), ())))  # fmt: skip
        assert torch.equal(found, expected)


def test_patches_divide_the_map_or_are_the_smallest() -> None:
    def patches(image_size: int) -> list[tuple[int, ...]]:
        return [choice.options for choice in mobilevit(image_size).choices if choice.field == "patch"]

    assert patches(256) == [(8, 4, 2), (8, 4, 2), (4, 2)]
    assert patches(224) == [(4, 2), (2,), (2,)]  # of 28, 14 and 7 pixels: the last is resized to 8
    space = mobilevit(224)
    model = timm.create_model("mobilevit_xxs").eval()
    assert macs(space, space.published["xxs"]) == fvcore_macs(model, image(space, 1))


@pytest.mark.parametrize("fusion", [0, 1, 2])
def test_its_networks_can_be_pruned(fusion: int) -> None:
    """Those too that have blocks which timm's cannot express."""
    space = make_mini()
    layers = {"heads": [[2, 4]], "ratio": [[1, 2]]}
    arch = space.from_json({**space.to_json(space.largest), "fusion": [fusion], **layers})
    sizes = prepare(space.build(arch)).sizes
    assert (sizes["stages.2.1.transformer.0.attn.heads"], sizes["stages.2.1.transformer.0.ffn"]) == (2, 24)


def test_the_recipe_is_as_published() -> None:
    """Section 4.1: AdamW from 2e-4 to 2e-3 in 3,000 steps, by a cosine back to 2e-4; images of several sizes."""
    config = with_recipe(TrainConfig(batch_size=1024), 256, "imagenet", 10, mobilevit().recipe)
    assert config.multi_scale
    assert (config.weight_decay, config.label_smoothing, config.epochs, config.augment) == (0.01, 0.1, 300, "basic")
    steps, per_epoch = 232_000, 773  # Fig. 5b
    optimization = Optimization(torch.nn.Conv2d(3, 3, 3), config, steps, per_epoch)
    found = []
    for step in (0, 3015, steps - 1):
        optimization.begin_step(step)
        found.append(optimization.optimizer.param_groups[0]["lr"])
    assert isinstance(optimization.optimizer, torch.optim.AdamW)
    assert found == pytest.approx([2e-4, 2e-3, 2e-4], rel=1e-3)
