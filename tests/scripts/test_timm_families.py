from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from scripts import timm_families
from scripts.timm_families import check, main, smallest_of_each
from supernet import Supernet


def test_networks_are_checked_once_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "found" / "families.jsonl"
    flags = ["--models", "test_resnet", "dla46x_c", "--image-size", "32", "--out", str(out)]
    main(flags)
    said = capsys.readouterr().out
    assert "\ntest_resnet  32 " in said
    assert "\ndla46x_c cannot be searched: DLA is no chain of blocks\n" in said
    assert "2 networks: 1 are spaces, of which 1 keep what they promise" in said
    out.write_text(out.read_text() + '{"name": "to')  # killed while it wrote
    monkeypatch.setattr(timm_families, "check", lambda *_: pytest.fail("it is known"))
    main(flags)
    assert capsys.readouterr().out == said


def test_what_a_space_promises_and_does_not_keep_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    extract = Supernet.extract

    def other(self: Supernet, arch: Any) -> nn.Module:
        model = extract(self, arch)
        with torch.no_grad():
            next(model.parameters()).mul_(2)
        return model

    monkeypatch.setattr(Supernet, "extract", other)
    assert set(check("test_resnet", 32)["broken"]) == {"the supernet computes something else"}
    monkeypatch.setattr(Supernet, "extract", lambda *_: 1 / 0)
    assert check("test_resnet", 32)["failed"].startswith("ZeroDivisionError")


def test_of_each_family_the_smallest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("timm.list_modules", lambda: ["resnet", "vgg"])
    assert list(smallest_of_each(20e6)) == ["resnet10t"]
