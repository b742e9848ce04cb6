"""Which models can be pruned."""

from __future__ import annotations

import pytest
import timm

from nas.pruning.families import prepare
from search_spaces import UserError


@pytest.mark.parametrize("name", ["resnet18", "test_byobnet", "mobilevitv2_050"])
def test_an_unknown_family_is_refused(name: str) -> None:
    model = timm.create_model(name)
    with pytest.raises(UserError, match=rf"cannot prune this {type(model).__name__}; known are timm's ViT, DeiT"):
        prepare(model)
