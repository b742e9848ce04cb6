from __future__ import annotations

import pytest
import timm
import torch
from timm.utils import reparameterize_model

from search_spaces import Arch, SearchSpace, UserError, get_space, macs, num_params
from search_spaces.mobileone import MobileOneSpace, mobileone, mobileone_nano
from search_spaces.structure.fvcore_macs import fvcore_macs
from supernet import Supernet
from supernet.store import Norm
from tests.contracts.space import SpaceContract, image, randomized
from tests.contracts.supernet import SupernetContract


class TestSupernet(SupernetContract):
    @classmethod
    def make_tiny(cls) -> SearchSpace:
        widths = ((8, 16), (16,), (24,), (32, 40))
        return MobileOneSpace("tiny", widths, (1, 3, 2, 1), branches=(1, 2), image_size=32, num_classes=2)


@pytest.mark.heavy
class TestImageNet(SpaceContract):
    @classmethod
    def make_space(cls) -> SearchSpace:
        return get_space("mobileone", image_size=64, num_classes=5)

    @classmethod
    def archs_to_build(cls, space: SearchSpace) -> list[Arch]:
        """One: a small space has the same blocks."""
        return [space.published["s0"]]


class TestNano(SpaceContract):
    @classmethod
    def make_space(cls) -> SearchSpace:
        return get_space("mobileone-nano")

    def test_takes_images_of_64_pixels(self) -> None:
        space = get_space("mobileone-nano", image_size=64)
        model = randomized(space.build(space.largest), 0)
        assert macs(space, space.largest) == fvcore_macs(reparameterize_model(model), image(space, 1))


class TestPublished:
    """The five networks of the paper's Table 2, against timm's models of the same names; MACs in M."""

    space = mobileone()

    @pytest.mark.parametrize(
        ("name", "mmacs"),
        [
            ("s0", 275),
            pytest.param("s1", 825, marks=pytest.mark.heavy),
            pytest.param("s2", 1299, marks=pytest.mark.heavy),
            pytest.param("s3", 1896, marks=pytest.mark.heavy),
            ("s4", 2978),
        ],
    )
    def test_is_timms_model(self, name: str, mmacs: float) -> None:
        arch = self.space.published[name]
        theirs = randomized(timm.create_model(f"mobileone_{name}"), 0)
        merged = reparameterize_model(theirs)
        assert num_params(self.space, arch) == sum(p.numel() for p in merged.parameters())
        assert macs(self.space, arch) == fvcore_macs(merged, image(self.space, 1))
        assert macs(self.space, arch) == pytest.approx(mmacs * 1e6, rel=0.02)
        ours = self.space.build(arch).eval()
        assert type(ours) is type(theirs)
        ours.load_state_dict(theirs.state_dict())
        assert torch.equal(ours(image(self.space, 1)), theirs(image(self.space, 1)))

    def test_is_initialized_as_timms_model_but_for_silent_branches(self) -> None:
        torch.manual_seed(3)
        theirs = timm.create_model("mobileone_s0").state_dict()
        torch.manual_seed(3)
        ours = self.space.build(self.space.published["s0"]).state_dict()
        silent = {name for name, tensor in theirs.items() if not torch.equal(ours[name], tensor)}
        assert {name.rpartition(".bn.")[2] for name in silent} == {"weight"}
        assert not any(ours[name].any() for name in silent)


@pytest.mark.parametrize("norm", ["width", "shared"])
def test_a_fresh_supernet_computes_the_same_at_any_depth_beyond_the_first_pairs(norm: Norm) -> None:
    space = mobileone_nano()
    net = Supernet(space, norm=norm).eval()
    fields = space.to_json(space.smallest)
    deep = space.from_json({**fields, "present": space.to_json(space.largest)["present"]})
    x = image(space)
    with torch.no_grad():
        torch.testing.assert_close(net(x, deep), net(x, space.smallest), rtol=1e-3, atol=1e-4)


def test_no_action_takes_branches_away_as_they_cost_nothing() -> None:
    space = mobileone()
    assert {action.field for action in space.slim(space.largest)} == {"width", "present", "se"}
    fields = space.to_json(space.largest)
    plain, branched = (space.from_json({**fields, "branches": [k]}) for k in (1, 4))
    assert [b.key for b in space.lower(plain)] == [b.key for b in space.lower(branched)]
    assert space.lower(plain) != space.lower(branched)


@pytest.mark.parametrize("image_size", [0, -32, 16, 100, 2048])
def test_image_size_is_checked(image_size: int) -> None:
    with pytest.raises(UserError, match=rf"image size {image_size} .* multiple of 32 from 32 to 1024"):
        mobileone(image_size=image_size)


def test_the_first_pair_of_a_stage_stays() -> None:
    space = mobileone()
    fields = space.to_json(space.largest)
    fields["present"][1][0] = 0
    with pytest.raises(UserError, match=r"arch: present\.1\.0 is 0; choose from 1"):
        space.from_json(fields)
