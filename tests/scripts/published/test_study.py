"""A table of a paper trained again, on a space that trains in seconds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from nas.training.trainer import Trainer
from scripts.published import study
from scripts.published.__main__ import main
from scripts.published.arms import TABLES, Arm, Table
from search_spaces import UserError
from search_spaces.command.files import read_json
from tests.nas.tiny import QuickSpace, make_images

STUDY = Path("runs/studies/toy-images")
ARGS = ("toy", "--data", "images", "--image-size", "16", "--epochs", "1", "--batch-size", "8", "--amp", "off")


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def rows(image_size: int, num_classes: int) -> Iterator[Arm]:
        space = QuickSpace(image_size, num_classes)
        yield Arm("large", 80.0, space, space.largest)
        yield Arm("small", 75.5, space, space.smallest, {"lr": 0.5})

    monkeypatch.setitem(TABLES, "toy", Table("Sizes", "nobody, Table 0", rows))
    monkeypatch.chdir(tmp_path)
    make_images(Path("images"))


def test_rows_stand_beside_the_papers(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    main([*ARGS, "--seeds", "2"])
    found = read_json(STUDY / "result.json")
    large, small = found["rows"]
    assert [len(row["test_accuracies"]) for row in (large, small)] == [2, 2]
    said = capsys.readouterr().out
    assert "Sizes: nobody, Table 0. Here: images at 16 px, 1 epochs, 2 seeds, 12 test images" in said
    line = next(line for line in said.splitlines() if line.startswith("small"))
    assert " 75.5 " in line and " -4.5 " in line
    gain = 50 * (sum(small["test_accuracies"]) - sum(large["test_accuracies"]))
    assert f"{gain:+.2f}" in line
    assert "| small | 75.5 |" in (STUDY / "table.md").read_text(encoding="utf-8")

    monkeypatch.setattr(Trainer, "fit", lambda *_: pytest.fail("trains again"))
    main(["toy", "--data", "images", "--seeds", "2"])  # all else as it was begun
    again = read_json(STUDY / "result.json")
    assert again["rows"] == found["rows"]


def test_a_killed_study_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    main(ARGS)
    whole = read_json(STUDY / "result.json")["rows"]
    fit, count = Trainer.fit, 0

    def killed(self: Trainer, description: str) -> None:
        nonlocal count
        count += 1
        if count == 2:
            raise KeyboardInterrupt
        fit(self, description)

    monkeypatch.setattr(Trainer, "fit", killed)
    with pytest.raises(KeyboardInterrupt):
        main([*ARGS, "--folder", "again"])
    monkeypatch.setattr(Trainer, "fit", fit)
    main([*ARGS, "--folder", "again"])
    rows = read_json(Path("runs/studies/again/result.json"))["rows"]
    assert [row["test_accuracies"] for row in rows] == [row["test_accuracies"] for row in whole]


def test_a_folder_is_of_one_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of several tables have the same labels."""
    main([*ARGS, "--folder", "mine"])
    monkeypatch.setitem(TABLES, "toy-too", TABLES["toy"])
    with pytest.raises(
        UserError, match=r"resume runs/studies/mine with other settings: table was 'toy', now 'toy-too'$"
    ):
        main(["toy-too", *ARGS[1:], "--folder", "mine"])


def test_settings_of_a_row_give_way_to_flags() -> None:
    config = study.configure(study.Config(table="toy", data="images", image_size=16))
    large, small = TABLES["toy"].arms(16, 3)
    assert study._settings(config, small, 3).lr == 0.5 != study._settings(config, large, 3).lr
    assert study._settings(config, small, 3).seed == 3
    given = study.configure(study.Config(table="toy", data="images", image_size=16, lr=0.25))
    assert study._settings(given, small, 0).lr == 0.25


def test_a_table_that_there_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match=r"there is no table 'toys'; choose from .*mobilevit-tiny, toy"):
        main(["toys"])
    main([])
    assert "MobileOne, Table 7" in capsys.readouterr().out
