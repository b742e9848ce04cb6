from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from nas import train_supernet
from search_spaces import SPACES
from tests.nas.tiny import make_images, make_table, tiny_space


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run `r` of the tiny space, trained for an epoch, and a table, in a folder of their own."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SPACES, "tiny", tiny_space)
        patch.chdir(folder)
        make_images(Path("images"))
        make_table(tiny_space()).save(Path("runs/tables/tiny.json"))
        train = "--space tiny --data images --epochs 1 --batch-size 8 --amp off --search-fraction 0.4 --run r"
        train_supernet.main(train.split())
    return folder


@pytest.fixture
def supernet(tmp_path: Path, trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy of what was trained, in which the test runs."""
    monkeypatch.setitem(SPACES, "tiny", tiny_space)
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
