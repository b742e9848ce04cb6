"""LiteRT and ExecuTorch files: made and run where the packages are; elsewhere the line that names what is missing."""

from __future__ import annotations

import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch

from latency_lut.backends.base import Session
from latency_lut.backends.executorch import ExecuTorchBackend
from nas.data import Data
from nas.exporting import files, mobile
from nas.exporting.files import Exporter, FileConfig
from nas.exporting.matrix import Cell, Precision, cells
from nas.exporting.mobile import Mobile, answers
from nas.exporting.parity import example_images, normalized_first
from search_spaces import UserError
from tests.latency_lut.fake import SizedMachine
from tests.nas.exporting.small import SIZE, Network

PACKAGE: dict[Mobile, str] = {"litert": "litert_torch", "executorch": "executorch"}
CELLS = cells(get_args(Mobile), get_args(Precision))[0]
TOLERANCE = {"float32": 1e-4, "float16": 0.01, "int8": 0.2}  # of the spread of the logits


def config(cell: Cell) -> FileConfig:
    return FileConfig(formats=(cell.format,), precision=(cell.precision,), calibration_images=32, max_drop=100)


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.name)
def test_a_missing_package_is_named_and_how_to_install_it(
    cell: Cell, network: Network, data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cell.format in PACKAGE
    for module in (*PACKAGE.values(), "ai_edge_litert"):
        monkeypatch.setitem(sys.modules, module, None)
    found = Exporter(network, tmp_path, config(cell), data).write()
    assert not found["files"]
    line = found["failed"][cell.name]
    assert f"{PACKAGE[cell.format]} is not installed; pip install {cell.format}" in line
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.name)
def test_a_file_answers_as_the_network_in_its_precision(
    cell: Cell, network: Network, data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cell.format in PACKAGE
    if find_spec(PACKAGE[cell.format]) is None:
        pytest.skip(f"{PACKAGE[cell.format]} is not installed")
    monkeypatch.setattr(files, "measure_file", lambda path, backend: (0.5, 0.6, False))
    monkeypatch.setattr(files, "peak_memory", lambda path, backend: 2_500_000)
    found = Exporter(network, tmp_path, config(cell), data).write()
    assert not found["failed"]
    facts = found["files"][cell.name]
    assert facts["test_images"] == len(data.test) and 0 <= facts["test_accuracy"] <= 1
    assert facts["bytes"] == (tmp_path / cell.file).stat().st_size
    images = example_images(8, SIZE)
    wanted = normalized_first(network.model(), network.info)(images).detach().numpy()
    got: Any = answers(cell.format, tmp_path / cell.file, network.info)(images)
    error = np.abs(got - wanted).max() / np.ptp(wanted)
    assert error < TOLERANCE[cell.precision]
    assert cell.precision == "float32" or error > 1e-5, "the precision that is asked for"


def test_files_are_checked_and_tried_with_the_threads_that_they_are_timed_with(
    network: Network, data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ExecuTorch's runtime, of one number of threads in a process, is replaced by PyTorch."""
    pools = set[int]()

    def answering(backend: ExecuTorchBackend, path: Path) -> Any:
        pools.add(backend.threads)
        return lambda images: network.model()(torch.from_numpy(images)).detach().numpy()

    def timed(path: Path, backend: ExecuTorchBackend) -> tuple[float, float, bool]:
        pools.add(backend.threads)
        return 0.5, 0.6, False

    monkeypatch.setattr(ExecuTorchBackend, "export", lambda backend, job, path: path.write_bytes(b"program"))
    monkeypatch.setattr(ExecuTorchBackend, "answering", answering)
    monkeypatch.setattr(ExecuTorchBackend, "load", lambda *_: Session(lambda _: None))
    monkeypatch.setattr(ExecuTorchBackend, "describe", lambda _: SizedMachine().describe())
    monkeypatch.setattr(files, "measure_file", timed)
    monkeypatch.setattr(files, "peak_memory", lambda path, backend: None)
    some = replace(data, test=data.test.spread(8))
    found = Exporter(network, tmp_path, FileConfig(formats=("executorch",), threads=4), some).write()
    assert not found["failed"] and pools == {4}
    assert found["files"]["executorch"]["latency_ms"]["threads"] == 4


def test_numbers_beyond_float16_are_named(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    def overflowing(*_: Any) -> Any:
        return lambda images: np.full((len(images), network.info.num_classes), np.inf, np.float32)

    monkeypatch.setattr(mobile, "answers", overflowing)
    with pytest.raises(UserError, match=r"differ from PyTorch's by inf, .* activations or weights are beyond float16"):
        mobile.check_mobile("executorch", Path(), network, "float16")
    assert mobile.check_mobile("executorch", Path(), network, "int8").max_abs_diff == np.inf
