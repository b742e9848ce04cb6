"""A family in a file of its own goes all the way, and nothing else of the project knows it."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from latency_lut import build
from latency_lut.measurement.build import BuildConfig
from latency_lut.profiling import profile
from nas import export, report, retrain, search, train_supernet
from scripts.ablations import depth_and_width
from search_spaces import SPACES, SearchSpace, UserError, get_space, space_names
from search_spaces.command.files import read_json
from tests.contracts.space import SpaceContract
from tests.contracts.supernet import SupernetContract
from tests.latency_lut.fake import FakeMachine
from tests.nas.tiny import make_images
from tests.toy_family import ToySpace

ARGS = ("--epochs", "1", "--batch-size", "8", "--lr", "0.3", "--amp", "off")


@pytest.fixture(autouse=True)
def _installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The family as a package of its own, as pip leaves one: a module, and an entry point that names it."""
    site = tmp_path / "site"
    (site / "toy_family-1.0.dist-info").mkdir(parents=True)
    shutil.copy(Path(__file__).with_name("toy_family.py"), site)
    (site / "toy_family-1.0.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: toy-family\nVersion: 1.0\n")
    (site / "toy_family-1.0.dist-info/entry_points.txt").write_text("[search_spaces]\ntoy = toy_family:ToySpace\n")
    monkeypatch.syspath_prepend(site)
    monkeypatch.chdir(tmp_path)


def test_a_new_family_goes_from_images_to_a_report(monkeypatch: pytest.MonkeyPatch) -> None:
    make_images(Path("images"))
    train_supernet.main(["--space", "toy", "--data", "images", *ARGS, "--run", "r"])
    monkeypatch.setattr(BuildConfig, "make_backend", lambda _: FakeMachine())
    build.main(["--space", "toy", "--samples", "3"])
    search.main(["--winners", "2"])
    retrain.main(["--winners", "winner-1", *ARGS])
    export.main(["--formats", "onnx", "timm"])
    report.main(["--run", "r"])
    page = Path("runs/r/report.html").read_text(encoding="utf-8")
    exported = read_json(Path("runs/r/export/winner-1/result.json"))

    space, found = get_space("toy"), read_json(Path("runs/r/search/result.json"))
    assert {p["action"]["choice"].split(".")[0] for p in found["trajectory"][1:]} == {"filters", "kept", "ratio"}
    assert (
        exported["files"]["timm"]["max_abs_diff"] == 0
        and "search_spaces" not in Path("runs/r/export/winner-1/model.py").read_text()
    )
    assert exported["files"]["onnx"]["same_class"] == 1
    drawn = re.findall(r'class="block kind\d"[^>]*><title>\w+: ([\w ]+),', page)
    networks = [*(space.from_json(winner["arch"]) for winner in found["winners"]), space.largest]
    assert drawn == [block.kind.replace("_", " ") for arch in networks for block in space.lower(arch)]
    assert 'aria-label="channels 16; bottle neck 2"' in page


class TestToyFamily(SpaceContract, SupernetContract):
    """The contract itself knows no family."""

    @classmethod
    def make_space(cls) -> SearchSpace:
        return ToySpace()

    make_tiny = make_space


def test_a_family_is_imported_by_itself_and_the_list_of_spaces_alone() -> None:
    root = Path(__file__).parent.parent
    for family in {make.__module__.split(".")[1] for make in SPACES.values()}:
        importing = re.compile(rf"^\s*(from|import) search_spaces\.{family}\b", re.MULTILINE)
        folders = (f"search_spaces/{family}", "search_spaces/structure/families/")
        own = (
            *folders,
            "search_spaces/__init__.py",
            "scripts/published/",
        )  # the last: papers' tables, each of a family
        files = [
            f
            for folder in ("search_spaces", "supernet", "latency_lut", "nas", "scripts")
            for f in (root / folder).rglob("*.py")
        ]
        found = [str(f.relative_to(root)) for f in files if importing.search(f.read_text(encoding="utf-8"))]
        assert "search_spaces/__init__.py" in found
        assert [name for name in found if not name.startswith(own)] == []


def test_studies_of_a_space_know_what_it_can_leave_out() -> None:
    space = get_space("toy")
    assert {kinds: len(archs) for kinds, archs in profile.optional_kinds(space).items()} == {("bottle_neck",): 3}
    assert depth_and_width(space) == ("filters", "kept")


def test_spaces_of_installed_packages_are_listed_and_offered() -> None:
    assert space_names()[-1] == "toy"
    with pytest.raises(UserError, match=r"no space 'tow'; choose from .*, toy, or timm/NAME"):
        get_space("tow")
