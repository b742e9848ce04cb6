"""The documentation names no command, flag or place that there is not; docs/tutorial.md is run as it stands."""

from __future__ import annotations

import importlib
import importlib.util
import json
import re
import shlex
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from PIL import Image

from latency_lut.backends import litert
from latency_lut.measurement.build import BuildConfig
from latency_lut.measurement.interpreter import NEEDED
from nas import __main__ as listing
from nas.data.batches import eval_transform
from nas.data.pixels import decode
from nas.exporting.export import PACKAGES
from search_spaces.command import Flags
from search_spaces.command.files import read_json
from tests.latency_lut.fake import SizedMachine
from tests.nas.tiny import make_images
from tests.test_pretrained import NAME, weights

ROOT = Path(__file__).parents[1]
TUTORIAL = ROOT / "docs/tutorial.md"
PAGES = [
    ROOT / "README.md",
    *sorted(path for path in (ROOT / "docs").glob("*.md") if not path.name.startswith("results")),
]
MODULES = re.compile(r"(?:\bpython -m|-m --|\bmobile-nas) ((?:nas|latency_lut|search_spaces|scripts)\b.*)")
OTHERS = {"--help", "--nproc-per-node"}  # argparse's, torchrun's
ELLIPSIS = "…"  # stands for what the sentence is not about


def code(page: Path) -> Iterator[str]:
    """Indented lines, without their comments, and code within sentences."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    yield from (line.partition("  #")[0].strip() for line in text.splitlines() if line.startswith("    "))
    yield from (" ".join(span.split()) for span in re.findall(r"`([^`]+)`", text))


def commands(page: Path) -> Iterator[tuple[str, list[str]]]:
    """The modules that the page says to run, and their flags."""
    for match in filter(None, map(MODULES.search, code(page))):
        name, *flags = shlex.split(match[1])
        if flags[-1:] == [ELLIPSIS] and not (len(flags) > 1 and flags[-2].startswith("--")):
            flags.pop()
        if name not in ("nas", "scripts"):
            yield name, flags


COMMANDS = [
    pytest.param(*command, id=f"{page.name}: {shlex.join(command[1])}") for page in PAGES for command in commands(page)
]


class _ParsedError(Exception):
    """The command line has been parsed; nothing has been done."""


@pytest.mark.parametrize(("name", "flags"), COMMANDS)
def test_every_command_line_can_be_parsed(name: str, flags: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """By the command's own parser."""
    spec = importlib.util.find_spec(name)
    assert spec is not None, f"there is no {name}"
    module: Any = importlib.import_module(f"{name}.__main__" if spec.submodule_search_locations else name)
    real = module.parse

    def parse(kind: Any, _: Any, *others: Any) -> None:
        real(kind, flags, *others)
        raise _ParsedError

    monkeypatch.setattr(module, "parse", parse)
    monkeypatch.setattr(sys, "argv", [name, *flags])
    with pytest.raises(_ParsedError):
        module.main()


def test_every_flag_that_is_named_is_one_of_a_command() -> None:
    for module in {*listing.ALL, *(name for page in PAGES for name, _ in commands(page) if name.startswith("scripts"))}:
        importlib.import_module(f"{module}.__main__" if module == "search_spaces" else module)

    def kinds(kind: type[Flags]) -> Iterator[type[Flags]]:
        yield kind
        for each in kind.__subclasses__():
            yield from kinds(each)

    fields = {name for kind in kinds(Flags) for name in kind.__dataclass_fields__}
    known = {f"--{no}{name.rstrip('_').replace('_', '-')}" for name in fields for no in ("", "no-")} | OTHERS
    named = {
        (page.name, flag) for page in PAGES for span in code(page) for flag in re.findall(r"(?<!\S)--[a-z-]+", span)
    }
    assert len(named) > 50 and not [f"{page}: {flag}" for page, flag in sorted(named) if flag not in known]


def test_what_the_first_pages_name_is_installed() -> None:
    """By pip, too, where there is no clone."""
    packaged = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]["find"]["include"]
    for page in PAGES:
        of_clone = {name for name, _ in commands(page) if f"{name.partition('.')[0]}*" not in packaged}
        if page.name in ("README.md", TUTORIAL.name):
            assert not of_clone
        assert not of_clone or "clone" in page.read_text(encoding="utf-8"), f"{page.name} names {of_clone}"


def test_the_environment_of_litert_is_the_same_everywhere() -> None:
    """In what has none yet, too, and with all that --python asks for."""
    named = {package.partition("==")[0] for package in litert.PACKAGES.split()}
    assert {*NEEDED, *PACKAGES} - named == {"numpy", "torch"}, "these come with litert-torch"
    texts = {page.name: page.read_text(encoding="utf-8") for page in LINKED}
    listed = {name: text.count(litert.PACKAGES) for name, text in texts.items() if "litert-torch==" in text}
    assert listed == {"CONTRIBUTING.md": 1, "guide.md": 1, "latency.md": 1}
    assert all(texts[name].count("litert-torch==") == 1 for name in listed)
    assert litert.PACKAGES in litert.INSTALL


