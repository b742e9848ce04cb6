from __future__ import annotations

from pathlib import Path

import pytest

from nas import train_supernet
from search_spaces import SPACES
from tests.nas.tiny import make_images, make_table, tiny_space


@pytest.fixture
def supernet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run `r` of the tiny space, trained for an epoch, and a table, in a folder of their own."""
    monkeypatch.setitem(SPACES, "tiny", tiny_space)
    monkeypatch.chdir(tmp_path)
    make_images(Path("images"))
    make_table(tiny_space()).save(Path("runs/tables/tiny.json"))
    train = "--space tiny --data images --epochs 1 --batch-size 8 --amp off --search-fraction 0.4 --run r"
    train_supernet.main(train.split())
