from __future__ import annotations

import pytest

from nas.distributed.device import pick_device
from search_spaces import UserError


@pytest.mark.parametrize("name", ["nonsense", "cuda:99", "tpu"])
def test_a_device_that_is_not_there(name: str) -> None:
    with pytest.raises(UserError, match=f"--device {name} cannot be used"):
        pick_device(name)
