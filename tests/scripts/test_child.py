"""A process of its own."""

from __future__ import annotations

import os
import time

import pytest

from scripts.pruning_peers.child import Child, ChildFailed, ChildLate, _answer, _packed, _unpacked


def test_a_child_that_hangs_is_ended() -> None:
    with pytest.raises(ChildLate, match=r"not finished after 0\.2 s"):
        Child(limit_s=0.2).call(time.sleep, 600)


def test_a_child_that_dies_is_not_waited_for() -> None:
    with pytest.raises(ChildFailed, match="its process died") as failed:
        Child(limit_s=600).call(os._exit, 9)
    assert not isinstance(failed.value, ChildLate)


def test_what_the_function_returns_and_raises_comes_back() -> None:
    assert Child(limit_s=600).call(divmod, 7, 3) == (2, 1)
    with pytest.raises(ChildFailed, match="ValueError: invalid literal"):
        _unpacked(_answer(int, _packed(("x",))))
