from __future__ import annotations

import pytest
import torch

from search_spaces import Arch, SearchSpace, UserError, get_space, macs
from search_spaces.efficientformerv2 import EfficientFormerV2Space, efficientformerv2
from tests.contracts.space import SpaceContract, TimmContract
from tests.contracts.supernet import SupernetContract


class TestSupernet(SupernetContract):
    @classmethod
    def make_tiny(cls) -> SearchSpace:
        widths = ((8, 16), (16,), (24,), (32,))
        return EfficientFormerV2Space("tiny", widths, depths=(1, 1, 2, 1), image_size=32, num_classes=2)


@pytest.mark.heavy
class TestImageNet(SpaceContract):
    @classmethod
    def make_space(cls) -> SearchSpace:
        return get_space("efficientformerv2", image_size=64, num_classes=5)

    @classmethod
    def archs_to_build(cls, space: SearchSpace) -> list[Arch]:
        """One: a small space has the same blocks."""
        return [space.published["s0"]]


class TestNano(SpaceContract):
    @classmethod
    def make_space(cls) -> SearchSpace:
        return get_space("efficientformerv2-nano")

    def test_the_search_means_something(self, space: SearchSpace) -> None:
        assert space.size() > 10**9

    def test_fresh_branches_are_loud_enough_for_a_short_training(self, space: SearchSpace) -> None:
        gammas = [p for name, p in space.build(space.largest).named_parameters() if name.endswith("gamma")]
        assert gammas
        assert all(torch.all(gamma == 0.1) for gamma in gammas)


class TestPublished(TimmContract):
    """The four networks of the paper, against timm's models of the same names; MACs in G from the paper's Table 2."""

    space = efficientformerv2()

    @pytest.mark.parametrize(
        ("name", "gmacs"),
        [
            ("s0", 0.40),
            pytest.param("s1", 0.65, marks=pytest.mark.heavy),
            pytest.param("s2", 1.25, marks=pytest.mark.heavy),
            pytest.param("l", 2.56, marks=pytest.mark.heavy),
        ],
    )
    def test_is_timms_model(self, name: str, gmacs: float) -> None:
        self.is_timms(name)
        arch = self.space.published[name]
        assert macs(self.space, arch) == pytest.approx(gmacs * 1e9, rel=0.02)
        assert self.space.constructor(arch)[1] == [], "timm's constructor expresses it"

    def test_largest_has_the_widths_and_depths_of_l(self) -> None:
        data = self.space.to_json(self.space.largest)
        assert data["width"] == [40, 80, 192, 384]
        assert [sum(stage) for stage in data["present"]] == [5, 5, 15, 10]
        assert {e for stage in data["expansion"] for e in stage} == {4}
        assert data["attention"][2:] == [[1] * 15, [1] * 10]


@pytest.mark.parametrize(("image_size", "stage_3"), [(32, 2), (64, 4)])
def test_attention_of_stage_3_works_at_stride_2(image_size: int, stage_3: int) -> None:
    space = get_space("efficientformerv2", image_size=image_size)
    shapes = {b.input_shape()[1] for b in space.lower(space.largest) if b.name.startswith("stages.2.blocks")}
    assert shapes == {stage_3}


@pytest.mark.parametrize("num_classes", [-1, 0, 1, 10**7])
def test_number_of_classes_is_checked(num_classes: int) -> None:
    with pytest.raises(UserError, match=rf"{num_classes} classes: give a number from 2"):
        efficientformerv2(num_classes=num_classes)


def test_a_stage_without_block_is_refused() -> None:
    space = efficientformerv2()
    fields = space.to_json(space.largest)
    fields["present"][1] = [0] * 5
    with pytest.raises(UserError, match=r"arch: present\.1 has no block; set at least one to 1"):
        space.from_json(fields)


@pytest.mark.parametrize(
    ("field", "stage", "value", "message"),
    [
        ("expansion", 1, [4, 4, 4, 4, 5], r"expansion\.1\.4 is 5; choose from 1, 2, 3, 4"),
        ("expansion", 1, [4, 4, 4, 4, 2.0], r"expansion\.1\.4 is 2\.0; give an integer"),
        ("expansion", 1, [4, 4, 4, 4, None], r"expansion\.1\.4 is None; give an integer"),
        ("attention", 0, [1, 1, 1, 1, 1], r"attention\.0 is \[1, 1, 1, 1, 1\]; give \[\] there"),
        ("width", 3, 100, r"width\.3 is 100; choose from 128, 176, 224, 288, 336, 384"),
        ("width", 3, [128], r"width\.3 is \[128\]; give an integer"),
    ],
)
def test_nested_values_are_checked(field: str, stage: int, value: object, message: str) -> None:
    space = efficientformerv2()
    fields = space.to_json(space.largest)
    fields[field][stage] = value
    with pytest.raises(UserError, match=message):
        space.from_json(fields)
