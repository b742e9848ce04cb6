from __future__ import annotations

import pytest
import torch

from search_spaces import Arch, SearchSpace, UserError, get_space, macs
from search_spaces.block import RECTIFIED_MEAN
from search_spaces.mobileone import MobileOneSpace, mobileone, mobileone_nano
from supernet import Supernet
from supernet.store import Norm
from tests.contracts.space import SpaceContract, TimmContract, image
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


class TestPublished(TimmContract):
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
        self.is_timms(name)
        assert macs(self.space, self.space.published[name]) == pytest.approx(mmacs * 1e6, rel=0.02)

    def test_is_initialized_as_timms_model(self) -> None:
        """But for silent branches beside an input that stays as it is."""
        ours, theirs = self.fresh()
        others = {name for name, tensor in theirs.items() if not torch.equal(ours[name], tensor)}
        inputs = {name for name in others if name.endswith("identity.bias")}
        assert inputs and all(ours[name].eq(RECTIFIED_MEAN).all() for name in inputs)
        assert {name.rpartition(".bn.")[2] for name in others - inputs} == {"weight"}
        assert not any(ours[name].any() for name in others - inputs)


@pytest.mark.parametrize("norm", ["width", "shared"])
def test_a_fresh_supernet_computes_the_same_at_any_depth_beyond_the_first_pairs(norm: Norm) -> None:
    space = mobileone_nano()
    net = Supernet(space, norm=norm).train()
    smallest, largest = space.to_json(space.smallest), space.to_json(space.largest)
    deep = space.from_json({**smallest, "present": largest["present"]})
    excited = space.from_json({**largest, "width": smallest["width"]})
    x = image(space, 64)
    with torch.no_grad():
        found = torch.stack([net(x, arch).flatten() for arch in (space.smallest, deep, excited)])
    assert torch.corrcoef(found)[0].min() > 0.99, "but for what the batch's own statistics change"


def test_no_action_takes_branches_away_as_they_cost_nothing() -> None:
    space = mobileone()
    assert {action.field for action in space.slim(space.largest)} == {"width", "present", "se"}
    fields = space.to_json(space.largest)
    plain, branched = (space.from_json({**fields, "branches": [k]}) for k in (1, 4))
    assert [b.key for b in space.lower(plain)] == [b.key for b in space.lower(branched)]
    assert space.lower(plain) != space.lower(branched)


def test_the_first_pair_of_a_stage_stays() -> None:
    space = mobileone()
    fields = space.to_json(space.largest)
    fields["present"][1][0] = 0
    with pytest.raises(UserError, match=r"arch: present\.1\.0 is 0; choose from 1"):
        space.from_json(fields)
