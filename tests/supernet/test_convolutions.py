from __future__ import annotations

import copy
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from search_spaces.mobileone import mobileone_nano
from search_spaces.structure.fvcore_macs import fvcore_macs
from supernet.convolutions import SmallDepthwise, StridedPointwise, mend_convolutions
from supernet.store import _skeleton_of


def _seeded(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_strided_pointwise_ones_compute_the_same_and_keep_their_tensors() -> None:
    plain = timm.create_model("mobileone_s1", num_classes=5)
    mended = timm.create_model("mobileone_s1", num_classes=5)
    mended.load_state_dict(plain.state_dict())
    assert mend_convolutions(mended) is mended
    assert mended.state_dict().keys() == plain.state_dict().keys()
    assert [name for name, part in mended.named_modules() if isinstance(part, StridedPointwise)] == [
        "stem.conv_scale.conv"
    ]
    x = _seeded(2, 3, 65, 64)
    torch.testing.assert_close(mended.eval()(x), plain.eval()(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "shape"),
    [
        (5, 1, 2, (2, 2)),
        (5, 1, 2, (7, 7)),
        (5, 2, 2, (8, 5)),
        (3, 1, 1, (1, 1)),
        ((3, 5), (2, 1), (1, 0), (2, 6)),
        (7, 1, 3, (4, 16)),
    ],
)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_small_depthwise_ones_have_the_gradients_of_plain_ones(
    kernel: int | tuple[int, int],
    stride: int | tuple[int, int],
    padding: int | tuple[int, int],
    shape: tuple[int, int],
    layout: torch.memory_format,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def gradients(conv: nn.Module) -> list[Tensor]:
        x = _seeded(3, 6, *shape).contiguous(memory_format=layout).requires_grad_()
        y = conv(x)
        y.backward(_seeded(*y.shape))
        assert x.grad is not None
        return [y.detach(), x.grad, *(p.grad for p in conv.parameters() if p.grad is not None)]

    torch.manual_seed(0)
    plain = nn.Conv2d(6, 6, kernel, stride, padding, groups=6)
    mended = mend_convolutions(nn.Conv2d(6, 6, kernel, stride, padding, groups=6))
    assert isinstance(mended, SmallDepthwise)
    mended.load_state_dict(plain.state_dict())
    expected = gradients(plain)
    with monkeypatch.context() as patch:
        patch.setattr(torch, "bmm", lambda *_: pytest.fail("as wanted"))
        with pytest.raises(pytest.fail.Exception, match="as wanted"):
            gradients(mended)
    mended.zero_grad()
    found = gradients(mended)
    assert len(found) == len(expected) == 4
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_mended_networks_have_the_macs_of_plain_ones() -> None:
    plain = timm.create_model("mobilenetv3_small_050", num_classes=5).eval()
    image = torch.zeros(1, 3, 64, 64)
    assert fvcore_macs(mend_convolutions(copy.deepcopy(plain)), image) == fvcore_macs(plain, image)


def test_large_maps_and_mixed_precision_take_the_plain_way(monkeypatch: pytest.MonkeyPatch) -> None:
    conv: Any = mend_convolutions(nn.Conv2d(6, 6, 5, padding=2, groups=6))
    monkeypatch.setattr("supernet.convolutions._Depthwise.apply", lambda *_: pytest.fail("not the plain way"))
    conv(_seeded(1, 6, 9, 9)).sum().backward()
    with torch.autocast("cpu", torch.bfloat16):
        conv(_seeded(1, 6, 4, 4)).sum().backward()
    with torch.no_grad():
        assert torch.equal(conv(_seeded(1, 6, 4, 4)), F.conv2d(_seeded(1, 6, 4, 4), conv.weight, conv.bias, 1, 2, 1, 6))


def test_other_convolutions_stay() -> None:
    others = (
        nn.Conv2d(3, 8, 1),
        nn.Conv2d(3, 8, 3, 2),
        nn.Conv2d(16, 8, 1, 2),
        nn.Conv2d(4, 8, 1, 2, groups=2),
        nn.Conv2d(4, 8, 3, groups=4),
        nn.Conv2d(4, 4, 3, dilation=2, groups=4),
        nn.Conv2d(4, 4, 3, padding="same", groups=4),
        nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect", groups=4),
    )
    for conv in others:
        assert type(mend_convolutions(nn.Sequential(conv))[0]) is nn.Conv2d  # type: ignore[index]


def test_a_block_of_a_supernet_is_mended() -> None:
    space = mobileone_nano()
    stem = space.lower(space.smallest)[0]
    assert any(isinstance(part, StridedPointwise) for part in _skeleton_of(stem).module.modules())
