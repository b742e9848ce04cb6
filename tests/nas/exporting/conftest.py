"""The digits, a small network of them, and ONNX files of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from nas import runs
from nas.data import Data, DataConfig, load_data
from nas.exporting import files
from nas.exporting.export import export_files
from nas.exporting.files import FileConfig
from tests.nas.exporting.small import SIZE, Network


@pytest.fixture(scope="session")
def data() -> Data:
    return load_data(DataConfig())


@pytest.fixture(scope="session")
def network(data: Data) -> Network:
    half = (0.5, 0.5, 0.5)
    return Network(runs.ClassesRun("net", SIZE, 10, data.classes, half, half, DataConfig(), data.splits))


@pytest.fixture(scope="session")
def exported(network: Network, data: Data, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A folder with the network as ONNX in every precision, and what is known of its files."""
    folder = tmp_path_factory.mktemp("export")
    precision: Any = ("float32", "float16", "int8")
    config = FileConfig(formats=("onnx",), precision=precision, max_drop=100, calibration_images=32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "measure_file", lambda path, backend: (0.5, 0.6, False))
        patch.setattr(files, "peak_memory", lambda path, backend: 2_500_000)
        return folder, export_files(network, folder, config, data, {})["files"]
