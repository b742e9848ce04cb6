from __future__ import annotations

import pytest
import timm
import torch

from search_spaces import Arch, SearchSpace, UserError, get_space, macs, num_params
from search_spaces.mobilevit import MobileViTSpace, Stage, mobilevit, mobilevit_tiny
from search_spaces.structure.fvcore_macs import fvcore_macs
from supernet import Supernet
from tests.contracts.space import SpaceContract, image, randomized
from tests.contracts.supernet import SupernetContract, shaken


def make_tiny(may_lack: bool = False) -> SearchSpace:
    stages = (
        Stage((8,), stride=1),
        Stage((8, 16), depth=2),
        Stage((16, 24), dims=(16, 24), layers=2, may_lack=may_lack),
    )
    return MobileViTSpace(
        "tiny", stages, features=(16, 24), expansions=(2, 3), patches=(4, 2), image_size=64, num_classes=2
    )


class MobileViTContract(SpaceContract):
    @staticmethod
    def is_smaller(space: SearchSpace, arch: Arch, before: Arch) -> bool:
        """Patches have no weights, residuals no multiply-accumulates, and without a stage the next have more pixels."""
        fewer_params = num_params(space, arch) < num_params(space, before)
        return fewer_params or (
            num_params(space, arch) == num_params(space, before) and macs(space, arch) < macs(space, before)
        )


class TestNano(MobileViTContract):
    @classmethod
    def make_space(cls) -> SearchSpace:
        return get_space("mobilevit-nano")


@pytest.mark.heavy
class TestImageNet(MobileViTContract):
    @classmethod
    def make_space(cls) -> SearchSpace:
        return get_space("mobilevit", image_size=64, num_classes=5)


class TestTinyImageNet(MobileViTContract):
    @classmethod
    def make_space(cls) -> SearchSpace:
        return get_space("mobilevit-tiny", num_classes=5)


class TestSupernet(SupernetContract):
    @classmethod
    def make_tiny(cls) -> SearchSpace:
        return make_tiny()
