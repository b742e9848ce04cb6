from __future__ import annotations

from typing import Any

import pytest
import torch

from search_spaces import Arch, BlockSpec, SearchSpace, UserError, get_space, macs
from search_spaces.efficientvit import EfficientVitSpace, efficientvit, efficientvit_nano
from search_spaces.efficientvit.blocks import CHANNELS, Attention, Head, Merging, Stem
from search_spaces.layout import Layout, axis
from supernet import Supernet
from supernet.store import Norm
from tests.contracts.space import SpaceContract, TimmContract, image
from tests.contracts.supernet import Masked, SupernetContract


class TestSupernet(SupernetContract):
    @classmethod
    def make_tiny(cls) -> SearchSpace:
        return EfficientVitSpace(
            "tiny",
            heads=((2,), (1, 2), (2,)),
            head_widths=((4,), (4, 8), (8,)),
            depths=(1, 2, 1),
            keys=(4,),
            expansions=(1, 2),
            kernels=((3, 5), (3,)),
            stem_stride=4,
            window=3,
            image_size=32,
            num_classes=2,
        )

    @classmethod
    def channels(cls, block: BlockSpec) -> Layout:
        """Of stages: heads, one behind the other."""
        into = axis(("in_heads", "in_head_width")) if isinstance(block, Merging) else CHANNELS
        axes = {"input": (axis(2), into), "output": (axis(2), CHANNELS)}
        if isinstance(block, Stem | Head):
            del axes["input" if isinstance(block, Stem) else "output"]
        return Layout(block.layout().sizes, axes)

    @torch.no_grad()
    def test_queries_and_keys_of_a_smaller_dimension_are_the_first_ones(self) -> None:
        small, large = (Attention("", 8, 2, 3, key, (3, 5), 3) for key in (4, 8))
        masked = Masked.make(small, large)
        assert masked is not None
        attentions: list[Any] = [masked.large.get_submodule("m.attn"), masked.small.get_submodule("m.attn")]
        attentions[0].scale = attentions[1].scale  # each has that of its own dimension
        expected, found = masked.outputs(self.channels)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.heavy
class TestImageNet(SpaceContract):
    @classmethod
    def make_space(cls) -> SearchSpace:
        return get_space("efficientvit", image_size=64, num_classes=5)

    @classmethod
    def archs_to_build(cls, space: SearchSpace) -> list[Arch]:
        """One: a small space has the same blocks."""
        return [space.published["m0"]]


class TestNano(SpaceContract):
    @classmethod
    def make_space(cls) -> SearchSpace:
        return get_space("efficientvit-nano")


class TestPublished(TimmContract):
    """The six networks of the paper's Table 1, against timm's models of the same names; MACs in M (Table 2)."""

    space = efficientvit()

    @pytest.mark.parametrize(
        ("name", "mmacs"),
        [
            ("m0", 79),
            pytest.param("m1", 167, marks=pytest.mark.heavy),
            pytest.param("m2", 201, marks=pytest.mark.heavy),
            pytest.param("m3", 263, marks=pytest.mark.heavy),
            pytest.param("m4", 299, marks=pytest.mark.heavy),
            ("m5", 522),
        ],
    )
    def test_is_timms_model(self, name: str, mmacs: float) -> None:
        self.is_timms(name)
        arch = self.space.published[name]
        assert macs(self.space, arch) == pytest.approx(mmacs * 1e6, rel=0.01)
        assert self.space.constructor(arch)[1] == [], "timm's constructor expresses it"


@pytest.mark.parametrize("norm", ["width", "shared"])
def test_a_fresh_supernet_computes_the_same_with_any_blocks_and_attentions(norm: Norm) -> None:
    space = efficientvit_nano()
    net = Supernet(space, norm=norm).eval()
    largest = space.to_json(space.largest)
    deep = {field: largest[field] for field in ("present", "attention")}
    x = image(space)
    with torch.no_grad():
        ours = net(x, space.from_json({**space.to_json(space.smallest), **deep}))
        torch.testing.assert_close(ours, net(x, space.smallest), rtol=1e-3, atol=1e-4)


def test_one_attention_after_the_other_can_be_left_out() -> None:
    space = efficientvit()
    left, arch = [], space.published["m5"]
    while actions := [action for action in space.slim(arch) if action.field == "attention"]:
        arch = actions[0].arch
        left.append(sum(block.kind == "attention" for block in space.lower(arch)))
    assert left == [7, 6, 5, 4, 3, 2, 1, 0]
    assert {action.field for action in space.slim(arch)} == {
        "heads",
        "head_width",
        "present",
        "expansion",
        "down_expansion",
    }, "keys and kernels are those of attentions"


def test_channels_in_other_heads_share_a_row_of_a_table_where_nothing_but_attention_sees_them() -> None:
    space = efficientvit()
    fields = {**space.to_json(space.published["m0"]), "heads": [4, 4, 3], "head_width": [16, 32, 64]}
    keys = [{b.key for b in space.lower(arch)} for arch in (space.published["m0"], space.from_json(fields))]
    assert {key.partition("(")[0] for key in keys[0] ^ keys[1]} == {"attention"}


def test_the_first_block_of_a_stage_stays() -> None:
    space = efficientvit()
    fields = space.to_json(space.largest)
    fields["present"][1][0] = 0
    with pytest.raises(UserError, match=r"arch: present\.1\.0 is 0; choose from 1"):
        space.from_json(fields)
