"""Runs of the tiny space that several files begin with, made once for each test process: copy them, change the copy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

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


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `images`, and `runs/r`, in which a supernet of the tiny space is trained."""
    train(folder := tmp_path_factory.mktemp("trained"), tiny_space)
    return folder


@pytest.fixture(scope="session")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same of the quick space, and a search by size has taken its first steps and picked two winners."""
    train(folder := tmp_path_factory.mktemp("searched"), QuickSpace)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SPACES, "tiny", QuickSpace)
        patch.chdir(folder)
        search.main(["--metrics", "size", "--budget", "20", "--winners", "2"])
    return folder


@pytest.fixture(scope="session")
def workplace(searched: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which every command has been used."""
    folder = tmp_path_factory.mktemp("workplace")
    make_workplace(folder, searched)
    return folder