def test_every_source_that_is_named_is_there() -> None:
    """By sources and pages, with its folders."""
    folders = ("latency_lut", "nas", "scripts", "search_spaces", "supernet", "tests")
    named = re.compile(rf"(?<!/)\b(?:{'|'.join(folders)})/[\w/]+\.py\b")
    files = [*PAGES, *LINKED, *(file for folder in folders[:-1] for file in (ROOT / folder).rglob("*.py"))]
    missing = {
        (file.name, path)
        for file in files
        for path in named.findall(file.read_text(encoding="utf-8"))
        if not (ROOT / path).exists()
    }
    assert not missing


LINKED = (*(ROOT / name for name in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md")), *ROOT.glob("docs/*.md"))


def targets(page: str) -> list[str]:
    """Where its links and pictures lead, of this repository."""
    text = re.sub(r"```.*?```|`[^`]*`", "", page, flags=re.DOTALL)
    found = re.findall(r"\]\(([^)\s]+)[^)]*\)|(?:href|src)=[\"']([^\"']+)", text)
    return [target for target in map("".join, found) if not re.match(r"[a-z]+:", target)]


def anchors(page: str) -> set[str]:
    """Of its headings, as GitHub makes them; of two that are equal, the second has -1."""
    headings = re.findall(r"^#+ (.+?)\s*$", re.sub(r"```.*?```", "", page, flags=re.DOTALL), re.MULTILINE)
    slugs = [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]
    return {slug + (f"-{n}" if (n := slugs[:i].count(slug)) else "") for i, slug in enumerate(slugs)}


def broken(page: Path) -> Iterator[str]:
    """Its links that lead nowhere."""
    for target in targets(page.read_text(encoding="utf-8")):
        name, _, anchor = target.partition("#")
        there = page.parent / name if name else page
        if not there.exists() or (anchor and anchor not in anchors(there.read_text(encoding="utf-8"))):
            yield target


@pytest.mark.parametrize("page", LINKED, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    assert not list(broken(page))


def test_a_link_that_leads_nowhere_is_found(tmp_path: Path) -> None:
    links = "[x](#a-b) ![p](no.png) [y](b.md#c) [z](https://d.e) `[w](no.md)`"
    (tmp_path / "a.md").write_text(f"# A, *b*\n\n{links}\n## A b\n")
    (tmp_path / "b.md").write_text("## C d\n[v](a.md#a-b-1)[u](a.md#a-b-2)\n")
    assert list(broken(tmp_path / "a.md")) == ["no.png", "b.md#c"]
    assert list(broken(tmp_path / "b.md")) == ["a.md#a-b-2"]


def tutorial_python(photo: Path) -> str:
    """What the tutorial says that an app does, with this photo."""
    (shown,) = re.findall(r"```python\n(.*?)```", TUTORIAL.read_text(encoding="utf-8"), re.DOTALL)
    return str(shown).replace("photo.jpg", str(photo))


def test_the_tutorial_prepares_a_photo_as_training_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a camera that was held upright: it is stored lying on its side."""
    exif, (mean, std) = Image.Exif(), ([0.1, 0.2, 0.3], [0.5, 0.4, 0.3])
    exif[0x0112] = 6
    pixels = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(photo := tmp_path / "photo.jpg", exif=exif)
    facts = {"image_size": "32", "classes": '["cat", "dog"]', "mean": json.dumps(mean), "std": json.dumps(std)}
    session = Mock()
    session.get_modelmeta.return_value.custom_metadata_map = facts
    session.run.return_value = [np.array([[0.0, 1.0]])]
    monkeypatch.setattr("onnxruntime.InferenceSession", lambda _: session)
    exec(compile(tutorial_python(photo), TUTORIAL.name, "exec"), names := dict[str, Any]())
    trained = np.asarray(eval_transform(32)(decode(photo.read_bytes())), np.float32).transpose(1, 2, 0) / 255
    wanted = ((trained - np.array(mean)) / np.array(std)).transpose(2, 0, 1)[None]
    assert np.allclose(session.run.call_args.args[1]["images"], wanted, atol=1e-4)
    assert names["answer"] == "dog"


@pytest.mark.heavy
def test_the_tutorial_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of its commands, then its Python, on images and a network that train in seconds."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(BuildConfig, "make_backend", lambda _: SizedMachine())
    monkeypatch.setattr("nas.proving.search.backend_of", lambda _: SizedMachine())
    monkeypatch.setattr("nas.pruning.job.make_backend", lambda *_: SizedMachine())
    make_images(Path("photos"))
    weights(Path("weights.safetensors"))
    typed = [shlex.split(line)[2:] for line in code(TUTORIAL) if line.startswith("python -m ")]
    assert 5 < len(typed) < 10, "ten commands or fewer, the installation among them"
    for name, *flags in typed:
        stand_in = [NAME, "--init", "weights.safetensors"]  # the weights of others are downloaded
        flags = [word for flag in flags for word in (stand_in if flag == "tf_efficientnet_lite0" else [flag])]
        importlib.import_module(name).main(flags)
    shown, names = tutorial_python(next(Path("photos").rglob("*.png"))), dict[str, Any]()
    exec(compile(shown, TUTORIAL.name, "exec"), names)
    (winner,) = {
        path.parent.name for path in Path("runs/mine/export").glob("*/model.onnx") if path.parent.name in shown
    }
    assert names["answer"] in read_json(Path("runs/mine/run.json"))["classes"]
    assert (Path("runs/mine/export") / winner / "model.mlpackage").exists() and Path("runs/mine/report.html").exists()
