"""Runs of the tiny space that several files begin with, made once for all processes: copy them, change the copy."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

from nas import search, train_supernet
from search_spaces import SPACES, SearchSpace
from tests.nas.sent_files import make_workplace
from tests.nas.tiny import PUBLISHED, QuickSpace, make_images, tiny_space

TRAIN = ("--space", "tiny", "--data", "images", "--epochs", "2", "--batch-size", "8", "--lr", "0.3", "--amp", "off")
SPLITS = ("--search-fraction", "0.4", "--ema-decay", "0.9", "--clip-grad", "0")


def train(folder: Path, space: Callable[..., SearchSpace]) -> None:
    """Makes `images` there, and `runs/r`, in which a supernet of the space is trained."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SPACES, "tiny", space)
        patch.chdir(folder)
        make_images(Path("images"))
        train_supernet.main([*TRAIN, *SPLITS, *PUBLISHED, "--run", "r"])


def search_in(folder: Path, space: Callable[..., SearchSpace]) -> None:
    """A search by size takes its first steps in the folder's run, and picks two winners."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SPACES, "tiny", space)
        patch.chdir(folder)
        search.main(["--metrics", "size", "--strategy", "slimming", "--budget", "20", "--winners", "2"])


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """The folder that this fills, by whichever of the test processes needs it first."""
    base = factory.getbasetemp()
    folder = (base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base) / name
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            (unfinished := folder.with_suffix(".unfinished")).mkdir()
            make(unfinished)
            unfinished.rename(folder)
    return folder


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `images`, and `runs/r`, in which a supernet of the tiny space is trained."""
    return made_once(tmp_path_factory, "trained", lambda folder: train(folder, tiny_space))


@pytest.fixture(scope="session")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same of the quick space, and a search."""

    def make(folder: Path) -> None:
        train(folder, QuickSpace)
        search_in(folder, QuickSpace)

    return made_once(tmp_path_factory, "searched", make)


@pytest.fixture(scope="session")
def workplace(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which every command has been used, on the tiny space: its networks can be pruned.

    Each process has its own, since tests damage its files and put them right again.
    """

    def make(folder: Path) -> None:
        begun = tmp_path_factory.mktemp("begun")
        shutil.copytree(trained, begun, dirs_exist_ok=True)
        search_in(begun, tiny_space)
        make_workplace(folder, begun)

    mine = tmp_path_factory.mktemp("workplace")
    return shutil.copytree(made_once(tmp_path_factory, "workplace", make), mine, dirs_exist_ok=True)
