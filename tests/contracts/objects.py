"""What training networks that find objects must do, from a few small pictures to a page, and what it refuses."""

from __future__ import annotations

import json
import re
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from safetensors.torch import load_file

from nas.runs.metrics import read_metrics
from search_spaces import UserError
from search_spaces.command.files import read_json, write_json
from tests.nas.scenes.folders import NAMES, write_coco
from tests.nas.tiny import interrupt_at


class ObjectsContract(ABC):
    """Inherit, and give the command.

    Attributes:
        main: of the command `nas.stage`.
        flags: that train run `r` on `images` for two epochs, in batches of 4.
        files: its class that writes files, which take seconds and have tests of their own.
        outputs: of these files.
        subject: what its figures are of, in messages.
        page: parts of it; `pictures` images are in it.
    """

    stage: ClassVar[str]
    main: ClassVar[Callable[[list[str]], None]]
    flags: ClassVar[tuple[str, ...]]
    files: ClassVar[type]
    outputs: ClassVar[tuple[str, ...]]
    subject: ClassVar[str]
    page: ClassVar[tuple[str, ...]]
    pictures: ClassVar[int]

    @classmethod
    @abstractmethod
    def coco(cls) -> dict[str, Any]:
        """Of 24 pictures with two objects each."""

    @classmethod
    def figures(cls, found: dict[str, Any]) -> list[dict[str, Any]]:
        """All average precisions in those of a split."""
        return [found]

    @classmethod
    def written(cls) -> dict[str, Any]:
        """What is said of files that are not written."""
        return {"onnx": {"file": "model.onnx", "bytes": 1e6, "differences": dict.fromkeys(cls.outputs, 1e-5)}}

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def _no_files(cls) -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(cls.files, "write", lambda *_: (cls.written(), {}))
            yield

    @pytest.fixture(scope="class")
    @classmethod
    def trained(cls, _no_files: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
        """A folder with `images` and a finished run `r`, whose average of weights is that of the last steps."""
        folder = tmp_path_factory.mktemp(cls.stage)
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            write_coco(Path("images"), cls.coco())
            cls.main([*cls.flags])
        return folder

    @pytest.fixture
    def here(self, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """A copy of it, in which the test runs."""
        shutil.copytree(trained, tmp_path / "copy", ignore=shutil.ignore_patterns(".lock"))
        monkeypatch.chdir(tmp_path / "copy")
        return Path("runs/r") / self.stage

    def test_a_run_has_figures_weights_events_and_a_page(self, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
        result = read_json(here / "result.json")
        assert result["classes"] == list(NAMES) and result["num_images"] == {"train": 14, "search": 5, "test": 5}
        assert result["files"] == self.written() and result["epochs"] == 2
        for of in (of for split in ("search", "test") for of in self.figures(result[split])):
            assert 0 <= of["ap"] <= of["ap50"] <= 1 and of["num_objects"] == 10 and len(of["per_class"]) == 2
        lines = read_metrics(here / "metrics.jsonl")
        assert [line["step"] for line in lines] == [3, 6] and all("ap" in line for line in lines)
        assert list((here / "tensorboard").glob("events*"))
        page = (here / "report.html").read_text()
        assert page.count("data:image/jpeg;base64") == self.pictures and all(part in page for part in self.page)
        type(self).main(["--resume", "--run", "r", "--threads", "2"])
        assert "is trained" in capsys.readouterr().out and read_json(here / "result.json")["test"] == result["test"]

    def test_two_halves_are_one_whole(self, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Also where the network that it began with is gone: the checkpoint has its weights."""
        monkeypatch.chdir(tmp_path)
        shutil.copytree(trained / "images", "images")
        interrupt_at(monkeypatch, 4, type(self).main, *self.flags)
        assert not Path("runs/r", self.stage, "result.json").exists()
        monkeypatch.setattr("nas.dense.job.find_start", lambda *_: pytest.fail("it is asked for"))
        type(self).main(["--resume"])
        weights = Path("runs/r", self.stage, "model.safetensors")
        halves, whole = (load_file(folder / weights) for folder in (tmp_path, trained))
        assert halves.keys() == whole.keys() and all(torch.equal(halves[name], whole[name]) for name in whole)

    @pytest.mark.parametrize(
        ("name", "damage", "message"),
        [
            ("result.json", lambda path: path.write_text("{"), r"result.json"),
            ("result.json", lambda path: put(path, "test", {"ap": 2}), r"has no figures of SUBJECT \(.*restore it"),
            ("result.json", lambda path: put(path, "classes", ["cat"]), r"."),
            ("model.safetensors", lambda path: path.write_bytes(path.read_bytes()[:2000]), r"model.safetensors"),
        ],
    )
    def test_damaged_files_are_named(self, name: str, damage: Any, message: str, here: Path) -> None:
        damage(here / name)
        with pytest.raises(UserError, match=message.replace("SUBJECT", self.subject)) as caught:
            type(self).main(["--resume"])
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize(
        ("flags", "message"),
        [
            (("--batch-size", "99"), r"^--batch-size 99 is more than the 14 training images; lower it$"),
            (("--formats", "tflite"), r"--formats"),
            (("--run", "r"), r"^runs/r/\w+ exists; go on with it by --resume, or make another with --run$"),
        ],
    )
    def test_what_no_command_can_is_refused(self, flags: tuple[str, ...], message: str, here: Path) -> None:
        self.refuses(flags, message)

    def refuses(self, flags: tuple[str, ...], message: str) -> None:
        """In one line, before anything is written."""
        with pytest.raises(UserError, match=message) as caught:
            type(self).main([*self.flags, "--run", "new", *flags])
        assert "\n" not in str(caught.value) and not Path("runs/new").exists()

    def test_names_in_a_page_are_text(self, here: Path) -> None:
        evil = "<script>alert(1)</script>"
        put(here / "result.json", "classes", [evil, "dog"])
        put(here / "result.json", "command", evil)
        type(self).main(["--resume", "--run", "r"])
        page = (here / "report.html").read_text()
        assert evil not in page and "&lt;script&gt;alert(1)" in page and not re.search(r"<(img|a)[^>]*onerror", page)


def put(path: Path, name: str, value: Any) -> None:
    write_json(path, {**read_json(path), name: value})


def edited(change: Callable[[dict[str, Any]], Any]) -> None:
    """The annotations of `images` are others."""
    path = Path("images/annotations.json")
    coco = json.loads(path.read_text())
    change(coco)
    path.write_text(json.dumps(coco))
