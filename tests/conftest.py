"""One thread for each test process, so that parallel workers do not fight and results repeat; seeds for each test."""

from __future__ import annotations

import gc
import os
import random
from collections.abc import Iterator

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported, and for the processes that tests start

import numpy as np
import pytest
import torch

pytest.register_assert_rewrite("tests.contracts")

# Autograd counts devices at its first backward pass. After an export, which pretends that there are GPUs, it would
# start a thread for each, and then no process that a test forks can train.
torch.ones(1, requires_grad=True).sum().backward()


@pytest.fixture(autouse=True, scope="session")
def _cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """One for all workers of a run of the tests, and none of the user's."""
    base = tmp_path_factory.getbasetemp()
    os.environ["XDG_CACHE_HOME"] = str((base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base) / "cache")


def pytest_collection_finish() -> None:
    """What importing and collecting have made stays: collections of garbage, as before each measurement, skip it."""
    gc.freeze()


def pytest_sessionfinish() -> None:
    gc.unfreeze()  # or libraries report what the process ends with as leaks


@pytest.fixture(autouse=True, scope="session")
def _no_power_failure() -> Iterator[None]:
    """Nothing that a test writes must outlive one, and a shared disk makes each of thousands of flushes slow."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield


@pytest.fixture(autouse=True)
def _seeds() -> None:
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002
    torch.manual_seed(0)
