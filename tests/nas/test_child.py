"""A process of its own."""

from __future__ import annotations

import time

import pytest
import torch

from nas.child import Child, ChildFailed, ChildLate, _answer, _packed, _unpacked


def test_a_child_that_hangs_is_ended() -> None:
    child = Child(limit_s=0.2)
    with pytest.raises(ChildLate, match=r"not finished after 0\.2 s"):
        child.call(time.sleep, 600)
    child.close()


def test_an_exception_comes_back_as_its_text() -> None:
    with pytest.raises(ChildFailed, match="ValueError: invalid literal"):
        _unpacked(_answer(int, _packed(("x",)), torch.get_num_threads()))
