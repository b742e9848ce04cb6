"""A narrower network is built again from its tensors alone."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from scripts.search_peers.shapes import check_shaped, shaped


def lite(width: float) -> nn.Module:
    return timm.create_model("test_efficientnet", num_classes=3, channel_multiplier=width).eval()


def test_it_computes_what_the_narrow_one_does() -> None:
    torch.manual_seed(0)
    whole, narrow, images = lite(1), lite(0.5), torch.randn(2, 3, 32, 32)
    found = shaped(whole, narrow.state_dict())
    torch.testing.assert_close(found(images), narrow(images))
    pairs = [pair for pair in zip(found.modules(), narrow.modules(), strict=True) if isinstance(pair[0], nn.Conv2d)]
    assert len(pairs) > 5 and all(str(one) == str(other) for one, other in pairs), "channels and groups, too"
    check_shaped(found, narrow, images)
    with pytest.raises(ValueError, match="the shapes of its tensors do not say"):
        check_shaped(whole, narrow, images)
