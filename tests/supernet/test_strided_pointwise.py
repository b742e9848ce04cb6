from __future__ import annotations

import timm
import torch
from torch import nn

from search_spaces.mobileone import mobileone_nano
from supernet.store import _skeleton_of
from supernet.strided_pointwise import StridedPointwise, mend_strided_pointwise


def test_it_computes_the_same_and_keeps_its_tensors() -> None:
    plain = timm.create_model("mobileone_s1", num_classes=5)
    mended = timm.create_model("mobileone_s1", num_classes=5)
    mended.load_state_dict(plain.state_dict())
    assert mend_strided_pointwise(mended) is mended
    assert mended.state_dict().keys() == plain.state_dict().keys()
    assert [name for name, part in mended.named_modules() if isinstance(part, StridedPointwise)] == [
        "stem.conv_scale.conv"
    ]
    x = torch.randn(2, 3, 65, 64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(mended.eval()(x), plain.eval()(x), rtol=1e-4, atol=1e-5)


def test_other_convolutions_stay() -> None:
    others = (nn.Conv2d(3, 8, 1), nn.Conv2d(3, 8, 3, 2), nn.Conv2d(16, 8, 1, 2), nn.Conv2d(4, 8, 1, 2, groups=2))
    for conv in others:
        assert type(mend_strided_pointwise(nn.Sequential(conv))[0]) is nn.Conv2d  # type: ignore[index]


def test_a_block_of_a_supernet_is_mended() -> None:
    space = mobileone_nano()
    stem = space.lower(space.smallest)[0]
    assert any(isinstance(part, StridedPointwise) for part in _skeleton_of(stem).module.modules())
