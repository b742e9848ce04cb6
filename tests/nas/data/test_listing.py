"""Folders and .tar files by the same rules; what is not read is told."""

from __future__ import annotations

import gzip
import os
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nas.data import Data, pixels
from nas.data.listing import Listing, list_folder
from nas.data.tars import list_tar
from search_spaces import UserError
from tests.nas.data.test_splits import load, make_tar
from tests.nas.tiny import make_images


def picture(path: Path, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng((99, seed)).integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(path)


def count(data: Data) -> int:
    return len(data.train) + len(data.search) + len(data.test)


@pytest.fixture(params=["folder", "tar", "tar of a folder"])
def place(request: pytest.FixtureRequest, tmp_path: Path):
    """Makes what lies in `tmp_path / "x"` a data set of that kind."""

    def packed() -> Path:
        if request.param == "folder":
            return tmp_path / "x"
        return make_tar(tmp_path / "x", tmp_path / "x.tar", "." if request.param == "tar" else "photos/x")

    return packed


def add(folder: Path, *paths: str) -> None:
    for i, path in enumerate(paths):
        picture(folder / path, i)


# ---- one set of rules


def test_an_image_beside_the_class_folders_is_no_class(tmp_path, place, capsys) -> None:
    add(make_images(tmp_path / "x"), "overview.png")
    data = load(place())
    assert data.classes == ("blue", "green", "red") and count(data) == 60
    assert "left out 1 beside the class folders (" in (told := capsys.readouterr().err) and "overview.png" in told


def test_a_folder_inside_a_class_is_refused_with_both_remedies(tmp_path, place, capsys) -> None:
    add(make_images(tmp_path / "x"), "red/extra/0.png", "red/extra/1.png")
    with pytest.raises(UserError, match=r"red/extra \(2 images in the first\); give --class-depth 1 if 'red' is"):
        load(place())
    data = load(place(), class_depth=1)
    assert data.classes == ("blue", "green", "red") and count(data) == 62


def test_the_depth_of_classes_is_given_or_follows(tmp_path, place, capsys) -> None:
    for parent, names in (("big", ("cow", "horse")), ("small", ("ant", "bee"))):
        make_images(tmp_path / "x" / parent, per_class=6, classes=names, seed=len(parent))
    with pytest.raises(UserError, match="--class-depth 1 if 'big' is a class"):
        load(place())
    assert load(place(), class_depth=1).classes == ("big", "small")
    assert load(place(), class_depth=2).classes == ("ant", "bee", "cow", "horse")
    with pytest.raises(UserError, match=r"--class-depth 3: no image of .* lies in so many folders"):
        load(place(), class_depth=3)


def test_a_folder_in_every_class_changes_nothing(tmp_path, place) -> None:
    for name in ("cat", "dog"):
        make_images(tmp_path / "x" / name, per_class=10, classes=("images",), seed=len(name) + ord(name[0]))
    assert load(place()).classes == ("cat", "dog")


@pytest.mark.parametrize(
    "system", ["@eaDir", "__MACOSX", ".ipynb_checkpoints", "#recycle", "$RECYCLE.BIN", ".thumbnails"]
)
@pytest.mark.parametrize("where", ["", "red/"])
def test_folders_of_editors_and_network_drives_are_told(tmp_path, place, capsys, system, where) -> None:
    add(make_images(tmp_path / "x"), f"{where}{system}/0.png/THUMB_M.jpg", f"{where}{system}/1.png")
    data = load(place())
    assert data.classes == ("blue", "green", "red") and count(data) == 60
    assert f"{where}{system}/" in capsys.readouterr().err


def test_what_is_no_image_by_its_name_is_told(tmp_path, place, capsys, monkeypatch) -> None:
    """An iPhone's photographs would else be missing without a word, and their class with them."""
    monkeypatch.setattr("nas.data.listing.extensions", lambda: (".png", ".jpg"))
    folder = make_images(tmp_path / "x")
    load(place())
    assert "warning" not in capsys.readouterr().err
    (folder / "phone").mkdir()
    (folder / "empty").mkdir()
    for path in ("phone/1.HEIC", "phone/2.heic", "phone/.DS_Store", "red/a.gif", "red/noname", "red/._0.png"):
        (folder / path).write_bytes(b"")
    assert load(place()).classes == ("blue", "green", "red")
    told = capsys.readouterr().err
    assert told.count("warning") == 1
    assert "left out 2 .heic (phone/1.HEIC, phone/2.heic), 1 hidden (red/._0.png), 1 .gif (red/a.gif)" in told
    assert "1 without extension (red/noname)" in told
    assert "folders without images: empty, phone" in told
    assert "pip install pillow-heif" in told


def test_a_class_of_which_nothing_can_be_read_is_told(tmp_path, place, capsys) -> None:
    folder = make_images(tmp_path / "x")
    for path in (folder / "red").iterdir():
        path.write_bytes(b"no image")
    assert load(place()).classes == ("blue", "green")
    assert "left out classes of which no image can be read: red" in capsys.readouterr().err


def test_links_are_read_as_what_they_lead_to(tmp_path, place, capsys) -> None:
    folder = make_images(tmp_path / "x", classes=("blue", "green"))
    for i in range(5):
        os.link(folder / "blue" / f"{i}.png", folder / "green" / f"hard{i}.png")
        (folder / "blue" / f"soft{i}.png").symlink_to(f"{i}.png")
    (folder / "blue" / "gone.png").symlink_to("nothing.png")
    (folder / "green" / "circle").symlink_to("..")
    data = load(place())
    assert data.classes == ("blue", "green") and count(data) == 50
    told = capsys.readouterr().err
    assert "gone.png" in told and "circle/" in told
    assert "10 of 50 images are copies of others" in told and "5 of them lie in another class" in told


def test_linked_class_folders(tmp_path, place) -> None:
    make_images(tmp_path / "x" / ".pool")
    (tmp_path / "x" / "red").symlink_to(".pool/red")
    (tmp_path / "x" / "blue").symlink_to(".pool/blue")
    data = load(place())
    assert data.classes == ("blue", "red") and count(data) == 40


def test_folder_and_tar_have_one_digest(tmp_path) -> None:
    folder = make_images(tmp_path / "x")
    assert load(folder).splits == load(make_tar(folder, tmp_path / "x.tar", "any/name")).splits


# ---- folders


def test_a_folder_is_listed_in_one_order(tmp_path, monkeypatch) -> None:
    make_images(tmp_path / "x", per_class=3)
    scandir = os.scandir

    class Backwards(list[os.DirEntry[str]]):
        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

    before = list(list_folder(tmp_path / "x").images)
    monkeypatch.setattr(os, "scandir", lambda path: Backwards(sorted(scandir(path), key=lambda e: e.name)[::-1]))
    assert list(list_folder(tmp_path / "x").images) == before == sorted(before)


def test_what_is_no_file_is_told_and_a_closed_folder_refused(tmp_path, monkeypatch) -> None:
    make_images(tmp_path / "x", per_class=3)
    os.mkfifo(tmp_path / "x/red/pipe.png")
    assert list_folder(tmp_path / "x").left_out == {"red/pipe.png": "no files"}

    def closed(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "scandir", closed)
    with pytest.raises(UserError, match=r"cannot open the folder .*x: Permission denied"):
        list_folder(tmp_path / "x")


def test_no_images_and_images_without_folders(tmp_path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty has no images; give"):
        load(tmp_path / "empty")
    for name in ("train", "test"):
        (tmp_path / "empty" / f"{name}.tar").write_bytes(b"")
    with pytest.raises(UserError, match=r"no images, but 2 .tar \(test.tar, train.tar\); give"):
        load(tmp_path / "empty")
    add(tmp_path / "flat", "0.png", "1.png")
    with pytest.raises(UserError, match="has 2 images without a folder; give a folder or"):
        load(tmp_path / "flat")


# ---- .tar files


def member(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def test_a_tar_with_members_that_lead_out_or_come_twice(tmp_path, capsys) -> None:
    folder = make_images(tmp_path / "x", classes=("blue", "green"))
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        tar.add(folder, arcname="/x")
        tar.addfile(member("../out.png", tarfile.REGTYPE))
        tar.addfile(member("x/blue/disk.png", tarfile.SYMTYPE, "/data/disk.png"))
        tar.addfile(member("x/blue/a.png", tarfile.SYMTYPE, "b.png"))
        tar.addfile(member("x/blue/b.png", tarfile.SYMTYPE, "a.png"))
        tar.addfile(member("x/blue/device.png", tarfile.CHRTYPE))
        tar.add(folder / "green/7.png", arcname="./x/blue/0.png")
    listing = list_tar(tmp_path / "x.tar")
    assert len(listing.images) == 40
    assert listing.left_out == {
        "../out.png": "outside the .tar",
        "x/blue/a.png": "links to what the .tar lacks",
        "x/blue/b.png": "links to what the .tar lacks",
        "x/blue/device.png": "no files",
        "x/blue/disk.png": "links to what the .tar lacks",
    }
    start, size = listing.images["x/blue/0.png"] or (0, 0)
    assert (tmp_path / "x.tar").read_bytes()[start : start + size] == (folder / "green/7.png").read_bytes()
    load(tmp_path / "x.tar")
    assert "links to what the .tar lacks (blue/a.png, blue/b.png, …)" in capsys.readouterr().err


def test_tars_in_a_tar_are_folders(tmp_path) -> None:
    folder = make_images(tmp_path / "x")
    with tarfile.open(tmp_path / "outer.tar", "w") as outer:
        for name in ("blue", "green", "red"):
            outer.add(make_tar(folder / name, tmp_path / f"{name}.tar"), arcname=f"set/{name}.tar")
        outer.addfile(member("set/._red.tar", tarfile.REGTYPE))
    assert load(tmp_path / "outer.tar").splits == load(folder).splits


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda whole, at: whole[:at], "has no end, so a part of it may be missing"),
        (lambda whole, at: whole[: at + 200], "has no end, so a part of it may be missing"),
        (lambda whole, at: whole[: at + 600], "it is damaged or no .tar"),
        (lambda whole, at: whole + whole, "goes on behind its end; join .tar files by tar --concatenate"),
        (lambda whole, at: gzip.compress(whole), r"is compressed \(gzip\)"),
        (lambda whole, at: b"", "it is damaged or no .tar"),
        (lambda whole, at: b"x" * 5000, "it is damaged or no .tar"),
    ],
)
def test_a_damaged_tar_is_refused(tmp_path, damage, message) -> None:
    tar = make_tar(make_images(tmp_path / "x"), tmp_path / "x.tar")
    with tarfile.open(tar) as opened:
        at = next(found.offset for found in list(opened)[10:] if found.isreg())
    tar.write_bytes(damage(tar.read_bytes(), at))
    with pytest.raises(UserError, match=message) as caught:
        load(tar)
    assert "\n" not in str(caught.value)


def test_an_archive_beside_its_folders_is_told(tmp_path, capsys) -> None:
    folder = make_images(tmp_path / "x")
    make_tar(folder / "red", folder / "red.tar")
    shutil.make_archive(str(folder / "blue"), "zip", folder / "blue")
    assert count(load(folder)) == 60
    assert "1 .tar (red.tar)" in (told := capsys.readouterr().err) and "1 .zip (blue.zip)" in told


# ---- places


def test_a_folder_of_a_listing() -> None:
    listing = Listing(Path("x"))
    for path in ("a/0.png", "a/b/1.png", "c/2.png", "3.png"):
        listing.add(path)
    assert list(listing.within("a").images) == ["0.png", "b/1.png"]
    assert listing.within("a").within("b").name == "x/a/b"
    assert listing.top_folders() == ["a", "c"] and listing.folders == {"a", "a/b", "c"}
    assert ".png" in pixels.extensions()
