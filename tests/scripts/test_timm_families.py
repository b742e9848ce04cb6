from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from latency_lut.backends.base import Job
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
    monkeypatch.setattr(timm_families, "check", lambda name, *_: {"name": name, "refused": "files are another check"})
    main([*flags, "--files"])
    assert "\nfiles are another check\n" in capsys.readouterr().out
    monkeypatch.setattr(timm_families, "check", lambda *_: pytest.fail("both are known"))
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
    assert set(check("test_resnet", 32, files=False)["broken"]) == {"the supernet computes something else"}
    monkeypatch.setattr(Supernet, "extract", lambda *_: 1 / 0)
    assert check("test_resnet", 32, files=False)["failed"].startswith("ZeroDivisionError")


def test_files_that_compute_something_else_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    assert check("test_efficientnet", 32, files=True)["broken"] == []
    build = Job.module

    def other(self: Job) -> nn.Module:
        model = build(self)
        with torch.no_grad():
            next(model.parameters()).mul_(next(scales))
        return model

    def unwritten(*_: Any) -> None:
        raise NotImplementedError("no operator unfold. Please ask for it")

    scales = (1.0 + i for i in range(1000))  # written and executed ones differ
    monkeypatch.setattr(Job, "module", other)
    monkeypatch.setattr("nas.exporting.coreml.write_coreml", unwritten)
    coreml, graphs = check("test_efficientnet", 32, files=True)["broken"]
    assert coreml == "Core ML: NotImplementedError: no operator unfold"
    assert graphs.startswith("the network in a table and ")
    assert graphs.endswith(" more: ValueError: computes something else")


def test_of_each_family_the_smallest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("timm.list_modules", lambda: ["resnet", "vgg"])
    assert list(smallest_of_each(20e6)) == ["resnet10t"]
