from __future__ import annotations

from pathlib import Path

import pytest

from latency_lut.backends.protocol import Settings
from latency_lut.measurement.build import build
from latency_lut.tables.table import LatencyTable
from search_spaces import SearchSpace, get_space
from search_spaces.efficientformerv2 import EfficientFormerV2Space
from tests.latency_lut.fake import FakeMachine


def make_tiny(image_size: int = 32, num_classes: int = 2) -> SearchSpace:
    """12 blocks, quick to export; enough networks to calibrate and validate on."""
    widths = ((8,), (16,), (24,), (32,))
    return EfficientFormerV2Space("tiny", widths, (1, 1, 1, 2), image_size=image_size, num_classes=num_classes)


@pytest.fixture(scope="session")
def tiny() -> SearchSpace:
    return make_tiny()


@pytest.fixture(scope="session")
def nano() -> SearchSpace:
    return get_space("efficientformerv2-nano")


@pytest.fixture(scope="session")
def table_file(tmp_path_factory: pytest.TempPathFactory, nano: SearchSpace) -> Path:
    """A table of the nano space from a machine with known costs."""
    machine = FakeMachine()
    out = tmp_path_factory.mktemp("tables") / "nano.json"
    build(nano, machine, Settings(samples=3, min_sample_ms=0.001), out)
    return out


@pytest.fixture(scope="session")
def table(table_file: Path) -> LatencyTable:
    return LatencyTable.load(table_file)
